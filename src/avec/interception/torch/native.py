"""The kernels in C++, which do without the interpreter what those in Python do for a call that was seen before.

`avec build` compiles them for the torch that is installed; where that was not done, the kernels in Python do all.
Each stands on the Python kernel of its operator on torch's dispatch key, learns from it what a new call gives, and
leaves to it whatever is out of the ordinary. Not here: how they are compiled (`building`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

import torch

from avec.config import Settings
from avec.errors import ConfigurationError
from avec.protocol.torch import FIRST_ADDRESS

from . import building
from .kernels import Entry, Kernels
from .recording import BATCH_NUMBERS, CUTTING
from .schemas import BOOKKEEPING, NUMBERS_AS_TENSORS, Kind, Operator, kind_of

# Of the operators that are special in Python those whose usual calls can be learned.
LEARNED = ("copy_", "empty.memory_format", "empty_strided")
_ATEN = "aten::"
_modules: dict[Path, Any] = {}  # a process can load one once


def load(settings: Settings) -> Any:
    """The compiled module, or None where there is none or it is not wanted.

    Raises:
        ConfigurationError: it is required and not there, or it cannot be loaded.
    """
    if settings.torch_native == "off":
        return None
    path = building.library_path(settings.cache_dir, str(torch.__version__))
    if path not in _modules:
        if not path.exists():
            if settings.torch_native == "required":
                raise ConfigurationError(
                    f"AVEC_TORCH_NATIVE=required, but AVEC's kernels in C++ are not built for torch {torch.__version__}"
                    f" ({path} is not there); run `avec build`, or set it to auto"
                )
            return None
        loader = ExtensionFileLoader(building.MODULE, str(path))
        spec = importlib.util.spec_from_file_location(building.MODULE, path, loader=loader)
        assert spec is not None
        try:
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
        except ImportError as exc:
            raise ConfigurationError(
                f"AVEC's kernels in C++ cannot be loaded from {path}: {exc}; remove that file and run `avec build`, or"
                " set AVEC_TORCH_NATIVE=off"
            ) from exc
        _modules[path] = module
    return _modules[path]


@dataclass(frozen=True, slots=True)
class Described:
    """What a kernel in C++ has to know of its operator."""

    kinds: tuple[Kind, ...]  # of its arguments
    returned: tuple[int, ...] | None  # the arguments that it returns, when it makes no results
    is_view: bool
    is_learned: bool  # whether calls can be known by what they look like
    keeps_floats: bool
    takes_numbers: bool


def described(name: str) -> Described:
    """Describe an operator, "add.Tensor"."""
    operator = Operator.named(name)
    returned = None
    if operator.returned is not None:
        names = [each.name for each in operator.arguments]
        returned = tuple(names.index(operator.argument(where).name) for where in operator.returned)
    return Described(
        tuple(kind_of(each) for each in operator.arguments),
        returned,
        operator.is_view or operator.base in BOOKKEEPING,
        not operator.dynamic,
        operator.keeps_floats,
        operator.base in NUMBERS_AS_TENSORS,
    )


class NativeKernels:
    """The kernels in C++ on the dispatch key, over those in Python."""

    def __init__(self, module: Any, kernels: Kernels, names: Iterable[str]) -> None:
        """Put them there; the Python kernels of these operators have to be there already."""
        recording = kernels.recording
        self._kernels = kernels
        self._native = module.Kernels(
            recording.stream, FIRST_ADDRESS, BATCH_NUMBERS, CUTTING, described, kernels.arena.take, recording.flush,
            recording.record_marked,
        )  # fmt: skip
        for name in names:
            self._native.stand_on(name)
        recording.forgetting.append(self._native.clear)
        kernels.teach = self._teach

    def leave(self) -> None:
        """Take them away."""
        self._native.leave()

    def _teach(self, operator: str, entry: Entry) -> None:
        if operator.startswith(_ATEN):
            self._native.learn(operator.removeprefix(_ATEN), entry.template, entry.marked, entry.layouts, entry.plain)
