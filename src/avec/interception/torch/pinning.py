"""Pinned memory for a host without a GPU: ordinary memory that torch can tell from other memory.

No device reads it, but `pin_memory()` has to work and `is_pinned()` has to say so afterwards. torch gets pinned memory
from an allocator that is the CPU's in all but its address, and a storage remembers its allocator.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from .headers import Mismatch, read_layout
from .vtables import WORD, Libraries, Vtable, read_word

_ALLOCATOR_CLASS = "N3c1019DefaultCPUAllocatorE"
_GET_ALLOCATOR = "_ZN3c1015GetCPUAllocatorEv"
_STORAGE_WORDS = 16  # of a StorageImpl: where to look for the allocator


class PinnedAllocator:
    """The allocator of pinned memory. Storages point to it, so that it must never be freed."""

    def __init__(self, libc10: ctypes.CDLL, libraries: Libraries, headers: Path) -> None:
        """Make a twin of the CPU's allocator; raises Mismatch where that one is not as known."""
        get_allocator = libc10[_GET_ALLOCATOR]
        get_allocator.restype = ctypes.c_void_p
        vtable = Vtable.of(get_allocator(), libraries)
        vtable.check(read_layout({"Allocator": headers / "c10/core/Allocator.h"}), (_ALLOCATOR_CLASS,))
        self._twin = ctypes.c_void_p(vtable.start)
        self.address = ctypes.addressof(self._twin)
        self._offset = 0

    def find_in_storage(self) -> None:
        """Learn where a storage keeps its allocator; once torch pins memory by this one.

        Raises:
            Mismatch: torch does not take its pinned memory from here, or does not remember where it took it from.
        """
        pinned = torch.empty(1, dtype=torch.uint8, pin_memory=True).untyped_storage()
        words = [read_word(pinned._cdata + place * WORD) for place in range(_STORAGE_WORDS)]
        if words.count(self.address) != 1:
            raise Mismatch(f"a storage of pinned memory refers {words.count(self.address)} times to its allocator")
        self._offset = words.index(self.address) * WORD

    def is_pinned(self, tensor: torch.Tensor, device: torch.device | None = None) -> bool:
        """Whether a tensor on the CPU is in pinned memory: a kernel for aten::is_pinned."""
        if device is not None and device.type != "cuda":
            return False
        storage = tensor.untyped_storage()
        return storage.nbytes() > 0 and read_word(storage._cdata + self._offset) == self.address
