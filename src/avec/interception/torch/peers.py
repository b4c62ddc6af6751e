"""Tensors for several accelerators and back: what torch.nn.DataParallel and torch.cuda.comm ask torch._C for.

Everything is made of torch's own copies from one accelerator to another. Source: torch/csrc/cuda/comm.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avec.interception.patching import Patches

_HOST = -1  # in place of an accelerator's number


def _device(index: int | None) -> torch.device:
    if index == _HOST:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)


def broadcast(tensor: Tensor, devices: Sequence[int]) -> list[Tensor]:
    """Give each accelerator a copy; the tensor itself where it is already."""
    return [tensor.to(_device(index), non_blocking=True) for index in devices]


def broadcast_out(tensor: Tensor, out: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copy into tensors on several accelerators."""
    for place, each in enumerate(out):
        if not each.is_cuda:
            raise RuntimeError(
                f"Expected all output tensors to be CUDA tensors, but output tensor at index {place} is not"
            )
        if each.shape != tensor.shape:
            raise RuntimeError(
                f"Expected all output tensors to have same shape as the source tensor {list(tensor.shape)}, but output"
                f" tensor at index {place} has shape {list(each.shape)}"
            )
        each.copy_(tensor, non_blocking=True)
    return out


def broadcast_coalesced(tensors: Sequence[Tensor], devices: Sequence[int], buffer_size: int) -> list[list[Tensor]]:
    """Give each accelerator copies of several tensors; the first one has them already."""
    if any(tensor.get_device() != devices[0] for tensor in tensors):
        raise RuntimeError("All tensors must be on devices[0]: " + str(devices[0]))
    copies = [[tensor.to(_device(index), non_blocking=True) for tensor in tensors] for index in devices[1:]]
    return [list(tensors), *copies]


def scatter(
    tensor: Tensor,
    devices: Sequence[int],
    chunk_sizes: Sequence[int] | None = None,
    dim: int = 0,
    streams: Sequence[Any] | None = None,
) -> list[Tensor]:
    """Cut a tensor into pieces, one for each accelerator."""
    if chunk_sizes is not None:
        total = sum(chunk_sizes)
        if total != tensor.size(dim):
            raise RuntimeError(
                f"Given chunk sizes sum up to {total}, but the tensor's size in dimension {dim} is {tensor.size(dim)}"
            )
        pieces: Sequence[Tensor] = tensor.split_with_sizes(list(chunk_sizes), dim)
    else:
        pieces = tensor.chunk(len(devices), dim)
    return [piece.to(_device(index), non_blocking=True) for piece, index in zip(pieces, devices, strict=False)]


def scatter_out(
    tensor: Tensor, out: Sequence[Tensor], dim: int = 0, streams: Sequence[Any] | None = None
) -> Sequence[Tensor]:
    """Cut a tensor into pieces as large as the given tensors, and copy each into one."""
    pieces = tensor.split_with_sizes([each.size(dim) for each in out], dim)
    for each, piece in zip(out, pieces, strict=True):
        each.copy_(piece, non_blocking=True)
    return out


def gather(tensors: Sequence[Tensor], dim: int, destination: int | None) -> Tensor:
    """Put tensors of several accelerators together on one, or on the host for −1."""
    first = tensors[0]
    sizes = list(first.shape)
    sizes[dim] = sum(tensor.size(dim) for tensor in tensors)
    channels_last = all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)
    memory_format = torch.channels_last if channels_last and first.dim() == 4 else torch.contiguous_format
    result = torch.empty(sizes, dtype=first.dtype, device=_device(destination), memory_format=memory_format)
    gather_out(tensors, result, dim)
    return result


def gather_out(tensors: Sequence[Tensor], out: Tensor, dim: int = 0) -> Tensor:
    """Put tensors of several accelerators together in a given one."""
    for place, tensor in enumerate(tensors):
        if tensor.dim() != out.dim():
            raise RuntimeError(
                f"Expected all input tensors to have {out.dim()} dimensions, but input tensor at index {place} has"
                f" {tensor.dim()}"
            )
    offset = 0
    for tensor in tensors:
        out.narrow(dim, offset, tensor.size(dim)).copy_(tensor, non_blocking=True)
        offset += tensor.size(dim)
    return out


def patch(patches: Patches) -> None:
    """Give torch these functions; NCCL of this machine, which would find no GPU, is not asked."""
    patches.stand_in(torch._C, {
        "_broadcast": broadcast,
        "_broadcast_out": broadcast_out,
        "_broadcast_coalesced": broadcast_coalesced,
        "_scatter": scatter,
        "_scatter_out": scatter_out,
        "_gather": gather,
        "_gather_out": gather_out,
    })  # fmt: skip
    patches.stand_in(torch.cuda.nccl, {"is_available": lambda tensors: False})
