"""Kernels that hosts have written in Triton: their sources made functions of Triton's again, and launched.

They are code of the host's that runs here, unchecked: on a GPU they read and write wherever they like. Therefore the
destination has to allow them. Beside a GPU they are compiled; on a CPU Triton's interpreter carries them out, slowly.
"""

from __future__ import annotations

import contextlib
import importlib
import linecache
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import msgspec
import torch

from avec import config
from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.torch_triton import (
    ELEMENT_TYPE,
    MODULES,
    TUPLE,
    ConstantGlobal,
    ElementTypeGlobal,
    Function,
    FunctionGlobal,
    Global,
    Kernel,
    MemberGlobal,
    ModuleGlobal,
    TupleGlobal,
)
from avec.tensor import Array

LIMIT = 1 << 12  # kernels of one session

_KERNELS = msgspec.msgpack.Decoder(Kernel)


class TritonKernels:
    """A session's kernels by the host's numbers."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        if not cuda and config.load().allow_triton:
            os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by Inductor perhaps
        self._kernels: dict[int, Kernel] = {}
        self._made: dict[int, Any] = {}

    def load(self, number: int, encoded: Array) -> None:
        """Take a kernel in; nothing of it is executed yet.

        Raises:
            InvalidArgument: it cannot be understood.
        """
        if number in self._kernels or len(self._kernels) >= LIMIT:
            raise InvalidArgument(f"kernel {number} beside {len(self._kernels)} others; {LIMIT} are the limit")
        try:
            self._kernels[number] = _KERNELS.decode(encoded.tobytes())
        except msgspec.MsgspecError as exc:
            raise InvalidArgument(f"kernel {number} cannot be understood: {exc}") from exc

    def launch(self, number: object, grid: Sequence[object], arguments: object, options: object) -> None:
        """Launch a kernel.

        Raises:
            UnsupportedOperation: this destination allows no kernels of hosts, or has no Triton.
        """
        kernel = self._kernels.get(number) if isinstance(number, int) else None
        if kernel is None or not isinstance(number, int):
            raise InvalidArgument(f"there is no kernel {number!r}")
        if number not in self._made:
            self._made[number] = _Maker(kernel, self._triton(kernel), self._cuda).made(0)
        if not isinstance(arguments, list) or not isinstance(options, list) or len(options) % 2:
            raise InvalidArgument(f"kernel {number} with {arguments!r} and {options!r}, which have to be lists")
        values = [_value(each) for each in arguments]
        named = {str(name): _value(value) for name, value in zip(options[::2], options[1::2], strict=True)}
        tensor = next((each for each in values if isinstance(each, torch.Tensor)), None)
        with torch.cuda.device_of(tensor) if self._cuda else contextlib.nullcontext():  # type: ignore[no-untyped-call]
            self._made[number][tuple(grid)](*values, **named)

    def close(self) -> None:
        """Forget all."""
        self._kernels.clear()
        self._made.clear()

    @staticmethod
    def _triton(kernel: Kernel) -> ModuleType:
        name = kernel.functions[0].name if kernel.functions else ""
        if not config.load().allow_triton:
            raise UnsupportedOperation(
                f"the Triton kernel {name!r}: this destination runs no kernels of hosts, because they are code that"
                " nothing checks; start it with `avec serve --allow-triton` if you trust its hosts"
            )
        try:
            return importlib.import_module("triton")
        except ImportError as exc:
            raise UnsupportedOperation(
                f"the Triton kernel {name!r}: the destination has no Triton ({exc}); install the package there"
            ) from exc


class _Maker:
    """Makes the functions of one kernel, each in a namespace of its own."""

    def __init__(self, kernel: Kernel, triton: ModuleType, cuda: bool) -> None:
        self._kernel = kernel
        self._triton: Any = triton
        self._cuda = cuda
        self._made: dict[int, Any] = {}
        self._begun: set[int] = set()

    def made(self, place: int) -> Any:
        """A function as triton.jit gives it."""
        if place in self._made:
            return self._made[place]
        if place in self._begun or not 0 <= place < len(self._kernel.functions):
            raise InvalidArgument(
                f"function {place} of a kernel that has {len(self._kernel.functions)}, or in a circle"
            )
        self._begun.add(place)
        function = self._kernel.functions[place]
        names = {name: self._global(value) for name, value in function.names.items()}
        self._made[place] = self._decorated(function, _executed(function, names))
        return self._made[place]

    def _decorated(self, function: Function, plain: Callable[..., Any]) -> Any:
        if function.kind == "constexpr":
            return self._triton.constexpr_function(plain)
        return self._triton.jit(
            plain,
            noinline=function.noinline or None,
            do_not_specialize=list(function.do_not_specialize),
            do_not_specialize_on_alignment=list(function.do_not_specialize_on_alignment),
        )

    def _global(self, value: Global) -> Any:
        match value:
            case FunctionGlobal(place=place):
                return self.made(place)
            case ModuleGlobal(name=name):
                return _module(name)
            case MemberGlobal(module=module, name=name):
                return getattr(_module(module), name)
            case ElementTypeGlobal(name=name):
                return _element_type(name)
            case ConstantGlobal(value=constant):
                return self._triton.language.constexpr(constant)
            case TupleGlobal(items=items):
                return tuple(self._global(item) for item in items)
            case _:
                return value


def _executed(function: Function, names: dict[str, Any]) -> Callable[..., Any]:
    """Execute a function's source; Triton reads it again, by the name of its file."""
    if not function.name.isidentifier():
        raise InvalidArgument(f"a function cannot have the name {function.name!r}")
    file = f"<kernel {function.name} {hash(function.source):x}>"
    linecache.cache[file] = (len(function.source), None, function.source.splitlines(keepends=True), file)
    # Triton's interpreter looks for the module itself among a function's globals.
    language = importlib.import_module("triton.language")
    namespace = {"triton_language": language, **names, "__name__": "avec.kernels"}
    exec(compile(function.source, file, "exec"), namespace)
    made = namespace.get(function.name)
    if not callable(made):
        raise InvalidArgument(f"a source in which there is no function {function.name}")
    return made  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    if name.partition(".")[0] not in MODULES:
        raise InvalidArgument(f"a kernel that uses the module {name!r}; it may use {', '.join(MODULES)}")
    return importlib.import_module(name)


def _element_type(name: object) -> Any:
    return importlib.import_module("triton.language").dtype(name)


def _value(value: object) -> object:
    """An argument from its form on the wire."""
    if not isinstance(value, list):
        return value
    match value:
        case ["tuple", *items]:
            return tuple(_value(item) for item in items)
        case ["dtype", str() as name]:
            return _element_type(name)
    raise InvalidArgument(f"an argument {value!r}, which is neither a {TUPLE!r} nor a {ELEMENT_TYPE!r}")
