"""Pinned memory for a host without a GPU: ordinary memory that torch can tell from other memory.

`pin_memory()` has to work, and `is_pinned()` to say so afterwards, though no device reads the memory. torch's CPU
allocator gets a twin whose `allocate` is AVEC's. torch gives a block back in whatever thread by a native function that
only marks it; the next allocation uses it again or frees it, as CUDA's own cache of pinned memory does.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .headers import Mismatch, read_layout
from .vtables import Vtable, first_function

_ALIGNMENT = 64  # c10::gAlignment
_HELD = 1
_ALLOCATOR_CLASS = "N3c1019DefaultCPUAllocatorE"
_GET_ALLOCATOR = "_ZN3c1015GetCPUAllocatorEv"
_PROBE_NBYTES = 64


class _DataPtr(ctypes.Structure):
    """c10::DataPtr: data, then its owner (a context and the function that deletes it, in the C++ library's order)."""

    _fields_ = [
        ("data", ctypes.c_size_t), ("owner", ctypes.c_size_t * 2), ("device", ctypes.c_size_t)
    ]  # fmt: skip


_NATIVE_ALLOCATE = ctypes.CFUNCTYPE(_DataPtr, ctypes.c_void_p, ctypes.c_size_t)
_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_DELETE = ctypes.CFUNCTYPE(None, ctypes.c_size_t)


@dataclass(slots=True)
class _Block:
    nbytes: int
    word: ctypes.c_uint32  # _HELD until torch gives the block back


class PinnedMemory:
    """The blocks that torch holds as pinned memory, and the allocator that it gets them from. Thread-safe."""

    def __init__(self, libc10: ctypes.CDLL, headers: Path) -> None:
        """Look at torch's CPU allocator; raises Mismatch where it is not as known."""
        get_allocator = libc10[_GET_ALLOCATOR]
        get_allocator.restype = ctypes.c_void_p
        cpu_allocator: int = get_allocator()
        self._vtable = Vtable.of(cpu_allocator)
        self._layout = read_layout({"Allocator": headers / "c10/core/Allocator.h"})
        self._vtable.check(self._layout, (_ALLOCATOR_CLASS,))
        self.native_allocate = self._vtable.function(self._layout.slot("allocate"))
        self._context_place = self._find_context(cpu_allocator)
        libc = ctypes.CDLL(None)
        self._aligned_alloc = libc.aligned_alloc
        self._aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self._aligned_alloc.restype = ctypes.c_size_t
        self._free = libc.free
        self._free.argtypes = [ctypes.c_size_t]
        self._blocks: dict[int, _Block] = {}
        self._lock = threading.RLock()
        self._release = 0
        self._callback = _ALLOCATE(self._allocate)
        self.allocate = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def allocator(self, functions: Mapping[str, int]) -> int:
        """Return the address of a c10::Allocator.

        Args:
            functions: of `machine_code`: "allocate", which calls `self.allocate`, and "release", "zero".
        """
        self._release = functions["release"]
        slots = {
            self._layout.slot("allocate"): functions["allocate"],
            self._layout.slot("raw_deleter"): functions["zero"],  # none: the data alone does not say who owns it
        }
        self._twin_vtable = self._vtable.replaced(len(self._layout.functions), slots)
        self._twin = ctypes.c_void_p(first_function(self._twin_vtable))
        return ctypes.addressof(self._twin)

    def holds(self, address: int) -> bool:
        """Whether a block of pinned memory begins at the address."""
        block = self._blocks.get(address)
        return block is not None and block.word.value == _HELD

    def _find_context(self, cpu_allocator: int) -> int:
        """Which word of an owner is the context. The CPU allocator's is the data's own address."""
        got = _NATIVE_ALLOCATE(self.native_allocate)(cpu_allocator, _PROBE_NBYTES)
        place = [*got.owner].index(got.data) if got.data in [*got.owner] else -1
        deleter = 0 if place < 0 else got.owner[1 - place]
        if not got.data or not Vtable.is_torch_code(deleter):
            raise Mismatch("what the CPU allocator returns is not a DataPtr as known")
        _DELETE(deleter)(got.data)
        return place

    def _allocate(self, result: int, this: int, nbytes: int) -> bool:
        """Give torch a block; False leaves it to the CPU allocator, which knows how to fail."""
        if not nbytes:
            return False
        with self._lock:
            data = self._take(nbytes)
            if not data:
                return False
            word = ctypes.c_uint32(_HELD)
            self._blocks[data] = _Block(nbytes, word)
        data_ptr = _DataPtr.from_address(result)
        data_ptr.data = data
        data_ptr.owner[self._context_place] = ctypes.addressof(word)
        data_ptr.owner[1 - self._context_place] = self._release
        data_ptr.device = _CPU_DEVICE
        return True

    def _take(self, nbytes: int) -> int:
        """Memory for a block: one of the same size that torch has given back, or new; the other ones are freed."""
        found = 0
        for data, block in [*self._blocks.items()]:
            if block.word.value == _HELD:
                continue
            del self._blocks[data]
            if not found and block.nbytes == nbytes:
                found = data
            else:
                self._free(data)
        address: int = found or self._aligned_alloc(_ALIGNMENT, -(-nbytes // _ALIGNMENT) * _ALIGNMENT)
        return address


_CPU_DEVICE = 0xFF00  # Device{type CPU, index −1}
