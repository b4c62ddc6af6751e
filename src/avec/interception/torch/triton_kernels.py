"""Triton on a host without a GPU: kernels that the program launches are launched at the destination.

Needs the program's own `triton` package, which Linux alone has; it is patched when it is imported. Not here: what of a
kernel is sent (`triton_sources`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.host.calls import pass_over
from avec.interception.patching import Patches
from avec.protocol.torch import Arg, FloatArg, IntArg, ListArg, LoadKernel, Template, TensorArg
from avec.protocol.torch_triton import ELEMENT_TYPE, TUPLE

from .templates import meta_of
from .triton_sources import kernel_of

if TYPE_CHECKING:
    from .recording import Recording

_NUMBER_MASK = (1 << 64) - 1
_IGNORED = frozenset({"grid", "warmup", "debug", "stream", "device", "device_type"})
_WARP = 32  # threads

_patches = Patches()
recordings: list[Recording] = []  # none or one
_numbers = itertools.count(1)
_sent: dict[int, tuple[object, object, int]] = {}  # by a function's id: itself, the session that has it, its number


def patch(module: ModuleType) -> None:
    """Stand in for the launching of kernels, and for Triton's driver of the GPU."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    if module.__file__ is not None:
        pass_over(os.path.dirname(module.__file__) + os.sep)
    _patches.replace(JITFunction, "run", _running)
    _patches.replace(driver, "_active", lambda original: _driver())


def unpatch(module: ModuleType) -> None:
    """Undo `patch`."""
    _patches.restore()
    _sent.clear()


def _running(original: object) -> Callable[..., None]:
    def run(self: Any, *args: object, grid: Any, warmup: bool, **kwargs: object) -> None:
        if warmup:
            raise UnsupportedOperation(
                f"compiling the Triton kernel {self.__name__} without launching it: that is the destination's to do"
            )
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        _launch(recordings[0], self, grid, args, kwargs)

    return run


def _launch(
    recording: Recording, function: Any, grid: Any, args: Sequence[object], kwargs: Mapping[str, object]
) -> None:
    """Record one launch."""
    names = [parameter.name for parameter in function.params]
    bound = function.signature.bind(*args, **{name: each for name, each in kwargs.items() if name in names})
    bound.apply_defaults()
    sizes = tuple(grid(dict(bound.arguments)) if callable(grid) else grid)
    if not 1 <= len(sizes) <= 3:
        raise InvalidArgument(f"a grid of {len(sizes)} dimensions for {function.__name__}; it may have one to three")
    described = _Described(function.__name__)
    described.numbers += [int(size) for size in (*sizes, 1, 1)[:3]]
    values = ListArg(
        tuple(
            described.constant(bound.arguments[parameter.name])
            if parameter.is_constexpr
            else described.argument(bound.arguments[parameter.name])
            for parameter in function.params
        )
    )
    options = [
        part
        for name, each in sorted(kwargs.items())
        if name not in names and name not in _IGNORED
        for part in (name, described.constant(each))
    ]
    with recording.lock:
        number = _number_of(recording, function)
        grid_args = (IntArg(0), IntArg(1), IntArg(2))
        template = Template(
            "avec::launch_kernel",
            (number, *grid_args, values, ListArg(tuple(options))),
            {},
            len(described.numbers),
            len(described.floats),
        )
        recording.mark()
        recording.record(recording.template(template), described.numbers, described.floats)


def _number_of(recording: Recording, function: Any) -> int:
    """The number of a kernel at the destination, to which it is sent if need be."""
    known = _sent.get(id(function))
    if known is not None and known[1] is recording.session:
        return known[2]
    number = next(_numbers)
    encoded = np.frombuffer(msgspec.msgpack.encode(kernel_of(function)), np.uint8)
    recording.request(LoadKernel(0, number), (encoded,))
    _sent[id(function)] = (function, recording.session, number)
    return number


class _Described:
    """The arguments of a launch on their way into a template."""

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel
        self.numbers: list[int] = []
        self.floats: list[float] = []

    def argument(self, value: object) -> Arg:
        """Describe an argument whose value may be another with each launch."""
        match value:
            case torch.Tensor() if value.is_cuda:
                self.numbers.append(value.data_ptr())
                return TensorArg(len(self.numbers) - 1, meta_of(value))
            case torch.Tensor():
                raise ValueError(
                    f"Pointer argument of {self._kernel} cannot be accessed from Triton ({value.device} tensor?)"
                )
            case bool() | None:
                return value
            case int():
                self.numbers.append(value & _NUMBER_MASK)
                return IntArg(len(self.numbers) - 1)
            case float():
                self.floats.append(value)
                return FloatArg(len(self.floats) - 1)
            case tuple():
                return ListArg((TUPLE, *(self.argument(each) for each in value)))
        return self.constant(value)

    def constant(self, value: object) -> Arg:
        """Describe an argument that the kernel is compiled for."""
        import triton.language as tl

        match value:
            case None | bool() | int() | float() | str():
                return value
            case tl.constexpr():
                return self.constant(value.value)
            case tl.dtype():
                return ListArg((ELEMENT_TYPE, str(value)))
            case tuple():
                return ListArg((TUPLE, *(self.constant(each) for each in value)))
        raise UnsupportedOperation(
            f"an argument of type {type(value).__name__} for the Triton kernel {self._kernel}: tensors, numbers, texts,"
            " element types and tuples of these are sent to a destination"
        )


def _driver() -> object:
    """What Triton asks about the GPU: answered by torch.cuda, which answers for the destination's."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class Driver(DriverBase):  # type: ignore[misc]
        """The driver of accelerators at a destination. Source: triton.backends.driver.GPUDriver."""

        def __init__(self) -> None:
            self.utils = SimpleNamespace(get_device_properties=_properties)

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            raise UnsupportedOperation("Triton's C++ types on a host: kernels are compiled at the destination")

        def get_current_device(self) -> int:
            return torch.cuda.current_device()

        def set_current_device(self, device: int) -> None:
            torch.cuda.set_device(device)

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

        def get_device_capability(self, device: int | None = None) -> tuple[int, int]:
            return torch.cuda.get_device_capability(device)

        def get_current_target(self) -> Any:
            major, minor = torch.cuda.get_device_capability()
            return GPUTarget("cuda", major * 10 + minor, _WARP)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", torch.cuda.current_device())

        def get_device_interface(self) -> ModuleType:
            return torch.cuda

        def get_benchmarker(self) -> Callable[..., Any]:
            from triton.testing import do_bench

            benchmarker: Callable[..., Any] = do_bench
            return benchmarker

        def get_empty_cache_for_benchmark(self) -> torch.Tensor:
            # As large as a GPU's cache, so that one run finds nothing of the run before in it.
            return torch.empty(256 << 18, dtype=torch.int32, device="cuda")

        def clear_cache(self, cache: torch.Tensor) -> None:
            cache.zero_()

    return Driver()


def _properties(device: int) -> dict[str, int]:
    found = torch.cuda.get_device_properties(device)
    return {
        "multiprocessor_count": found.multi_processor_count,
        "max_shared_mem": getattr(found, "shared_memory_per_block_optin", 0),
        "max_num_regs": getattr(found, "regs_per_multiprocessor", 0),
        "warpSize": getattr(found, "warp_size", _WARP) or _WARP,
        "sm_clock_rate": getattr(found, "clock_rate", 0),
        "mem_clock_rate": getattr(found, "memory_clock_rate", 0),
        "mem_bus_width": getattr(found, "memory_bus_width", 0),
    }
