"""torch's CUDA device guard and hooks on a host without a GPU, for CPU builds and CUDA builds alike.

Autograd, device guards and many composite operators ask two C++ objects about CUDA: the guard (current device,
streams) and the hooks (is there CUDA, which cuDNN, pinned memory). Here both get copies of their vtables in which some
functions are AVEC's: `machine_code` for what is asked often, callbacks into Python for the rest. `Graft.restore` gives
back what was there. Builds for which a check fails are refused, with torch untouched. Not here: torch.cuda.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch

from avec.errors import AvecError, UnsupportedOperation

from .headers import ClassLayout, Mismatch, read_layout
from .machine_code import CUDA, MACHINES, Imports, load
from .pinning import PinnedMemory
from .vtables import WORD, Vtable, first_function, read_word, symbol_address, write_word

_GUARD_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_CPU_GUARD_CLASS = "N3c104impl19NoOpDeviceGuardImplILNS_10DeviceTypeE0EEE"
# What c10 installs for a CUDA without devices; the former in older versions.
_CUDA_GUARD_CLASSES = (
    "N3c104impl19NoOpDeviceGuardImplILNS_10DeviceTypeE1EEE",
    "N3c104impl13FakeGuardImplILNS_10DeviceTypeE1EEE",
)
_GET_HOOKS = "_ZN2at6detail12getCUDAHooksEv"
_HOOKS_CLASS = "N2at18CUDAHooksInterfaceE"
_CUDA_HOOKS_CLASS = "N2at4cuda6detail9CUDAHooksE"  # in CUDA builds
_HOOKS_VTABLE = "_ZTV" + _HOOKS_CLASS
_CPU = 0  # c10::DeviceType::CPU

# Functions of the guard and of the hooks → those of `machine_code` in their place.
_GUARD_FUNCTIONS = {
    "getDevice": "get_device",
    "exchangeDevice": "exchange_device",
    "setDevice": "set_device",
    "uncheckedSetDevice": "set_device",
    "getStream": "get_stream",
    "getDefaultStream": "get_stream",
    "getStreamFromGlobalPool": "get_stream",
    "getNewStream": "get_stream",
    "exchangeStream": "get_stream",
    # Autograd lets devices wait for one another by events; a session's operators are in one order anyway.
    "record": "nothing",
    "block": "nothing",
    "destroyEvent": "nothing",
}
_HOOKS_FUNCTIONS = {
    "isBuilt": "one",
    "isAvailable": "one",
    "hasCUDA": "one",
    "hasMAGMA": "one",
    "hasCuSOLVER": "one",
    "hasCuBLASLt": "one",
    "hasPrimaryContext": "one",
    "init": "nothing",
    "current_device": "get_index",
    "getCurrentDevice": "get_index",
    "batchnormMinEpsilonCuDNN": "zero_float",
}
_CUDNN_PRESENCE = (
    "hasCuDNN",
    "compiledWithCuDNN",
    "supportsDilatedConvolutionWithCuDNN",
    "supportsDepthwiseConvolutionWithCuDNN",
    "supportsBFloat16ConvolutionWithCuDNNv8",
    "supportsBFloat16RNNWithCuDNN",
)
_CUDNN_VERSION = ("versionCuDNN", "versionRuntimeCuDNN")
_PLAN_CACHE_SIZE = 4096  # Source: torch's CUFFT_DEFAULT_CACHE_SIZE

_Native: TypeAlias = "ctypes._CFunctionType | ctypes._NamedFuncPointer"

# torch keeps pointers into what is grafted (allocators in storages, guards in threads), even after `restore`.
_kept: list[object] = []


class Graft:
    """AVEC's guard and hooks while they stand in for torch's own. Thread-safe."""

    def __init__(self, key: int, undo: list[Callable[[], None]]) -> None:
        """Made by `graft`."""
        libc = ctypes.PyDLL(None)
        self._key = key
        self._undo = undo
        self._get = libc.pthread_getspecific
        self._get.restype = ctypes.c_ssize_t
        self._set = libc.pthread_setspecific
        self._set.argtypes = [ctypes.c_uint, ctypes.c_void_p]

    @property
    def current_device(self) -> int:
        """This thread's current device; setting it checks nothing."""
        index: int = self._get(self._key)
        return index

    @current_device.setter
    def current_device(self, index: int) -> None:
        self._set(self._key, index)

    def restore(self) -> None:
        """Give torch its own guard and hooks back. Harmless if done already."""
        while self._undo:
            self._undo.pop()()


class _Callbacks:
    """Python functions in slots of the hooks and the guard: what only the destination knows, and what is asked seldom.

    A callback cannot raise into torch. Where the destination cannot be asked, the answers are those for one device
    without cuDNN; the next operator finds the same destination missing, and raises.
    """

    def __init__(self, ask_device_count: Callable[[], int], ask_cudnn_version: Callable[[], int]) -> None:
        self._ask_device_count = ask_device_count
        self._ask_cudnn_version = ask_cudnn_version
        self._plan_cache_sizes: dict[int, int] = {}

    def device_count(self, this: int) -> int:
        try:
            return self._ask_device_count()
        except AvecError:
            return 1

    def cudnn_version(self, this: int) -> int:
        try:
            return self._ask_cudnn_version()
        except AvecError:
            return 0

    def has_cudnn(self, this: int) -> bool:
        return self.cudnn_version(this) > 0

    def plan_cache_max_size(self, this: int, device: int) -> int:
        return self._plan_cache_sizes.get(device, _PLAN_CACHE_SIZE)

    def set_plan_cache_max_size(self, this: int, device: int, size: int) -> None:
        self._plan_cache_sizes[device] = size


def graft(device_count: Callable[[], int], cudnn_version: Callable[[], int]) -> Graft:
    """Stand in for torch's CUDA device guard and hooks.

    It has to be done before the process's first backward pass, which fixes how many devices autograd serves.

    Args:
        device_count: how many devices there are; asked whenever torch asks, in any thread.
        cudnn_version: 91002 for 9.10.2, 0 without cuDNN; likewise.

    Raises:
        UnsupportedOperation: this build of torch or this platform is not known well enough; torch is as it was.
    """
    undo: list[Callable[[], None]] = []
    try:
        return _graft(device_count, cudnn_version, undo)
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


def _graft(device_count: Callable[[], int], cudnn_version: Callable[[], int], undo: list[Callable[[], None]]) -> Graft:
    if sys.platform != "linux" or platform.machine() not in MACHINES or sys.maxsize < 2**63 - 1:
        raise Mismatch("its C++ calling convention is not one of those known")
    if torch.version.hip or getattr(torch.version, "xpu", None):
        raise Mismatch("it is built for another make of accelerator")
    package = Path(torch.__file__).parent
    headers, libraries = package / "include", package / "lib"
    libc10 = ctypes.CDLL(str(libraries / "libc10.so"))
    libtorch = ctypes.CDLL(str(libraries / "libtorch_cpu.so"))
    guard_layout = _guard_layout(headers)
    hooks_layout = _hooks_layout(headers)
    Vtable.named(libtorch, _HOOKS_VTABLE).check(hooks_layout, (_HOOKS_CLASS,))

    key = _new_key()
    pinned = PinnedMemory(libc10, headers)
    functions = load(_imports(key, pinned))
    result = Graft(key, undo)
    callbacks = _native_callbacks(_Callbacks(device_count, cudnn_version), result, pinned, pinned.allocator(functions))
    _kept.append((pinned, callbacks))
    addresses = functions | {name: _address_of(each) for name, each in callbacks.items()}
    guard = _graft_guard(libc10, guard_layout, addresses, undo)
    _graft_hooks(libtorch, hooks_layout, addresses, undo)
    _check_behaviour(guard, guard_layout)
    return result


def _native_callbacks(callbacks: _Callbacks, result: Graft, pinned: PinnedMemory, allocator: int) -> dict[str, _Native]:
    """The functions in Python as native ones, each called with `this` first."""
    this, index, size = ctypes.c_void_p, ctypes.c_int8, ctypes.c_int64

    def exchange_index(_: int, device: int) -> int:
        before = result.current_device
        if device >= 0:
            result.current_device = device
        return before

    def set_index(_: int, device: int) -> None:
        result.current_device = device

    return {
        "device_count": ctypes.CFUNCTYPE(index, this)(callbacks.device_count),
        "gpu_count": ctypes.CFUNCTYPE(ctypes.c_int, this)(callbacks.device_count),
        "has_cudnn": ctypes.CFUNCTYPE(ctypes.c_bool, this)(callbacks.has_cudnn),
        "cudnn_version": ctypes.CFUNCTYPE(ctypes.c_long, this)(callbacks.cudnn_version),
        "set_index": ctypes.CFUNCTYPE(None, this, index)(set_index),
        "exchange_index": ctypes.CFUNCTYPE(index, this, index)(exchange_index),
        "is_pinned": ctypes.CFUNCTYPE(ctypes.c_bool, this, ctypes.c_size_t)(lambda _, data: pinned.holds(data)),
        "pinned_allocator": ctypes.CFUNCTYPE(ctypes.c_size_t, this)(lambda _: allocator),
        "plan_cache_max_size": ctypes.CFUNCTYPE(size, this, index)(callbacks.plan_cache_max_size),
        "set_plan_cache_max_size": ctypes.CFUNCTYPE(None, this, index, size)(callbacks.set_plan_cache_max_size),
    }


def _graft_guard(
    libc10: ctypes.CDLL, layout: ClassLayout, addresses: Mapping[str, int], undo: list[Callable[[], None]]
) -> int:
    """Graft the guard; returns the place in c10's registry where it stands."""
    registry = symbol_address(libc10, _GUARD_REGISTRY)
    place = registry + CUDA * WORD
    before = read_word(place)
    undo.append(lambda: write_word(place, before))
    _install_empty_guard(registry, place, layout, addresses["zero"])
    vtable = Vtable.of(read_word(place))
    vtable.check(layout.without_bodies(), _CUDA_GUARD_CLASSES)
    _write_object(place, vtable, layout, {
        **{name: addresses[function] for name, function in _GUARD_FUNCTIONS.items()},
        "deviceCount": addresses["device_count"],
    })  # fmt: skip
    return place


def _install_empty_guard(registry: int, place: int, layout: ClassLayout, zero: int) -> None:
    """Let c10 install its own guard for a CUDA without devices, to graft upon.

    c10 does so where a guard is registered and counts no device. On a CPU build none is, so the CPU's lends itself.
    """
    vtable = Vtable.of(read_word(registry + _CPU * WORD))
    vtable.check(layout, (_CPU_GUARD_CLASS,))
    lent = _write_object(place, vtable, layout, {"deviceCount": zero})
    torch._C._ensureCUDADeviceGuardSet()
    if read_word(place) in (lent, 0):
        raise Mismatch("c10 does not install its guard for a CUDA without devices")


def _graft_hooks(
    libtorch: ctypes.CDLL, layout: ClassLayout, addresses: Mapping[str, int], undo: list[Callable[[], None]]
) -> None:
    get_hooks = libtorch[_GET_HOOKS]
    get_hooks.restype = ctypes.c_void_p
    hooks: int = get_hooks()
    vtable = Vtable.of(hooks)
    vtable.check(layout.without_bodies(), (_HOOKS_CLASS, _CUDA_HOOKS_CLASS))
    functions = {
        **_HOOKS_FUNCTIONS,
        **dict.fromkeys(_CUDNN_PRESENCE, "has_cudnn"),
        **dict.fromkeys(_CUDNN_VERSION, "cudnn_version"),
        "deviceCount": "device_count",
        "getNumGPUs": "gpu_count",
        "setCurrentDevice": "set_index",
        "exchangeDevice": "exchange_index",
        "maybeExchangeDevice": "exchange_index",
        "isPinnedPtr": "is_pinned",
        "getPinnedMemoryAllocator": "pinned_allocator",
        "cuFFTGetPlanCacheMaxSize": "plan_cache_max_size",
        "cuFFTSetPlanCacheMaxSize": "set_plan_cache_max_size",
        "cuFFTGetPlanCacheSize": "zero",
        "cuFFTClearPlanCache": "nothing",
    }
    slots = {layout.slot(name): addresses[function] for name, function in functions.items()}
    copy = vtable.replaced(len(layout.functions), slots)
    _kept.append(copy)
    undo.append(lambda: write_word(hooks, vtable.start))
    write_word(hooks, first_function(copy))


def _write_object(place: int, vtable: Vtable, layout: ClassLayout, functions: Mapping[str, int]) -> int:
    """Make an object whose only content is a copy of a vtable, and store its address at a place."""
    copy = vtable.replaced(len(layout.functions), {layout.slot(name): address for name, address in functions.items()})
    this = ctypes.c_void_p(first_function(copy))
    _kept.append((copy, this))
    write_word(place, ctypes.addressof(this))
    return ctypes.addressof(this)


def _check_behaviour(guard: int, layout: ClassLayout) -> None:
    """Call the guard as torch does, and ask torch what it sees now, by ways that ask no destination."""
    this = read_word(guard)
    vtable = Vtable.of(this)

    def call(name: str, result: type[ctypes.c_uint16] | None, *arguments: int) -> int | None:
        kinds = [ctypes.c_void_p, *[ctypes.c_uint16 for _ in arguments]]
        value: int | None = ctypes.CFUNCTYPE(result, *kinds)(vtable.function(layout.slot(name)))(this, *arguments)
        return value

    first, second = CUDA, CUDA | 1 << 8  # Device: type, index
    call("setDevice", None, second)
    seen = [
        call("getDevice", ctypes.c_uint16),
        call("exchangeDevice", ctypes.c_uint16, first),
        call("getStream", ctypes.c_uint16, second),
        call("getDevice", ctypes.c_uint16),
    ]
    if seen != [second, second, second, first]:
        raise Mismatch(f"its guard, told to go from cuda:1 to cuda:0, answers {seen}")
    accelerator = torch._C._accelerator_getAccelerator()
    if accelerator.type != "cuda":
        raise Mismatch(f"its accelerator is {accelerator.type} after all")


def _guard_layout(headers: Path) -> ClassLayout:
    header = headers / "c10/core/impl/DeviceGuardImplInterface.h"
    return read_layout({"DeviceGuardImplInterface": header, "NoOpDeviceGuardImpl": header})


def _hooks_layout(headers: Path) -> ClassLayout:
    folder = headers / "ATen/detail"
    return read_layout({name: folder / f"{name}.h" for name in ("AcceleratorHooksInterface", "CUDAHooksInterface")})


def _new_key() -> int:
    key = ctypes.c_uint()
    if error := ctypes.CDLL(None).pthread_key_create(ctypes.byref(key), None):
        raise Mismatch(f"it needs one of the process's pthread keys and got error {error}")
    return key.value


def _imports(key: int, pinned: PinnedMemory) -> Imports:
    libc = ctypes.CDLL(None)
    get, set_ = _address_of(libc.pthread_getspecific), _address_of(libc.pthread_setspecific)
    return Imports(key, get, set_, pinned.allocate, pinned.native_allocate)


def _address_of(function: _Native) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
