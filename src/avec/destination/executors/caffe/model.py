"""A Caffe net on an accelerator, and the requests that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer, Model
from avec.destination.executors.caffe.layers.layer import Layer, Shape
from avec.destination.executors.caffe.memory import Memory, check_index
from avec.destination.executors.caffe.plan import Plan, is_out_of_memory
from avec.destination.executors.caffe.weights import copy_weights, read_weights, share_weights
from avec.errors import AcceleratorOutOfMemory, InvalidArgument
from avec.protocol.caffe import (
    WEIGHTS,
    Backward,
    BlobRef,
    ClearDiffs,
    CopyFrom,
    Forward,
    NetDescription,
    NetRequest,
    Read,
    Reseed,
    Reshape,
    Reshaped,
    SetUpLayer,
    Shapes,
    ShareWith,
)
from avec.tensor import Array

_REQUESTS: msgspec.msgpack.Decoder[NetRequest] = msgspec.msgpack.Decoder(NetRequest)
_ENCODER = msgspec.msgpack.Encoder()
_NO_SHAPES = _ENCODER.encode(Shapes())


class Construction(Protocol):
    """What goes on building a net, see build.Builder."""

    @property
    def complete(self) -> bool: ...

    def set_up(self, tops: Sequence[Shape], parameters: Sequence[Shape], loss_weights: tuple[float, ...]) -> None: ...

    def go_on(self) -> NetDescription: ...


class CaffeModel:
    """One net with its blobs and parameters. Called by one thread at a time."""

    def __init__(
        self,
        names: Sequence[str],
        layers: Sequence[Layer],
        plan: Plan,
        accelerator: Accelerator,
        construction: Construction,
        outputs: Sequence[int] = (),
    ) -> None:
        self.layers = layers
        self.plan = plan
        self.memory = Memory(names, layers, plan, accelerator)
        self.names = names
        self.outputs = outputs
        self._accelerator = accelerator
        self._construction = construction
        self._told: list[Shape] = []
        self._counts_losses = False
        self._loss: Tensor | None = None  # of the forward passes since diffs or losses were cleared

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request. See avec.destination.executors.Model."""
        try:
            request = _REQUESTS.decode(body)
        except msgspec.MsgspecError as exc:
            raise InvalidArgument(f"a request to a Caffe net cannot be understood: {exc}") from exc
        with guarded(self._accelerator):
            return self.carry_out(request, arrays, files, others)

    def carry_out(
        self, request: NetRequest, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model]
    ) -> Answer:
        """Carry out one decoded request, without waiting for the accelerator."""
        if not isinstance(request, SetUpLayer):
            self.require_complete()
        self.synchronise(request.writes, request.reshaped, arrays)
        kernels = 0
        results: tuple[Array, ...] = ()
        match request:
            case Forward():
                kernels = self.forward(request.start, request.end)
                results = self.memory.fetch(request.wanted)
            case Backward():
                kernels = self.backward(request.start, request.end)
                results = self.memory.fetch(request.wanted)
            case Reshape():
                self.plan.propagate(*self._checked_range("reshape", request.start, request.end))
            case Read():
                results = self.memory.fetch(request.wanted)
            case CopyFrom():
                self._copy_from(request, files)
            case ClearDiffs():
                self.clear_diffs()
            case ShareWith():
                if share_weights(self.layers, _other_net(others, request.net).layers):
                    self.plan.forget()
            case SetUpLayer():
                self._construction.set_up(request.tops, request.parameters, request.loss_weights)
                results = (np.frombuffer(_ENCODER.encode(self.build()), np.uint8),)
            case Reseed():
                self._reseed(request.seed)
        return Answer(_encoded(self.changed_shapes()), results, kernels)

    def close(self) -> None:
        """Free all that the net holds on the accelerator."""
        self.memory.close()
        for layer in self.layers:
            layer.parameters.clear()
            layer.learnables.clear()
            layer.state.clear()
        self.plan.close()
        self.layers = ()
        self.plan = Plan((), [], self._accelerator.device)

    def synchronise(self, writes: Sequence[BlobRef], reshaped: Sequence[Reshaped], arrays: Sequence[Array]) -> None:
        """Take over what the application changed: shapes first, for the new contents have them."""
        if len(arrays) != len(writes):
            raise InvalidArgument(f"a request with {len(writes)} writes came with {len(arrays)} parts")
        for change in reshaped:
            check_index("blob", change.index, len(self.names))
            self.plan.set_shape(change.index, change.shape)
        for ref, array in zip(writes, arrays, strict=True):
            self.memory.write(ref, array)

    def forward(self, start: int = 0, end: int = -1) -> int:
        """Run layers start…end; returns how many operators were launched."""
        start, end = self._checked_range("forward", start, end)
        if start > end:
            return 0
        self.plan.propagate(start, end)
        for index in self.plan.reads(start, end):
            self.memory.blob(index)
        kernels = self.plan.run(start, end, self.memory.blobs)
        if self._counts_losses:
            self._take_losses(start, end)
        return kernels

    def _take_losses(self, start: int, end: int) -> None:
        for layer in self.layers[start : end + 1]:
            if not layer.external:
                for place, weight in zip(layer.tops, layer.loss_weights, strict=False):
                    if weight:
                        loss = self.memory.blob(place).sum() * weight
                        self._loss = loss if self._loss is None else self._loss + loss

    def count_losses(self) -> None:
        """Keep the losses of forward passes from now on: a solver wants them."""
        self._counts_losses = True

    def total_loss(self) -> Tensor:
        """The loss of all forward passes since diffs or losses were cleared."""
        return torch.zeros((), device=self._accelerator.device) if self._loss is None else self._loss

    def clear_losses(self) -> None:
        self._loss = None

    @property
    def has_host_layers(self) -> bool:
        return any(layer.external for layer in self.layers)

    def require_complete(self) -> None:
        """Raise InvalidArgument while the net awaits a layer of the host's."""
        if not self._construction.complete:
            raise InvalidArgument("the net is not complete: it awaits a layer of the host's, see SetUpLayer")

    def backward(self, start: int = -1, end: int = 0) -> int:
        """Run layers start…end (start ≥ end) backwards; returns how many operators were launched."""
        start = len(self.layers) - 1 if start == -1 else start
        end, start = self._checked_range("backward", end, start)
        for index in self.plan.backward_layers(start, end):
            layer = self.layers[index]
            for place in (*layer.bottoms, *layer.tops):
                self.memory.blob(place)
            for place in layer.tops:
                self.memory.diff(place)
        return self.plan.run_backward(start, end, self.memory.blobs, self.memory.diffs)

    def clear_diffs(self) -> None:
        """Set the diffs of all parameters to 0; an iteration begins."""
        self._loss = None
        for layer in self.layers:
            for learnable in layer.learnables:
                learnable.diff = None

    def changed_shapes(self) -> tuple[Shape, ...]:
        """The shapes of all blobs where any changed since they were last told."""
        if self.plan.shapes == self._told:
            return ()
        self._told = list(self.plan.shapes)
        return tuple(self._told)

    def build(self) -> NetDescription:
        """Build the net as far as it goes without the host."""
        description = self._construction.go_on()
        self._told = list(self.plan.shapes)
        return description

    def _reseed(self, seed: int) -> None:
        generators = {id(each): each for layer in self.layers for each in (layer.random, layer.filling)}
        for generator in generators.values():
            if generator is not None:
                generator.manual_seed(seed % 2**63)

    def _copy_from(self, request: CopyFrom, files: Mapping[str, Path]) -> None:
        path = files.get(WEIGHTS)
        if path is None:
            raise InvalidArgument(f"copying weights from {request.source!r}: the request names no weights file")
        copy_weights(self.layers, read_weights(path, request.source), request.source)

    def _checked_range(self, what: str, start: int, end: int) -> tuple[int, int]:
        """A range of layers with both ends in the net; an end of −1 is the last layer."""
        last = len(self.layers) - 1
        end = last if end == -1 else end
        if not 0 <= start <= last or not 0 <= end <= last:
            raise InvalidArgument(f"{what} from layer {start} to {end}: the net has layers 0 to {last}")
        return start, end


@contextmanager
def guarded(accelerator: Accelerator) -> Iterator[None]:
    """Carry out a request; then the call's parts are the caller's again, and results have arrived."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if is_out_of_memory(exc) and not isinstance(exc, AcceleratorOutOfMemory):
            reason = str(exc).split("\n", 1)[0]
            raise AcceleratorOutOfMemory(f"moving blobs between host and accelerator: {reason}") from exc
        raise
    finally:
        accelerator.synchronize()


def _encoded(shapes: tuple[Shape, ...]) -> bytes:
    return _ENCODER.encode(Shapes(shapes)) if shapes else _NO_SHAPES


def _other_net(others: Sequence[Model], place: int) -> CaffeModel:
    nets = [net for other in others for net in getattr(other, "nets", [other])]
    if not 0 <= place < len(nets) or not isinstance(nets[place], CaffeModel):
        raise InvalidArgument(
            f"sharing parameters with net {place} of {len(nets)}: another Caffe net's handle is needed"
        )
    found: CaffeModel = nets[place]
    return found
