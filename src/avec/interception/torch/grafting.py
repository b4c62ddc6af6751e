"""torch's CUDA device guard and hooks on a host without a GPU, for CPU builds and CUDA builds alike.

Autograd, device guards and many composite operators ask two C++ objects about CUDA: the guard (current device, streams)
and the hooks (is there CUDA, which cuDNN, pinned memory). For a CUDA without devices c10 has a guard of its own, which
keeps a current device per thread in native code; it stands here, with the destination's number of devices, and with one
stream per device, because a session is one order of operators. The hooks get some functions in Python. All that is a
copy of a vtable with other functions in it, grafted onto an object; `Graft.restore` gives back what was there. Builds
for which a check fails are refused, with torch untouched. Not here: torch.cuda.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch

from avec.errors import AvecError, InvalidArgument, UnsupportedOperation

from .headers import ClassLayout, Mismatch, read_layout
from .pinning import PinnedAllocator
from .vtables import WORD, Libraries, Vtable, first_function, read_word, symbol_address, write_word

_MACHINES = ("x86_64", "aarch64")
_CPU, _CUDA = 0, 1  # c10::DeviceType
_GUARD_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_CPU_GUARD_CLASS = "N3c104impl19NoOpDeviceGuardImplILNS_10DeviceTypeE0EEE"
_CUDA_GUARD_CLASS = "N3c104impl13FakeGuardImplILNS_10DeviceTypeE1EEE"
_GET_HOOKS = "_ZN2at6detail12getCUDAHooksEv"
_HOOKS_CLASS = "N2at18CUDAHooksInterfaceE"
_CUDA_HOOKS_CLASS = "N2at4cuda6detail9CUDAHooksE"  # in CUDA builds
_HOOKS_VTABLE = "_ZTV" + _HOOKS_CLASS

# Functions of the guard that c10's own cannot answer → those of its functions that can.
_GUARD_FUNCTIONS = {
    "getDefaultStream": "getStream",
    "getStreamFromGlobalPool": "getStream",
    "getNewStream": "getStream",
}
# Functions of the hooks → what stands in their place: native functions that return 1 or 0 or do nothing, or methods of
# _Callbacks.
_HOOKS_FUNCTIONS = {
    "isBuilt": "one",
    "isAvailable": "one",
    "hasCUDA": "one",
    "hasMAGMA": "one",
    "hasCuSOLVER": "one",
    "hasCuBLASLt": "one",
    "hasPrimaryContext": "one",
    "init": "nothing",
    "deviceCount": "device_count",
    "getNumGPUs": "gpu_count",
    "current_device": "get_index",
    "getCurrentDevice": "get_index",
    "setCurrentDevice": "set_index",
    "exchangeDevice": "exchange_index",
    "maybeExchangeDevice": "exchange_index",
    "getPinnedMemoryAllocator": "pinned_allocator",
    "hasCuDNN": "has_cudnn",
    "compiledWithCuDNN": "has_cudnn",
    "supportsDilatedConvolutionWithCuDNN": "has_cudnn",
    "supportsDepthwiseConvolutionWithCuDNN": "has_cudnn",
    "supportsBFloat16ConvolutionWithCuDNNv8": "has_cudnn",
    "supportsBFloat16RNNWithCuDNN": "has_cudnn",
    "versionCuDNN": "cudnn_version",
    "versionRuntimeCuDNN": "cudnn_version",
    "batchnormMinEpsilonCuDNN": "cudnn_epsilon",
    "cuFFTGetPlanCacheMaxSize": "plan_cache_max_size",
    "cuFFTSetPlanCacheMaxSize": "set_plan_cache_max_size",
    "cuFFTGetPlanCacheSize": "zero",
    "cuFFTClearPlanCache": "nothing",
}
_PLAN_CACHE_SIZE = 4096  # Source: torch's CUFFT_DEFAULT_CACHE_SIZE

_Native: TypeAlias = "ctypes._CFunctionType"
Native: TypeAlias = Callable[[Callable[[], int]], Mapping[str, int]]

# torch keeps pointers into what is grafted (an allocator in storages, the guard in threads), even after `restore`.
_kept: list[object] = []


class Graft:
    """AVEC's guard and hooks while they stand in for torch's own. Thread-safe."""

    def __init__(self, guard: _Guard, undo: list[Callable[[], None]]) -> None:
        """Made by `graft`."""
        self._guard = guard
        self._undo = undo
        self.device_limit = guard.device_limit  # torch can serve no more devices than this

    @property
    def current_device(self) -> int:
        """This thread's current device. Setting it checks only what torch itself could not bear."""
        return self._guard.index()

    @current_device.setter
    def current_device(self, index: int) -> None:
        if not 0 <= index < self.device_limit:
            raise InvalidArgument(
                f"there is no cuda:{index}; torch serves {self.device_limit} devices of a destination"
            )
        self._guard.set_index(index)

    def restore(self) -> None:
        """Give torch its own guard and hooks back. Harmless if done already."""
        while self._undo:
            self._undo.pop()()


class _Guard:
    """The CUDA guard, called from Python as torch calls it. A Device is {int8 type, int8 index} in a register."""

    def __init__(self, this: int, vtable: Vtable, layout: ClassLayout) -> None:
        self._this = this
        device, pointer = ctypes.c_uint16, ctypes.c_void_p
        find = {name: vtable.function(layout.slot(name)) for name in ("getDevice", "uncheckedSetDevice", "getStream")}
        # Native functions that return at once: the interpreter's lock can stay.
        self._get = ctypes.PYFUNCTYPE(device, pointer)(find["getDevice"])
        self._set = ctypes.PYFUNCTYPE(None, pointer, device)(find["uncheckedSetDevice"])
        self._stream = ctypes.PYFUNCTYPE(device, pointer, device)(find["getStream"])
        count = ctypes.PYFUNCTYPE(ctypes.c_int8, pointer)(vtable.function(layout.slot("deviceCount")))
        self.device_limit: int = count(this)

    def device(self) -> int:
        """The current device: type and index."""
        device: int = self._get(self._this)
        return device

    def index(self) -> int:
        return self.device() >> 8

    def set_index(self, index: int) -> None:
        self._set(self._this, _CUDA | index << 8)

    def stream_device(self, index: int) -> int:
        """The device of the stream that is current on a device."""
        device: int = self._stream(self._this, _CUDA | index << 8)
        return device


class _Callbacks:
    """Functions in Python in slots of the hooks: what only the destination knows, and what is seldom asked.

    A callback cannot raise into torch. Where the destination cannot be asked, the answers are those for one device
    without cuDNN; the next operator finds the same destination missing, and raises.
    """

    def __init__(
        self, device_count: Callable[[], int], cudnn_version: Callable[[], int], guard: _Guard, pinned: PinnedAllocator
    ) -> None:
        self._ask_device_count = device_count
        self._ask_cudnn_version = cudnn_version
        self._guard = guard
        self._pinned = pinned
        self._plan_cache_sizes: dict[int, int] = {}

    def native(self) -> dict[str, _Native]:
        """The methods as native functions, each of which has `this` first."""
        this, index, size = ctypes.c_void_p, ctypes.c_int8, ctypes.c_int64
        return {
            "device_count": ctypes.CFUNCTYPE(index, this)(self.device_count),
            "gpu_count": ctypes.CFUNCTYPE(ctypes.c_int, this)(self.device_count),
            "get_index": ctypes.CFUNCTYPE(index, this)(self.get_index),
            "set_index": ctypes.CFUNCTYPE(None, this, index)(self.set_index),
            "exchange_index": ctypes.CFUNCTYPE(index, this, index)(self.exchange_index),
            "pinned_allocator": ctypes.CFUNCTYPE(ctypes.c_size_t, this)(self.pinned_allocator),
            "has_cudnn": ctypes.CFUNCTYPE(ctypes.c_bool, this)(self.has_cudnn),
            "cudnn_version": ctypes.CFUNCTYPE(ctypes.c_long, this)(self.cudnn_version),
            "cudnn_epsilon": ctypes.CFUNCTYPE(ctypes.c_double, this)(self.cudnn_epsilon),
            "plan_cache_max_size": ctypes.CFUNCTYPE(size, this, index)(self.plan_cache_max_size),
            "set_plan_cache_max_size": ctypes.CFUNCTYPE(None, this, index, size)(self.set_plan_cache_max_size),
        }

    def device_count(self, this: int) -> int:
        try:
            return min(self._ask_device_count(), self._guard.device_limit)
        except AvecError:
            return 1

    def get_index(self, this: int) -> int:
        return self._guard.index()

    def set_index(self, this: int, index: int) -> None:
        if 0 <= index < self._guard.device_limit:
            self._guard.set_index(index)

    def exchange_index(self, this: int, index: int) -> int:
        before = self._guard.index()
        self.set_index(this, index)
        return before

    def pinned_allocator(self, this: int) -> int:
        return self._pinned.address

    def cudnn_version(self, this: int) -> int:
        try:
            return self._ask_cudnn_version()
        except AvecError:
            return 0

    def known_cudnn_version(self) -> int:
        """The same for who asks but once; -1 where the destination cannot be asked now."""
        try:
            return self._ask_cudnn_version()
        except AvecError:
            return -1

    def has_cudnn(self, this: int) -> bool:
        return self.cudnn_version(this) > 0

    def cudnn_epsilon(self, this: int) -> float:
        return 0.0  # Source: CUDNN_BN_MIN_EPSILON in cudnn.h

    def plan_cache_max_size(self, this: int, index: int) -> int:
        return self._plan_cache_sizes.get(index, _PLAN_CACHE_SIZE)

    def set_plan_cache_max_size(self, this: int, index: int, size: int) -> None:
        self._plan_cache_sizes[index] = size


def graft(device_count: Callable[[], int], cudnn_version: Callable[[], int], native: Native | None = None) -> Graft:
    """Stand in for torch's CUDA device guard and hooks.

    It has to be done before the process's first backward pass, which fixes how many devices autograd serves.

    Args:
        device_count: how many devices there are; asked whenever torch asks, in any thread.
        cudnn_version: 91002 for 9.10.2, 0 without cuDNN; likewise.
        native: makes native functions of some, given one that tells the version or -1 and is asked until it is known.

    Raises:
        UnsupportedOperation: this build of torch or this platform is not known well enough; torch is as it was.
    """
    undo: list[Callable[[], None]] = []
    try:
        return _graft(device_count, cudnn_version, native, undo)
    except BaseException as exc:
        while undo:
            undo.pop()()
        if isinstance(exc, Mismatch | OSError):
            raise _refusal(str(exc)) from exc
        raise


def _refusal(reason: str) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"torch {torch.__version__} on {sys.platform} {platform.machine()} cannot be given a CUDA device: {reason}."
        " AVEC knows the Linux wheels of torch 2.11 to 2.15 for x86-64 and AArch64; install one of those"
    )


def _graft(
    device_count: Callable[[], int],
    cudnn_version: Callable[[], int],
    native: Native | None,
    undo: list[Callable[[], None]],
) -> Graft:
    _check_platform()
    package = Path(torch.__file__).parent
    headers = package / "include"
    libraries = Libraries()
    libc10 = ctypes.CDLL(str(package / "lib" / "libc10.so"))
    libtorch = ctypes.CDLL(str(package / "lib" / "libtorch_cpu.so"))
    configuration = torch._C._show_config()
    registry = symbol_address(libc10, _GUARD_REGISTRY)
    hooks = _hooks_of(libtorch)

    # Everything is looked at before anything is changed.
    cpu_guard_layout, guard_layout, hooks_layout = _layouts(headers)
    cpu_guard = Vtable.of(read_word(registry + _CPU * WORD), libraries)
    cpu_guard.check(cpu_guard_layout, (_CPU_GUARD_CLASS,))
    interface = Vtable.named(libtorch, _HOOKS_VTABLE, libraries)
    interface.check(hooks_layout, (_HOOKS_CLASS,))
    hooks_vtable = Vtable.of(hooks, libraries)
    hooks_vtable.check(hooks_layout.without_bodies(), (_HOOKS_CLASS, _CUDA_HOOKS_CLASS))
    pinned = PinnedAllocator(libc10, libraries, headers)
    constants = {
        "one": cpu_guard.function(cpu_guard_layout.slot("deviceCount")),
        "zero": interface.function(hooks_layout.slot("isBuilt")),
        "nothing": cpu_guard.function(cpu_guard_layout.slot("setDevice")),
    }

    place = registry + _CUDA * WORD
    before = read_word(place)
    undo.append(lambda: write_word(place, before))
    _install_empty_guard(place, cpu_guard, cpu_guard_layout, constants["zero"])
    guard_vtable = Vtable.of(read_word(place), libraries)
    guard_vtable.check(guard_layout, (_CUDA_GUARD_CLASS,))
    guard = _Guard(read_word(place), guard_vtable, guard_layout)
    asked = _Callbacks(device_count, cudnn_version, guard, pinned)
    callbacks = asked.native()
    _kept.append((pinned, callbacks))
    addresses = constants | {name: _address_of(callback) for name, callback in callbacks.items()}
    if native is not None:
        addresses |= native(asked.known_cudnn_version)
    _graft_guard(place, guard_vtable, guard_layout, addresses["device_count"])
    undo.append(lambda: write_word(hooks, hooks_vtable.start))
    _graft_hooks(hooks, hooks_vtable, hooks_layout, addresses)
    pinned.find_in_storage()
    undo.append(_register(pinned))
    undo.append(_keep_shown_configuration(configuration))
    _check_behaviour(guard)
    return Graft(guard, undo)


def _check_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in _MACHINES or ctypes.sizeof(ctypes.c_void_p) != WORD:
        raise Mismatch("how its C++ functions are called is not known for this platform")
    if torch.version.hip:
        raise Mismatch("it is built for ROCm")


def _layouts(headers: Path) -> tuple[ClassLayout, ClassLayout, ClassLayout]:
    """The layouts of the CPU's guard, of the CUDA guard and of the hooks."""
    guards = headers / "c10/core/impl"
    interface = guards / "DeviceGuardImplInterface.h"
    hooks = headers / "ATen/detail"
    return (
        read_layout({"DeviceGuardImplInterface": interface, "NoOpDeviceGuardImpl": interface}),
        read_layout({"DeviceGuardImplInterface": interface, "FakeGuardImpl": guards / "FakeGuardImpl.h"}),
        read_layout({name: hooks / f"{name}.h" for name in ("AcceleratorHooksInterface", "CUDAHooksInterface")}),
    )


def _hooks_of(libtorch: ctypes.CDLL) -> int:
    symbol_address(libtorch, _GET_HOOKS)
    get_hooks = libtorch[_GET_HOOKS]
    get_hooks.restype = ctypes.c_void_p
    hooks: int = get_hooks()
    return hooks


def _install_empty_guard(place: int, cpu_guard: Vtable, layout: ClassLayout, zero: int) -> None:
    """Let c10 install its guard for a CUDA without devices.

    c10 does so where a guard is registered that counts no device. On a CPU build there is none: the CPU's lends itself.
    """
    lent = _write_object(place, cpu_guard, layout, {"deviceCount": zero})
    torch._C._ensureCUDADeviceGuardSet()
    if read_word(place) in (lent, 0):
        raise Mismatch("c10 does not install its guard for a CUDA without devices")


def _graft_guard(place: int, vtable: Vtable, layout: ClassLayout, device_count: int) -> None:
    functions = {name: vtable.function(layout.slot(own)) for name, own in _GUARD_FUNCTIONS.items()}
    _write_object(place, vtable, layout, functions | {"deviceCount": device_count})


def _graft_hooks(hooks: int, vtable: Vtable, layout: ClassLayout, addresses: Mapping[str, int]) -> None:
    functions = {name: addresses[function] for name, function in _HOOKS_FUNCTIONS.items()}
    copy = _copy(vtable, layout, functions)
    write_word(hooks, first_function(copy))


def _register(pinned: PinnedAllocator) -> Callable[[], None]:
    """Let tensors on the CPU say whether they are pinned; returns what undoes it."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("is_pinned", pinned.is_pinned, "CPU")  # type: ignore[no-untyped-call]
    destroy: Callable[[], None] = library._destroy
    return destroy


def _keep_shown_configuration(text: str) -> Callable[[], None]:
    """Let torch.__config__.show() say what it said: it would ask the hooks about CUDA, who return a C++ string."""
    before = torch._C._show_config
    torch._C._show_config = lambda: text
    return functools.partial(setattr, torch._C, "_show_config", before)


def _check_behaviour(guard: _Guard) -> None:
    """Call the guard as torch does, and ask torch what it sees now, by ways that ask no destination."""
    before = guard.index()
    guard.set_index(1)
    seen = [guard.device(), guard.stream_device(0)]
    guard.set_index(before)
    seen.append(guard.device())
    expected = [_CUDA | 1 << 8, _CUDA, _CUDA | before << 8]
    if seen != expected:
        raise Mismatch(f"its guard, told to go to cuda:1 and back, answers {seen}, not {expected}")
    accelerator = torch._C._accelerator_getAccelerator()
    if accelerator.type != "cuda":
        raise Mismatch(f"its accelerator is {accelerator.type} after all")


def _write_object(place: int, vtable: Vtable, layout: ClassLayout, functions: Mapping[str, int]) -> int:
    """Make an object whose only content is a vtable, a copy with other functions, and store its address at a place."""
    this = ctypes.c_void_p(first_function(_copy(vtable, layout, functions)))
    _kept.append(this)
    write_word(place, ctypes.addressof(this))
    return ctypes.addressof(this)


def _copy(vtable: Vtable, layout: ClassLayout, functions: Mapping[str, int]) -> ctypes.Array[ctypes.c_void_p]:
    copy = vtable.replaced(len(layout.functions), {layout.slot(name): each for name, each in functions.items()})
    _kept.append(copy)
    return copy


def _address_of(function: _Native) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
