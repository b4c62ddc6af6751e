"""SessionOptions and RunOptions as the engine takes them, made of what a host asked for.

A host may ask for what changes how a model computes, never for files or addresses of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avec.destination.executors.onnx.contents import Contents
from avec.destination.executors.onnx.engine import OnnxRuntime, engine_raises
from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.onnx import LoadSession, RunSettings
from avec.protocol.onnx_values import bytes_of
from avec.tensor import Array

# Attribute → the enumeration that its values are names of, or None. Source: onnxruntime's SessionOptions.
SESSION_ATTRIBUTES: dict[str, str | None] = {
    "enable_cpu_mem_arena": None, "enable_mem_pattern": None, "enable_mem_reuse": None,
    "execution_mode": "ExecutionMode", "execution_order": "ExecutionOrder",
    "graph_optimization_level": "GraphOptimizationLevel", "inter_op_num_threads": None, "intra_op_num_threads": None,
    "log_severity_level": None, "log_verbosity_level": None, "logid": None, "use_deterministic_compute": None,
    "use_per_session_threads": None,
}  # fmt: skip
# These name files; the host gets what is in them.
PROFILING, PROFILE_PREFIX, OPTIMIZED_MODEL = "enable_profiling", "profile_file_prefix", "optimized_model_filepath"
RUN_ATTRIBUTES = frozenset(
    {"log_severity_level", "log_verbosity_level", "logid", "only_execute_path_to_fetches", "terminate"}
)
FORMAT_ENTRY = "session.load_model_format"
FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
OPTIMIZED_FILE_ENTRY = "session.optimized_model_external_initializers_file_name"
UNSYNCHRONIZED_ENTRY = "disable_synchronize_execution_providers"
_FOREIGN_ENTRIES = re.compile(r"file|folder|path|library|^ep\.", re.IGNORECASE)  # about this machine's files and code
THREADS_LIMIT = 4 * (os.cpu_count() or 1)  # more would only take the others' time


@dataclass(slots=True)
class SessionOptions:
    """Native options, the memory that they point to, and the folder that the engine writes files into."""

    native: Any
    memory: list[object] = field(default_factory=list)
    folder: Path | None = None
    optimized: Path | None = None
    profiling: bool = False

    def close(self) -> None:
        """Remove the folder. A profile that is being written stays open, without a name."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def written_folder(self) -> Path:
        """The folder for what the engine writes, made when it is needed."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="avec-onnx-"))
        return self.folder


def session_options(
    engine: OnnxRuntime, contents: Contents, request: LoadSession, parts: Sequence[Array], folder: Path | None
) -> SessionOptions:
    """Make the options for a session.

    Args:
        folder: where the model's side files are.

    Raises:
        UnsupportedOperation: an option is about files or code of this machine, or needs a newer onnxruntime here.
        EngineRaised: the engine refuses a value.
    """
    made = SessionOptions(engine.native.SessionOptions())
    try:
        _fill(engine, made, contents, request, parts, folder)
    except BaseException:
        made.close()
        raise
    return made


def _fill(
    engine: OnnxRuntime,
    made: SessionOptions,
    contents: Contents,
    request: LoadSession,
    parts: Sequence[Array],
    folder: Path | None,
) -> None:
    asked = request.options
    attributes = dict(asked.attributes)
    with engine_raises():
        _set_files(made, attributes)
        _set_attributes(engine, made.native, attributes)
        _set_entries(made.native, asked.entries, request, folder)
        for name, size in asked.dimensions_by_name.items():
            made.native.add_free_dimension_override_by_name(name, size)
        for name, size in asked.dimensions_by_denotation.items():
            made.native.add_free_dimension_override_by_denotation(name, size)
    _add_initializers(engine, made, contents, request, parts)


def run_options(engine: OnnxRuntime, settings: RunSettings | None, adapters: Mapping[int, object]) -> Any:
    """Make the options for a run; None where the application gave none."""
    if settings is None:
        return None
    made = engine.native.RunOptions()
    with engine_raises():
        for name, value in settings.attributes.items():
            if name not in RUN_ATTRIBUTES:
                raise UnsupportedOperation(f"the run option {name!r} is not known at this destination")
            setattr(made, name, value)
        for key, entry in settings.entries.items():
            if key == UNSYNCHRONIZED_ENTRY:
                continue  # what is sent back, and the memory that was received into, need a run that has ended
            made.add_run_config_entry(key, entry)
        for number in settings.adapters:
            if number not in adapters:
                raise InvalidArgument(f"adapter {number} names nothing in this session")
            made.add_active_adapter(adapters[number])
    return made


def _set_files(made: SessionOptions, attributes: dict[str, bool | int | str]) -> None:
    """Let the engine write into a folder of this session's, under the names that the host gave."""
    prefix = str(attributes.pop(PROFILE_PREFIX, "onnxruntime_profile_"))
    if attributes.pop(PROFILING, False):
        made.native.profile_file_prefix = str(made.written_folder() / _name(prefix))
        made.native.enable_profiling = made.profiling = True
    if optimized := attributes.pop(OPTIMIZED_MODEL, ""):
        made.optimized = made.written_folder() / _name(str(optimized))
        made.native.optimized_model_filepath = str(made.optimized)


def _name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidArgument(f"{name[:80]!r} is no name of a file")
    return name


def _set_attributes(engine: OnnxRuntime, native: Any, attributes: Mapping[str, bool | int | str]) -> None:
    for name, value in attributes.items():
        if name not in SESSION_ATTRIBUTES or not hasattr(native, name):
            raise UnsupportedOperation(
                f"the session option {name!r} is not known to onnxruntime {engine.description.version}, which this"
                " destination has; leave it at its default"
            )
        enumeration = SESSION_ATTRIBUTES[name]
        if enumeration is not None:
            value = _member(getattr(engine.native, enumeration), name, value)
        elif name.endswith("num_threads"):
            value = min(int(value), THREADS_LIMIT)
        setattr(native, name, value)


def _member(enumeration: Any, name: str, value: object) -> Any:
    members = enumeration.__members__
    if value not in members:
        raise UnsupportedOperation(f"{name} {value!r} is not known at this destination; it has {', '.join(members)}")
    return members[value]


def _set_entries(native: Any, entries: Mapping[str, str], request: LoadSession, folder: Path | None) -> None:
    for key, value in entries.items():
        if key == FOLDER_ENTRY:
            continue  # it names a folder of the host's
        if _FOREIGN_ENTRIES.search(key):
            raise UnsupportedOperation(f"the session config entry {key!r} cannot be forwarded to a destination")
        native.add_session_config_entry(key, value)
    if FOLDER_ENTRY in entries and folder is not None:
        native.add_session_config_entry(FOLDER_ENTRY, str(folder))
    if request.source.endswith(".ort") and FORMAT_ENTRY not in entries:
        native.add_session_config_entry(FORMAT_ENTRY, "ORT")  # onnxruntime knows it by the file's name


def _add_initializers(
    engine: OnnxRuntime, made: SessionOptions, contents: Contents, request: LoadSession, parts: Sequence[Array]
) -> None:
    external: dict[str, Any] = {}
    for each in request.options.initializers:
        stored = contents.stored(each.value, parts, "cpu")
        made.memory.append(stored)
        value = engine.module.OrtValue(stored.ort_value)  # these methods want the Python class
        if each.external:
            external[each.name] = value
            continue
        with engine_raises():
            made.native.add_initializer(each.name, value)
    with engine_raises():
        if external:
            made.native.add_external_initializers(list(external), list(external.values()))
        if files := request.options.memory_files:
            buffers = [bytes_of(parts, part).tobytes() for _, part in files]
            made.memory.append(buffers)
            made.native.add_external_initializers_from_files_in_memory(
                [name for name, _ in files], buffers, [len(buffer) for buffer in buffers]
            )
