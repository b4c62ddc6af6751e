"""Prints tensors that live at the destination with one wait for each, where torch would read element by element."""

from __future__ import annotations

import functools
import itertools
import mmap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import _tensor_str as torch_printing

if TYPE_CHECKING:
    from avec.interception.patching import Patches

_FLOAT8 = "float8"
# Memory that counts as used only where it is touched. Source: Linux, mman.h.
_MAP_NORESERVE = 0x4000


def patch(patches: Patches) -> None:
    """Stand before torch's function that writes a tensor's elements."""
    patches.replace(torch_printing, "_tensor_str", _written)


def _written(original: Callable[[torch.Tensor, int], str]) -> Callable[[torch.Tensor, int], str]:
    @functools.wraps(original)
    def tensor_str(self: torch.Tensor, indent: int) -> str:
        options = torch_printing.PRINT_OPTS
        if not self.is_cuda or self.layout is not torch.strided or not self.numel() or not options.edgeitems:
            return original(self, indent)
        if self.numel() <= options.threshold:
            return original(self.cpu(), indent)
        try:
            edges = _with_edges_of(self, options.edgeitems)
        except OSError:  # so many addresses are not given to this process
            edges = self
        return original(edges, indent)

    return tensor_str


def _with_edges_of(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """A tensor on the host, of the same sizes, that has the first and last elements of every dimension alone."""
    edges = tensor.half() if _FLOAT8 in str(tensor.dtype) else tensor  # which torch prints as half, too
    for dimension, size in enumerate(tensor.shape):
        if size > 2 * count:
            parts = edges.narrow(dimension, 0, count), edges.narrow(dimension, size - count, count)
            edges = torch.cat(parts, dimension)
    fetched = edges.cpu()
    whole = _sparsely_used(tensor.shape, fetched.dtype)
    for places in itertools.product(*(_edges(size, count) for size in tensor.shape)):
        whole[places] = fetched[tuple(_packed(place, count) for place in places)]
    return whole


def _edges(size: int, count: int) -> Sequence[slice]:
    return (slice(0, count), slice(size - count, size)) if size > 2 * count else (slice(0, size),)


def _packed(place: slice, count: int) -> slice:
    """Where the elements of a slice are when nothing is between the edges."""
    return slice(count, 2 * count) if place.start else place


def _sparsely_used(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    numel = 1
    for size in shape:
        numel *= size
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return torch.frombuffer(mmap.mmap(-1, numel * dtype.itemsize, flags), dtype=dtype).view(*shape)
