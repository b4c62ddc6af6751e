"""Birth and death of the storages that live at the destination.

torch makes a tensor around memory that somebody else owns from a DLPack struct. Here that memory is an address which
the destination knows and nobody reads on the host. When the last tensor on a storage dies, in whatever thread and
language, torch calls the struct's deleter: a native function, which marks the struct; `sweep` finds the marks.

Structs are used again for the same layout, lowest address first, so that a program that repeats itself repeats its
addresses.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from avec.protocol.torch import FIRST_STORAGE, FREE, OFFSET_BITS, ORIGIN

from .stream import Stream, Unused, UnusedList

# Source: dlpack.h, DLManagedTensor: data, device (type, id), ndim with dtype (code, bits, lanes), shape, strides,
# byte_offset, manager_ctx, deleter. 64 bytes.
_STRUCT = struct.Struct("<8Q")
_STRUCT_NBYTES = 64
_CUDA = 2  # kDLCUDA
_LIMIT = 1 << 20  # storages that live at a time; the arena reserves addresses for them, and memory as they are used
DTYPES = {
    torch.bool: (6, 8),
    torch.uint8: (1, 8), torch.uint16: (1, 16), torch.uint32: (1, 32), torch.uint64: (1, 64),
    torch.int8: (0, 8), torch.int16: (0, 16), torch.int32: (0, 32), torch.int64: (0, 64),
    torch.float16: (2, 16), torch.float32: (2, 32), torch.float64: (2, 64), torch.bfloat16: (4, 16),
    torch.complex32: (5, 32), torch.complex64: (5, 64), torch.complex128: (5, 128),
    torch.float8_e4m3fn: (10, 8), torch.float8_e4m3fnuz: (11, 8), torch.float8_e5m2: (12, 8),
    torch.float8_e5m2fnuz: (13, 8), torch.float8_e8m0fnu: (14, 8),
}  # fmt: skip

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
from_dlpack = torch._C._from_dlpack


class _Endless(UnusedList):
    """The unused structs of a layout without elements: one, which serves any number of tensors at a time."""

    def pop(self, index: object = -1) -> int:
        return self[0]


class Layout:
    """A dtype with sizes, strides and device: what a new tensor is like. `new` makes one.

    Its fields are for the generated kernels, which make tensors inline.
    """

    __slots__ = (
        "_arena",
        "_sizes",
        "device",
        "dlpack_dtype",
        "dtype",
        "forgotten",
        "free",
        "head",
        "nbytes",
        "numel",
        "shape",
        "stride",
        "structs",
    )

    def __init__(
        self, arena: Arena, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], device: int
    ) -> None:
        self._arena = arena
        self.dtype, self.shape, self.stride, self.device = dtype, shape, stride, device
        self.free: Unused = arena.new_unused()
        self.structs = 0  # all that it was given
        self.forgotten = False
        rank = len(shape)
        self._sizes = (ctypes.c_int64 * max(1, rank))(*shape), (ctypes.c_int64 * max(1, rank))(*stride)
        self.dlpack_dtype = code, bits = _dlpack_dtype(dtype)
        sizes, strides = (ctypes.addressof(each) for each in self._sizes)
        self.head = (_CUDA | device << 32, rank | code << 32 | bits << 40 | 1 << 48, sizes, strides, 0, 0)
        self.numel = 0 if 0 in shape else 1
        for size in shape:
            self.numel *= size
        span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if self.numel else 0
        self.nbytes = span * dtype.itemsize
        if not self.numel:
            self.free = _Endless([arena.empty_struct(self)])

    def new(self) -> torch.Tensor:
        """Make a tensor on a storage of its own; the destination does not know of it yet."""
        try:
            pointer = self.free.pop() if self.free else self._arena.take(self)
        except IndexError:  # another thread was faster
            pointer = self._arena.take(self)
        tensor: torch.Tensor = from_dlpack(new_capsule(pointer, b"dltensor", None))
        return tensor


def _dlpack_dtype(dtype: torch.dtype) -> tuple[int, int]:
    try:
        return DTYPES[dtype]
    except KeyError:
        raise NotImplementedError(
            f"tensors of dtype {dtype} cannot live at a destination; convert to one of"
            f" {', '.join(str(each).removeprefix('torch.') for each in DTYPES)}"
        ) from None


def address_of(place: int) -> int:
    """Where the storage of a place begins."""
    return (FIRST_STORAGE + place) << OFFSET_BITS | ORIGIN


def place_of(address: int) -> int:
    """Which storage an address is in, as a struct's place."""
    return (address >> OFFSET_BITS) - FIRST_STORAGE


class Arena:
    """The structs of all storages. It is never freed: torch calls deleters until the very end of the process."""

    def __init__(self, native: Any = None) -> None:
        """Make an arena without storages.

        Args:
            native: the compiled module, in which a layout's unused structs are kept then, and swept.
        """
        self.new_unused: Callable[[], Unused] = UnusedList if native is None else native.Unused
        self._native = native
        # Private: what dies in a forked child is alive in its parent.
        self._memory = mmap.mmap(-1, _LIMIT * _STRUCT_NBYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._empties: list[ctypes.Array[ctypes.c_char]] = []
        words = np.frombuffer(self._memory, np.uint32).reshape(_LIMIT, _STRUCT_NBYTES // 4)
        self._base = words.ctypes.data
        if native is not None:
            numbering = (self._base, _STRUCT_NBYTES, FREE, FIRST_STORAGE, OFFSET_BITS, ORIGIN)
            self._numbering = native.Numbering(*numbering)
        self._marks = words[:, 0]  # the lower half of the address: ORIGIN, or what the deleter has written over it
        self._count = 0  # structs that were ever used
        self._layout_of: list[Layout] = []
        self._spare: list[int] = []  # places of structs that belong to no layout any more
        self._layouts: dict[tuple[object, ...], Layout] = {}
        self._lock = threading.Lock()
        self.check_device: Callable[[int], None] = lambda index: None  # raises what torch raises for an unknown one
        self.admit: Callable[[int, int], None] = lambda nbytes, device: None  # raises for what can never fit
        self.fresh_nbytes = 0  # of storages at places that were never in use before, as `Room` counts them
        self._abandoned = ""
        self._held: list[int] | None = None
        self._pinned: dict[int, int] = {}  # place → how many graphs use it
        self._pinned_dead: set[int] = set()
        self._unpinned: list[list[int]] = []
        # glibc's pthread_spin_unlock writes 1 (x86) or 0 (elsewhere) to the first four bytes of what it is given:
        # a deleter that needs no interpreter lock, and cannot fail. A ctypes callback breaks when an exception is set.
        deleter = ctypes.CDLL(None).pthread_spin_unlock
        self._deleter = ctypes.cast(deleter, ctypes.c_void_p).value or 0
        for immortal in (self._memory, self._empties):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(immortal))

    def layout(self, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int], device: int = 0) -> Layout:
        """The one Layout of these values."""
        key = (dtype, tuple(shape), tuple(stride), device)
        layout = self._layouts.get(key)
        if layout is None:
            self.check_device(device)
            layout = Layout(self, dtype, key[1], key[2], device)
            self.admit(layout.nbytes, device)
            self._layouts[key] = layout
        return layout

    def live_nbytes(self) -> dict[int, int]:
        """Bytes of the storages that live, by accelerator; exact after a `sweep`."""
        nbytes: dict[int, int] = {}
        for each in self._layouts.copy().values():
            nbytes[each.device] = nbytes.get(each.device, 0) + each.nbytes * (each.structs - len(each.free))
        return nbytes

    def layout_of(self, tensor: torch.Tensor) -> Layout:
        """The layout of a new tensor that is like this one, on the same device, with no overlap of elements."""
        return self.layout(tensor.dtype, tensor.shape, tensor.stride(), max(0, tensor.get_device()))

    def take(self, layout: Layout) -> int:
        """Give a struct to a layout; called when its free list is empty."""
        with self._lock:
            if self._abandoned:
                raise RuntimeError(self._abandoned)
            place = self._spare[-1] if self._spare else self._count
            if place == _LIMIT:
                raise torch.OutOfMemoryError(f"more than {_LIMIT} storages live at the destination at a time")
            address = address_of(place)
            # Before it counts: else an interrupt leaves an empty struct, which a sweep takes for a dead one.
            _STRUCT.pack_into(self._memory, place * _STRUCT_NBYTES, address, *layout.head, self._deleter)
            layout.structs += 1
            self.fresh_nbytes += layout.nbytes
            if self._spare:
                self._layout_of[place] = layout
                self._spare.pop()
            else:
                self._count += 1
                self._layout_of.append(layout)
        return self._base + place * _STRUCT_NBYTES

    def abandon(self, reason: str) -> None:
        """In a forked child: make no tensors any more, but raise a RuntimeError."""
        self._lock = threading.Lock()
        self._abandoned = reason
        for layout in self._layouts.values():
            layout.free.clear()

    def empty_struct(self, layout: Layout) -> int:
        """Make the struct of a layout without elements: it has no address, and nobody is told when a tensor dies."""
        struct_ = ctypes.create_string_buffer(_STRUCT_NBYTES)
        _STRUCT.pack_into(struct_, 0, 0, *layout.head, 0)
        self._empties.append(struct_)  # for as long as torch may look at it
        return ctypes.addressof(struct_)

    def sweep(self, stream: Stream) -> None:
        """Take back the structs of storages that have died, and record that, the lowest address first."""
        with self._lock:
            if self._unpinned and self._held is None:
                self._end_pins(stream)
            if self._native is not None and self._held is None and not self._pinned:
                self._spare += self._native.sweep(stream, self._layout_of, self._numbering)
                return
            marks = self._marks[: self._count]
            dead = np.flatnonzero(marks < ORIGIN)
            if not dead.size:
                return
            places = dead.tolist()
            # Recorded before the marks are taken away: after an interrupt in between it is recorded twice, which does
            # no harm, where a storage whose end is never told would stay.
            if self._held is not None:
                self._held.extend(places)
                stream.extend([each for place in places for each in (FREE, address_of(place))])
                marks[dead] = ORIGIN
                return
            if self._pinned:
                self._pinned_dead.update(place for place in places if place in self._pinned)
                places = [place for place in places if place not in self._pinned]
            stream.extend([each for place in places for each in (FREE, address_of(place))])
            marks[dead] = ORIGIN
            self._reuse(places)

    def hold(self) -> None:
        """From now on, storages that die are freed in the stream, but nothing else gets their places.

        A graph is being captured: whenever it is replayed, they will be there again.
        """
        with self._lock:
            self._held = []

    def let_go(self) -> list[int]:
        """End `hold`; give the places that died meanwhile, to be pinned or given back."""
        with self._lock:
            held, self._held = self._held or [], None
        return held

    def pin(self, places: Iterable[int], dead: Iterable[int]) -> None:
        """Keep places from being used for anything else, even when their storages die; `dead` ones have."""
        with self._lock:
            for place in places:
                self._pinned[place] = self._pinned.get(place, 0) + 1
            self._pinned_dead.update(dead)

    def unpin(self, places: list[int]) -> None:
        """End `pin` at the next sweep. Takes no lock: a graph's finalizer may call it at any time."""
        self._unpinned.append(places)

    def give_back(self, places: list[int], stream: Stream) -> None:
        """Take back the structs of storages that died during `hold`, and record that."""
        with self._lock:
            self._give_back(sorted(places), stream)

    def _end_pins(self, stream: Stream) -> None:
        free = []
        while self._unpinned:
            for place in self._unpinned.pop():
                self._pinned[place] -= 1
                if not self._pinned[place]:
                    del self._pinned[place]
                    if place in self._pinned_dead:
                        self._pinned_dead.discard(place)
                        free.append(place)
        self._give_back(sorted(free), stream)

    def _give_back(self, places: list[int], stream: Stream) -> None:
        # Recorded first: another thread may take a struct as soon as it is free, and record what it puts there.
        stream.extend([each for place in places for each in (FREE, address_of(place))])
        self._reuse(places)

    def _reuse(self, places: list[int]) -> None:
        touched: dict[Layout, list[int]] = {}
        base, layout_of = self._base, self._layout_of
        for place in places:
            layout = layout_of[place]
            if layout.forgotten:
                self._spare.append(place)
                continue
            touched.setdefault(layout, []).append(base + place * _STRUCT_NBYTES)
        for layout, structs in touched.items():
            layout.free.give(structs)

    def forget_layouts(self) -> None:
        """Drop all layouts: a program whose shapes always change would collect them without end.

        Their unused structs serve any layout afterwards; those in use come back when they die.
        """
        with self._lock:
            for layout in self._layouts.values():
                if layout.numel:
                    self._spare.extend((pointer - self._base) // _STRUCT_NBYTES for pointer in layout.free)
                    layout.free.clear()
                layout.forgotten = True
            self._spare.sort(reverse=True)
            self._layouts.clear()
