"""Gives a storage other memory in place, so that all tensors on it go on sharing it.

On a GPU torch does that in C++, with an allocator that a host without GPU lacks. Here a new storage is made, and what
the two C++ objects hold is exchanged; the old memory dies with the new object.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from avec.errors import UnsupportedOperation

_WORD = 8
# What is exchanged of a c10::StorageImpl: its DataPtr (the data, who owns them in two words, the device), its size.
_CONTENTS_WORDS = 5
_PLACES = range(1, 6)  # words behind the vtable and the counts of references, which differ between versions


def resize(storage: torch.UntypedStorage, nbytes: int, new: Callable[[int, int], torch.Tensor]) -> None:
    """Make a storage on an accelerator larger or smaller; what it holds is kept as far as it fits.

    Args:
        new: makes a tensor of so many bytes on the accelerator of that index.
    """
    kept = min(storage.nbytes(), nbytes)
    memory = new(nbytes, storage.device.index)
    if kept:
        memory[:kept].copy_(memory.new_empty(0).set_(storage)[:kept])
    exchange(storage, memory.untyped_storage())


def exchange(first: torch.UntypedStorage, second: torch.UntypedStorage) -> None:
    """Let two storages exchange their memory.

    Raises:
        UnsupportedOperation: torch lays storages out in a way that is not known.
    """
    place = max(_place(first), _place(second))
    if not place:
        return
    mine, other = (_contents(each, place) for each in (first, second))
    kept = [*mine]
    mine[:] = [*other]
    other[:] = kept


def _contents(storage: torch.UntypedStorage, place: int) -> ctypes.Array[ctypes.c_uint64]:
    address: int = storage._cdata
    return (ctypes.c_uint64 * _CONTENTS_WORDS).from_address(address + place * _WORD)


def _place(storage: torch.UntypedStorage) -> int:
    """Which word the contents begin at; 0 for a storage without memory, which cannot tell."""
    if not storage.nbytes():
        return 0
    wanted = storage.data_ptr(), storage.nbytes()
    for place in _PLACES:
        contents = _contents(storage, place)
        if (contents[0], contents[_CONTENTS_WORDS - 1]) == wanted:
            return place
    raise UnsupportedOperation(
        f"torch {torch.__version__} lays storages out in a way that AVEC does not know, so none can be resized; AVEC"
        " was tested with torch 2.11 to 2.15"
    )
