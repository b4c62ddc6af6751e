"""SessionOptions and RunOptions as they go to a destination."""

from __future__ import annotations

import os
import weakref
from typing import Any

from avec import config
from avec.host.models import provide
from avec.protocol.onnx import MODEL, Initializer, LoadAdapter, Options, RunSettings
from avec.protocol.onnx_values import Packer

from . import contents
from .library import library
from .model_files import FOLDER_ENTRY
from .options import RUN_ATTRIBUTES, SESSION_ATTRIBUTES, adapter_file, attributes, recorded
from .space import Space

PROFILE_PREFIX, OPTIMIZED_MODEL = "profile_file_prefix", "optimized_model_filepath"

# LoraAdapter → the space that it was sent to, and its number there.
_adapters: weakref.WeakKeyDictionary[Any, tuple[Space, int]] = weakref.WeakKeyDictionary()


def session_options(options: Any, packer: Packer, space: Space) -> Options:
    """What the application set in its SessionOptions; files that the engine writes go by their bare names."""
    record = recorded(options)
    chosen = attributes(options, library().native.SessionOptions(), SESSION_ATTRIBUTES)
    for name in (PROFILE_PREFIX, OPTIMIZED_MODEL):
        if name in chosen:
            chosen[name] = os.path.basename(str(chosen[name]))
    return Options(
        attributes=chosen,
        entries=dict(record.entries),
        dimensions_by_name=dict(record.dimensions_by_name),
        dimensions_by_denotation=dict(record.dimensions_by_denotation),
        initializers=tuple(
            Initializer(name, contents.pack_value(_native(value), packer, space), external)
            for name, value, external in record.initializers
        ),
        memory_files=tuple((name, packer.pack_bytes(data)) for name, data in record.memory_files),
    )


def folder_of_side_files(options: Any) -> str:
    """The folder that the application named for a model's side files; empty: none."""
    return recorded(options).entries.get(FOLDER_ENTRY, "")


def optimized_model(options: Any) -> str:
    """Where the application wants the optimized model."""
    return str(options.optimized_model_filepath)


def run_settings(options: Any, space: Space) -> RunSettings | None:
    """What the application set in its RunOptions; None where it gave none."""
    if options is None:
        return None
    record = recorded(options)
    return RunSettings(
        attributes=attributes(options, library().native.RunOptions(), RUN_ATTRIBUTES),
        entries=dict(record.entries),
        adapters=tuple(_adapter(each, space) for each in record.adapters),
    )


def _native(value: Any) -> Any:
    """The native OrtValue in one of the Python class."""
    return getattr(value, "_ortvalue", value)


def _adapter(adapter: Any, space: Space) -> int:
    """The number of a LoraAdapter at the destination, where it is sent once."""
    known = _adapters.get(adapter)
    if known is not None and known[0] is space:
        return known[1]
    digest = provide(space.session, adapter_file(adapter), config.load())
    number = space.new_value()
    space.run("load_adapter", LoadAdapter(value=number), files={MODEL: digest}).answer()
    _adapters[adapter] = (space, number)
    weakref.finalize(adapter, space.drop, number).atexit = False
    return number
