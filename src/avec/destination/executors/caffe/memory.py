"""The arrays of a net on an accelerator, blobs, parameters and diffs of both, and their ways from and to a host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe.layers.layer import Layer, Shape
from avec.destination.executors.caffe.plan import Plan
from avec.errors import InvalidArgument
from avec.protocol.caffe import BlobRef
from avec.tensor import Array

ALIGNMENT_NBYTES = 64  # of each array in the result buffer: a cache line


class Memory:
    """Owns the tensors of a net's blobs; those of its parameters are the layers'."""

    def __init__(self, names: Sequence[str], layers: Sequence[Layer], plan: Plan, accelerator: Accelerator) -> None:
        self.blobs: list[Tensor | None] = [None] * len(names)
        self.diffs: list[Tensor | None] = [None] * len(names)
        self._names = names
        self._layers = layers
        self._plan = plan
        self._accelerator = accelerator
        self._on_cpu = accelerator.device.type == "cpu"
        self._results: Array = np.empty(0, np.uint8)

    def write(self, ref: BlobRef, array: Array) -> None:
        """Take an array's new contents from the host.

        Raises:
            InvalidArgument: there is no such array, or it has another size or type.
        """
        shape = self._shape(ref)
        if array.dtype != np.float32 or array.size != math.prod(shape):
            raise InvalidArgument(
                f"{self._describe(ref)} of shape {shape} is to be written with {array.size} values of "
                f"{array.dtype}; {math.prod(shape)} values of float32 are needed"
            )
        if ref.diff:  # in new memory: that of a diff may be another diff's as well
            self._set_diff(ref, _borrow(array).view(shape).to(self._accelerator.device, copy=True))
            return
        with torch.no_grad():
            self.tensor(ref).copy_(_borrow(array).view(shape), non_blocking=True)

    def fetch(self, wanted: Sequence[BlobRef]) -> tuple[Array, ...]:
        """Bring arrays to host memory, where they stay until the next time; on the CPU they are there already."""
        return self.fetch_tensors([self.tensor(ref) for ref in wanted])

    def fetch_tensors(self, tensors: Sequence[Tensor]) -> tuple[Array, ...]:
        if self._on_cpu:
            return tuple(tensor.detach().numpy() for tensor in tensors)
        sizes = [-(-4 * tensor.numel() // ALIGNMENT_NBYTES) * ALIGNMENT_NBYTES for tensor in tensors]
        if sum(sizes) > self._results.nbytes:
            self._results = self._accelerator.host_buffer(sum(sizes))
        arrays, offset = [], 0
        for tensor, size in zip(tensors, sizes, strict=True):
            array = self._results[offset : offset + 4 * tensor.numel()].view(np.float32).reshape(tensor.shape)
            torch.from_numpy(array).copy_(tensor, non_blocking=True)
            arrays.append(array)
            offset += size
        return tuple(arrays)

    def tensor(self, ref: BlobRef) -> Tensor:
        """The memory behind a reference, made when it is first asked for."""
        shape = self._shape(ref)
        if ref.layer == -1:
            return self.diff(ref.index) if ref.diff else self.blob(ref.index)
        layer = self._layers[ref.layer]
        if not ref.diff:
            return layer.parameters[ref.index]
        learnable = layer.learnables[ref.index]
        if learnable.diff is None:
            learnable.diff = torch.zeros_like(learnable.values)
        return learnable.diff.view(shape)

    def blob(self, index: int) -> Tensor:
        blob = self.blobs[index] = self._fit(self.blobs[index], self._plan.shapes[index], 0.0)
        return blob

    def diff(self, index: int) -> Tensor:
        """A blob's diff; that of a loss is its weight from the beginning. Source: Layer::SetLossWeights."""
        weight = self._plan.loss_weights.get(index, 0.0)
        diff = self.diffs[index] = self._fit(self.diffs[index], self._plan.shapes[index], weight)
        return diff

    def close(self) -> None:
        self.blobs.clear()
        self.diffs.clear()

    def _set_diff(self, ref: BlobRef, values: Tensor) -> None:
        if ref.layer == -1:
            self.diffs[ref.index] = values
        else:
            learnable = self._layers[ref.layer].learnables[ref.index]
            learnable.diff = values.view(learnable.values.shape)

    def _fit(self, tensor: Tensor | None, shape: Shape, value: float) -> Tensor:
        """Give memory another shape as Blob::Reshape does: it stays while it is large enough, else it is new."""
        if tensor is not None:
            if tensor.shape == shape:
                return tensor
            if math.prod(shape) * 4 <= tensor.untyped_storage().nbytes() and tensor.storage_offset() == 0:
                return torch.as_strided(tensor, shape, _strides(shape))
        return torch.full(shape, value, device=self._accelerator.device)

    def _shape(self, ref: BlobRef) -> Shape:
        if ref.layer == -1:
            check_index("blob", ref.index, len(self._names))
            return self._plan.shapes[ref.index]
        check_index("layer", ref.layer, len(self._layers))
        layer = self._layers[ref.layer]
        check_index(f"parameter of layer {layer.name!r}", ref.index, len(layer.parameters))
        return tuple(layer.parameters[ref.index].shape)

    def _describe(self, ref: BlobRef) -> str:
        side = "diff" if ref.diff else "data"
        if ref.layer == -1:
            return f"{side} of blob {self._names[ref.index]!r}"
        return f"{side} of parameter {ref.index} of layer {self._layers[ref.layer].name!r}"


def check_index(what: str, index: int, count: int) -> None:
    """Raise InvalidArgument unless there is such a thing."""
    if not 0 <= index < count:
        raise InvalidArgument(f"there is no {what} {index}: they are numbered 0 to {count - 1}")


def _strides(shape: Shape) -> Shape:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _borrow(array: Array) -> Tensor:
    """See an array as a tensor for the length of a copy from it; torch warns about read-only memory."""
    if array.flags.writeable and array.flags.c_contiguous:
        return torch.from_numpy(array)
    return torch.from_numpy(np.array(array))
