"""A Caffe net on an accelerator, and the requests that it answers: Forward, Reshape, Read, CopyFrom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer, Model
from avec.destination.executors.caffe.layers.layer import Layer, Shape
from avec.destination.executors.caffe.plan import Plan, is_out_of_memory
from avec.destination.executors.caffe.weights import copy_weights, read_weights
from avec.errors import AcceleratorOutOfMemory, InvalidArgument, UnsupportedOperation
from avec.protocol.caffe import WEIGHTS, BlobRef, CopyFrom, Forward, NetRequest, Read, Reshape, Shapes
from avec.tensor import Array

ALIGNMENT_NBYTES = 64  # of each array in the result buffer: a cache line

_REQUESTS: msgspec.msgpack.Decoder[NetRequest] = msgspec.msgpack.Decoder(NetRequest)
_ENCODER = msgspec.msgpack.Encoder()
_NO_SHAPES = _ENCODER.encode(Shapes())


class CaffeModel:
    """One net with its blobs and parameters. Called by one thread at a time."""

    def __init__(self, names: Sequence[str], layers: Sequence[Layer], plan: Plan, accelerator: Accelerator) -> None:
        self._names = names
        self._layers = layers
        self._plan = plan
        self._accelerator = accelerator
        self._on_cpu = accelerator.device.type == "cpu"
        self._blobs: list[Tensor | None] = [None] * len(names)
        self._diffs: dict[tuple[int, int], Tensor] = {}
        self._told = list(plan.shapes)
        self._results: Array = np.empty(0, np.uint8)

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request. See avec.destination.executors.Model."""
        request = _decode(body)
        try:
            return self._carry_out(request, arrays, files)
        except (RuntimeError, MemoryError) as exc:
            if is_out_of_memory(exc) and not isinstance(exc, AcceleratorOutOfMemory):
                reason = str(exc).split("\n", 1)[0]
                raise AcceleratorOutOfMemory(f"moving blobs between host and accelerator: {reason}") from exc
            raise
        finally:  # the call's parts are the caller's again, and results have arrived
            self._accelerator.synchronize()

    def _carry_out(self, request: NetRequest, arrays: Sequence[Array], files: Mapping[str, Path]) -> Answer:
        if not isinstance(request, Forward | Reshape | Read | CopyFrom):
            raise UnsupportedOperation(f"{type(request).__name__} on a Caffe net is not carried out here yet")
        self._synchronise(request, arrays)
        kernels = 0
        results: tuple[Array, ...] = ()
        match request:
            case Forward():
                kernels = self._forward(request.start, request.end)
                results = self._fetch(request.wanted)
            case Reshape():
                self._plan.propagate(*self._checked_range("reshape", request.start, request.end))
            case Read():
                results = self._fetch(request.wanted)
            case CopyFrom():
                self._copy_from(request, files)
        return Answer(self._changed_shapes(), results, kernels)

    def close(self) -> None:
        """Free all that the net holds on the accelerator."""
        self._blobs.clear()
        self._diffs.clear()
        for layer in self._layers:
            layer.parameters.clear()
        self._layers = ()
        self._plan = Plan((), [], self._accelerator.device)

    def _synchronise(self, request: NetRequest, arrays: Sequence[Array]) -> None:
        """Take over what the application changed: shapes first, for the new contents have them."""
        if len(arrays) != len(request.writes):
            raise InvalidArgument(f"a request with {len(request.writes)} writes came with {len(arrays)} parts")
        for change in request.reshaped:
            self._check_index("blob", change.index, len(self._names))
            self._plan.set_shape(change.index, change.shape)
        for ref, array in zip(request.writes, arrays, strict=True):
            self._write(ref, array)

    def _write(self, ref: BlobRef, array: Array) -> None:
        shape = self._shape(ref)
        if array.dtype != np.float32 or array.size != math.prod(shape):
            raise InvalidArgument(
                f"{self._describe(ref)} of shape {shape} is to be written with {array.size} values of "
                f"{array.dtype}; {math.prod(shape)} values of float32 are needed"
            )
        target = self._tensor(ref)
        with torch.inference_mode():
            target.copy_(_borrow(array).view(shape), non_blocking=True)

    def _forward(self, start: int, end: int) -> int:
        start, end = self._checked_range("forward", start, end)
        if start > end:
            return 0
        self._plan.propagate(start, end)
        for index in self._plan.reads(start, end):
            self._blob(index)
        return self._plan.run(start, end, self._blobs)

    def _checked_range(self, what: str, start: int, end: int) -> tuple[int, int]:
        """A range of layers with both ends in the net; an end of −1 is the last layer."""
        last = len(self._layers) - 1
        end = last if end == -1 else end
        if not 0 <= start <= last or not 0 <= end <= last:
            raise InvalidArgument(f"{what} from layer {start} to {end}: the net has layers 0 to {last}")
        return start, end

    def _copy_from(self, request: CopyFrom, files: Mapping[str, Path]) -> None:
        path = files.get(WEIGHTS)
        if path is None:
            raise InvalidArgument(f"copying weights from {request.source!r}: the request names no weights file")
        copy_weights(self._layers, read_weights(path, request.source), request.source)

    def _fetch(self, wanted: Sequence[BlobRef]) -> tuple[Array, ...]:
        """Bring arrays to host memory; on the CPU they are there already."""
        tensors = [self._tensor(ref) for ref in wanted]
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

    def _shape(self, ref: BlobRef) -> Shape:
        if ref.layer == -1:
            self._check_index("blob", ref.index, len(self._names))
            return self._plan.shapes[ref.index]
        self._check_index("layer", ref.layer, len(self._layers))
        layer = self._layers[ref.layer]
        self._check_index(f"parameter of layer {layer.name!r}", ref.index, len(layer.parameters))
        return tuple(layer.parameters[ref.index].shape)

    def _tensor(self, ref: BlobRef) -> Tensor:
        """The memory behind a reference, made when it is first asked for."""
        shape = self._shape(ref)
        if ref.diff:
            key = (ref.layer, ref.index)
            self._diffs[key] = self._fit(self._diffs.get(key), shape)
            return self._diffs[key]
        return self._blob(ref.index) if ref.layer == -1 else self._layers[ref.layer].parameters[ref.index]

    def _blob(self, index: int) -> Tensor:
        blob = self._blobs[index] = self._fit(self._blobs[index], self._plan.shapes[index])
        return blob

    def _fit(self, tensor: Tensor | None, shape: Shape) -> Tensor:
        """Give memory another shape as Blob::Reshape does: it stays while it is large enough, else it is new zeros."""
        if tensor is not None:
            if tensor.shape == shape:
                return tensor
            if math.prod(shape) * 4 <= tensor.untyped_storage().nbytes() and tensor.storage_offset() == 0:
                with torch.inference_mode():
                    return torch.as_strided(tensor, shape, _strides(shape))
        with torch.inference_mode():
            return torch.zeros(shape, device=self._accelerator.device)

    def _changed_shapes(self) -> bytes:
        if self._plan.shapes == self._told:
            return _NO_SHAPES
        self._told = list(self._plan.shapes)
        return _ENCODER.encode(Shapes(tuple(self._told)))

    def _check_index(self, what: str, index: int, count: int) -> None:
        if not 0 <= index < count:
            raise InvalidArgument(f"there is no {what} {index}: they are numbered 0 to {count - 1}")

    def _describe(self, ref: BlobRef) -> str:
        side = "diff" if ref.diff else "data"
        if ref.layer == -1:
            return f"{side} of blob {self._names[ref.index]!r}"
        return f"{side} of parameter {ref.index} of layer {self._layers[ref.layer].name!r}"


def _decode(body: bytes) -> NetRequest:
    try:
        return _REQUESTS.decode(body)
    except msgspec.MsgspecError as exc:
        raise InvalidArgument(f"a request to a Caffe net cannot be understood: {exc}") from exc


def _strides(shape: Shape) -> Shape:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _borrow(array: Array) -> Tensor:
    """See an array as a tensor for the length of a copy from it; torch warns about read-only memory."""
    if array.flags.writeable and array.flags.c_contiguous:
        return torch.from_numpy(array)
    return torch.from_numpy(np.array(array))
