"""SessionOptions and RunOptions: what the application sets in them, recorded where the native objects do not tell.

The native objects stay what they are and go on checking what they are given; their attributes can be read, but what
their methods were called with can not, so those are wrapped.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches

# Attributes of SessionOptions and RunOptions, as far as a version has them. Enumerations go by their names.
SESSION_ATTRIBUTES = (
    "enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "enable_profiling", "execution_mode",
    "execution_order", "graph_optimization_level", "inter_op_num_threads", "intra_op_num_threads",
    "log_severity_level", "log_verbosity_level", "logid", "optimized_model_filepath", "profile_file_prefix",
    "use_deterministic_compute", "use_per_session_threads",
)  # fmt: skip
RUN_ATTRIBUTES = ("log_severity_level", "log_verbosity_level", "logid", "only_execute_path_to_fetches", "terminate")

# Methods whose arguments are code or files of this machine, or which choose among its devices.
REFUSED = {
    "register_custom_ops_library": "a library of custom operators is this machine's code",
    "set_ep_context_data_read_func": "a callback cannot be called from a destination",
    "set_load_cancellation_flag": "a load at a destination cannot be cancelled",
    "set_provider_selection_policy": "the destination chooses the execution provider",
    "set_provider_selection_policy_delegate": "the destination chooses the execution provider",
}


@dataclass(slots=True)
class Recorded:
    """What methods of one native options object were called with."""

    entries: dict[str, str] = field(default_factory=dict)
    dimensions_by_name: dict[str, int] = field(default_factory=dict)
    dimensions_by_denotation: dict[str, int] = field(default_factory=dict)
    initializers: list[tuple[str, Any, bool]] = field(default_factory=list)  # name, OrtValue, external
    memory_files: list[tuple[str, bytes]] = field(default_factory=list)
    providers: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    adapters: list[Any] = field(default_factory=list)  # native LoraAdapters


_recorded: weakref.WeakKeyDictionary[Any, Recorded] = weakref.WeakKeyDictionary()
_adapter_files: weakref.WeakKeyDictionary[Any, Path] = weakref.WeakKeyDictionary()


def recorded(options: Any) -> Recorded:
    """What was recorded of a native options object."""
    found = _recorded.get(options)
    if found is None:
        found = _recorded[options] = Recorded()
    return found


def adapter_file(adapter: Any) -> Path:
    """The file that a LoraAdapter was loaded from."""
    found = _adapter_files.get(adapter)
    if found is None:
        raise UnsupportedOperation("a LoraAdapter that was loaded before AVEC stood under onnxruntime; load it again")
    return found


def record_options(patches: Patches, native: Any) -> None:
    """Wrap the methods of SessionOptions, RunOptions and LoraAdapter, as far as this version has them."""
    for name, note in _SESSION_METHODS.items():
        _wrap(patches, native.SessionOptions, name, note)
    for name, reason in REFUSED.items():
        if hasattr(native.SessionOptions, name):
            patches.replace(native.SessionOptions, name, _refusal(name, reason))
    for name in ("add_provider", "add_provider_for_devices"):  # they would ask this machine for a GPU
        if hasattr(native.SessionOptions, name):
            patches.replace(native.SessionOptions, name, lambda original, name=name: _PROVIDER_METHODS[name])
    if hasattr(native.SessionOptions, "has_providers"):
        patches.replace(
            native.SessionOptions,
            "has_providers",
            lambda original: lambda self: bool(recorded(self).providers) or original(self),
        )
    _wrap(patches, native.RunOptions, "add_run_config_entry", _note_entry)
    _wrap(patches, native.RunOptions, "add_active_adapter", lambda record, adapter: record.adapters.append(adapter))
    if hasattr(native, "LoraAdapter"):
        patches.replace(native.LoraAdapter, "Load", _loading)


def attributes(options: Any, defaults: Any, names: Sequence[str]) -> dict[str, bool | int | str]:
    """The attributes that differ from their defaults."""
    found: dict[str, bool | int | str] = {}
    for name in names:
        if not hasattr(options, name):
            continue
        value, default = getattr(options, name), getattr(defaults, name)
        if value != default:
            found[name] = value if isinstance(value, bool | int | str) else value.name
    return found


def _wrap(patches: Patches, owner: Any, name: str, note: Callable[..., None]) -> None:
    if not hasattr(owner, name):
        return

    def make(original: Callable[..., object]) -> Callable[..., object]:
        @wraps(original, assigned=("__doc__", "__name__"), updated=())
        def method(self: Any, *args: Any, **kwargs: Any) -> object:
            answered = original(self, *args, **kwargs)  # refuses what is wrong in its own words
            note(recorded(self), *args, **kwargs)
            return answered

        return method

    patches.replace(owner, name, make)


def _refusal(name: str, reason: str) -> Callable[[object], Callable[..., object]]:
    def make(original: object) -> Callable[..., object]:
        def method(self: object, *args: object, **kwargs: object) -> object:
            raise UnsupportedOperation(f"SessionOptions.{name} cannot be forwarded: {reason}; leave it out under AVEC")

        return method

    return make


def _note_entry(record: Recorded, key: str, value: str) -> None:
    record.entries[key] = value


def _note_initializer(record: Recorded, name: str, value: Any) -> None:
    record.initializers.append((name, value, False))


def _note_external(record: Recorded, names: Sequence[str], values: Sequence[Any]) -> None:
    record.initializers += [(name, value, True) for name, value in zip(names, values, strict=True)]


def _note_memory_files(record: Recorded, names: Sequence[str], buffers: Sequence[bytes], *lengths: object) -> None:
    record.memory_files += [(name, bytes(buffer)) for name, buffer in zip(names, buffers, strict=True)]


def _note_dimension(record: Recorded, name: str, size: int) -> None:
    record.dimensions_by_name[name] = size


def _note_denotation(record: Recorded, name: str, size: int) -> None:
    record.dimensions_by_denotation[name] = size


_SESSION_METHODS: dict[str, Callable[..., None]] = {
    "add_session_config_entry": _note_entry,
    "add_free_dimension_override_by_name": _note_dimension,
    "add_free_dimension_override_by_denotation": _note_denotation,
    "add_initializer": _note_initializer,
    "add_external_initializers": _note_external,
    "add_external_initializers_from_files_in_memory": _note_memory_files,
}


def _add_provider(self: Any, name: str, options: dict[str, str]) -> None:
    recorded(self).providers.append((name, {str(key): str(value) for key, value in options.items()}))


def _add_provider_for_devices(self: Any, devices: Sequence[Any], options: dict[str, str]) -> None:
    for device in devices:
        _add_provider(self, device.ep_name, options)


_PROVIDER_METHODS: dict[str, Callable[..., None]] = {
    "add_provider": _add_provider,
    "add_provider_for_devices": _add_provider_for_devices,
}


def _loading(original: Callable[..., object]) -> Callable[..., object]:
    def load(self: Any, path: str | os.PathLike[str]) -> object:
        answered = original(self, path)
        _adapter_files[self] = Path(path)
        return answered

    return load
