"""What a net does in one forward or backward pass, worked out once for each set of shapes: a list of ready steps.

A step takes the list of blobs and replaces what its layer produces. Between two changes of shape a forward pass is
nothing but calling the steps. A backward step takes the lists of blobs and of their diffs. No steps run under torch's
inference mode: what they make is to be differentiated later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.destination.executors.caffe.layers.layer import (
    Gradient,
    Layer,
    Operation,
    Pass,
    Prepared,
    Shape,
    differentiated,
)
from avec.errors import AcceleratorOutOfMemory, ExecutionError, InvalidArgument, RemoteError
from avec.tensor import RANK_LIMIT

Step: TypeAlias = Callable[[list[Tensor | None]], None]
Tensors: TypeAlias = list[Tensor | None]
BackwardStep: TypeAlias = Callable[[Tensors, Tensors], None]

BOTTOM = "bottom"  # in Layer.state: what the first bottom was before the layer overwrote it

COUNT_LIMIT = 2**31 - 1  # values in one blob: Caffe counts them in an int
SHAPES_KEPT = 16  # sets of shapes that stay prepared: a program that changes scales comes back to them


@dataclass(frozen=True, slots=True)
class Range:
    """The steps of consecutive layers, ready for the present shapes."""

    steps: list[Step]
    tops: list[tuple[int, Shape]]  # blobs and the shapes that the steps give them


class Ready(NamedTuple):
    """One layer made ready for its bottoms' shapes."""

    step: Step
    backward: BackwardStep
    tops: tuple[Shape, ...]


class Plan:
    """The shapes of a net's blobs and the steps that fit them."""

    def __init__(self, layers: Sequence[Layer], shapes: list[Shape], device: torch.device) -> None:
        """Plan for `layers`; `shapes` is this plan's own from now on and holds what Input layers give."""
        self.shapes = shapes
        self._layers = layers
        self._device = device
        self._loss_weights: dict[int, float] | None = None
        self._shared = _shared_blobs(layers)
        self._steps: list[Step] = [_nothing] * len(layers)
        self._backward: list[BackwardStep] = [_no_diffs] * len(layers)
        self._dynamic = {place for place, layer in enumerate(layers) if LAYER_TYPES[layer.type].dynamic}
        self._ready: list[dict[tuple[Shape, ...], Ready]] = [{} for _ in layers]  # by the bottoms' shapes
        self._reads: dict[tuple[int, int], list[int]] = {}
        self._ranges: dict[tuple[int, int], Range] = {}  # for the present shapes
        self._kernels: dict[tuple[int, int, tuple[Shape, ...]], int] = {}  # by the shapes of what a range reads
        self._backward_kernels: dict[tuple[int, int], int] = {}  # for the present shapes
        self._stale = True

    @property
    def loss_weights(self) -> dict[int, float]:
        """The blobs that are losses, and their weights; known when the net is complete."""
        if self._loss_weights is None:
            pairs = [pair for layer in self._layers for pair in zip(layer.tops, layer.loss_weights, strict=False)]
            self._loss_weights = {place: weight for place, weight in pairs if weight}
        return self._loss_weights

    def set_shape(self, index: int, shape: Shape) -> None:
        """Change one blob's shape; the layers after it follow at the next `propagate`."""
        check_shape(f"blob {index}", shape)
        if self.shapes[index] != shape:
            self.shapes[index] = shape
            self._stale = True

    def propagate(self, start: int, end: int) -> bool:
        """Let shapes flow through layers start…end (inclusive). Returns whether anything could have changed.

        Raises:
            InvalidArgument: a layer cannot take its bottoms' shapes.
        """
        if not self._stale:
            return False
        self._ranges.clear()
        self._backward_kernels.clear()
        for index in range(start, end + 1):
            self.propagate_one(index)
        self._stale = not (start == 0 and end == len(self._layers) - 1)
        return True

    def propagate_one(self, index: int) -> None:
        layer = self._layers[index]
        if layer.given:
            return
        bottoms = tuple([self.shapes[place] for place in layer.bottoms])
        kept = self._ready[index]
        ready = kept.get(bottoms)
        if ready is None:
            if len(kept) >= SHAPES_KEPT:
                kept.clear()
            ready = kept[bottoms] = self._prepare(layer, bottoms)
        self._steps[index], self._backward[index] = ready.step, ready.backward
        for place, shape in zip(layer.tops, ready.tops, strict=True):
            self.shapes[place] = shape

    def _prepare(self, layer: Layer, bottoms: tuple[Shape, ...]) -> Ready:
        prepared = LAYER_TYPES[layer.type].prepare(layer, bottoms, self._device)
        count = len(prepared.tops)
        layer.require(len(layer.tops) == count, f"it has {len(layer.tops)} tops; {count} are needed")
        for shape in prepared.tops:
            check_shape(f"{layer.kind}: a top", shape)
        for bottom, top, before, after in zip(layer.bottoms, layer.tops, bottoms, prepared.tops, strict=False):
            layer.require(
                bottom != top or before == after, f"it works in place, but would change shape {before} to {after}"
            )
        gradient = prepared.gradient or differentiated(prepared.operation)
        backward = _backward(gradient, layer, prepared.scribbles)
        return Ready(self._step(layer, prepared), backward, tuple(prepared.tops))

    def _step(self, layer: Layer, prepared: Prepared) -> Step:
        operation = prepared.operation
        if prepared.keeps_bottom and layer.in_place:
            operation = _keeping(operation, layer, copied=layer.tops[0] in self._shared)
        if len(layer.tops) != 1:
            return _several_tops(operation, layer)
        if layer.in_place and layer.tops[0] in self._shared:
            return _written_through(operation, layer)
        return _one_bottom(operation, layer) if len(layer.bottoms) == 1 else _several_bottoms(operation, layer)

    def forget(self) -> None:
        """Prepare all layers anew: their parameters are other tensors now."""
        for kept in self._ready:
            kept.clear()
        self._ranges.clear()
        self._stale = True

    def close(self) -> None:
        """Let go of all steps, which hold parameters."""
        self.forget()
        self._steps.clear()
        self._backward.clear()

    def _range(self, start: int, end: int) -> Range:
        found = self._ranges.get((start, end))
        if found is None:
            computing = [layer for layer in self._layers[start : end + 1] if not layer.given]
            tops = [(place, self.shapes[place]) for layer in computing for place in layer.tops]
            found = self._ranges[start, end] = Range(self._steps[start : end + 1], tops)
        return found

    def reads(self, start: int, end: int) -> list[int]:
        """The blobs that layers start…end (inclusive) read before one of them produces it."""
        found = self._reads.get((start, end))
        if found is None:
            found = self._reads[start, end] = self._find_reads(start, end)
        return found

    def _find_reads(self, start: int, end: int) -> list[int]:
        produced: set[int] = set()
        reads: dict[int, None] = {}
        for layer in self._layers[start : end + 1]:
            if layer.external:
                continue
            reads.update(dict.fromkeys(place for place in layer.bottoms if place not in produced))
            if not layer.given:
                produced.update(layer.tops)
        return list(reads)

    def run(self, start: int, end: int, blobs: list[Tensor | None]) -> int:
        """Run layers start…end on `blobs`, in which all that the range reads is there.

        Returns:
            How many operators were launched.

        Raises:
            AcceleratorOutOfMemory, RemoteError: naming the layer.
        """
        if not self._dynamic.isdisjoint(range(start, end + 1)):
            return self._run_dynamic(start, end, blobs)
        found = self._range(start, end)
        key = (start, end, tuple([self.shapes[place] for place in self.reads(start, end)]))
        kernels = self._kernels.get(key)
        if kernels is not None:
            self._run(found.steps, start, blobs)
            return kernels
        with _Counter() as counter:
            self._run(found.steps, start, blobs)
        _check_tops(found, blobs)
        if len(self._kernels) >= SHAPES_KEPT:
            self._kernels.clear()
        kernels = self._kernels[key] = int(counter.kernels)
        return kernels

    def _run(self, steps: list[Step], start: int, blobs: list[Tensor | None]) -> None:
        done = 0
        try:
            with torch.no_grad():
                for step in steps:
                    step(blobs)
                    done += 1
        except (RuntimeError, MemoryError) as exc:
            self._convert(exc, self._layers[start + done])

    def _run_dynamic(self, start: int, end: int, blobs: Tensors) -> int:
        """Run layers one by one, for the shapes of some are known only when they have run."""
        with _Counter() as counter:
            for index in range(start, end + 1):
                self.propagate_one(index)
                self._run([self._steps[index]], index, blobs)
                for place in self._layers[index].tops if index in self._dynamic else ():
                    self.shapes[place] = tuple(cast(Tensor, blobs[place]).shape)
        self._ranges.clear()
        return int(counter.kernels)

    def run_backward(self, start: int, end: int, blobs: Tensors, diffs: Tensors) -> int:
        """Run layers start…end (start ≥ end) backwards; blobs and diffs of all that they touch are there.

        Returns:
            How many operators were launched.

        Raises:
            AcceleratorOutOfMemory, RemoteError: naming the layer.
        """
        kernels = self._backward_kernels.get((start, end))
        if kernels is not None:
            self._run_backward(start, end, blobs, diffs)
            return kernels
        with _Counter() as counter:
            self._run_backward(start, end, blobs, diffs)
        kernels = self._backward_kernels[start, end] = int(counter.kernels)
        return kernels

    def _run_backward(self, start: int, end: int, blobs: Tensors, diffs: Tensors) -> None:
        with torch.no_grad():
            for index in self.backward_layers(start, end):
                try:
                    self._backward[index](blobs, diffs)
                except (RuntimeError, MemoryError) as exc:
                    if isinstance(exc, ExecutionError):
                        raise
                    self._convert(exc, self._layers[index])

    def backward_layers(self, start: int, end: int) -> list[int]:
        """The layers of start…end that take part in a backward pass here, in its order."""
        places = range(start, end - 1, -1)
        return [place for place in places if self._layers[place].needs_backward and not self._layers[place].given]

    def _convert(self, exc: RuntimeError | MemoryError, layer: Layer) -> None:
        shapes = _listed(self.shapes[place] for place in (*layer.bottoms, *layer.tops))
        where = f"{layer.kind}, blobs of shapes {shapes}"
        reason = str(exc).split("\n", 1)[0]
        if is_out_of_memory(exc):
            raise AcceleratorOutOfMemory(
                f"{where}: {reason}; use a smaller input or batch, or another destination"
            ) from exc
        raise RemoteError(f"{where}: {type(exc).__name__}: {reason}") from exc


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether torch could not allocate; on the CPU it says so only in the text."""
    return isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(exc)


def check_shape(what: str, shape: Shape) -> None:
    """Raise InvalidArgument for a shape that Caffe would not take. Source: Blob::Reshape."""
    if len(shape) > RANK_LIMIT:
        raise InvalidArgument(f"{what} has {len(shape)} axes; the limit is {RANK_LIMIT}")
    if any(dimension < 0 for dimension in shape):
        raise InvalidArgument(f"{what} has a negative dimension: {shape}")
    if math.prod(shape) > COUNT_LIMIT:
        raise InvalidArgument(f"{what} of shape {shape} has {math.prod(shape)} values; the limit is {COUNT_LIMIT}")


def _shared_blobs(layers: Sequence[Layer]) -> set[int]:
    """Blobs whose memory another blob has as well: what is written into them must not move elsewhere."""
    sharing = [layer for layer in layers if LAYER_TYPES[layer.type].shares_memory(layer)]
    return {place for layer in sharing for place in (*layer.bottoms, *layer.tops)}


def _check_tops(found: Range, blobs: list[Tensor | None]) -> None:
    """Compare what a first pass gave with what was planned: the host was told the planned shapes."""
    for place, shape in found.tops:
        top = blobs[place]
        if top is None or top.shape != shape or not top.is_contiguous():
            given = "nothing" if top is None else f"{tuple(top.shape)} with strides {top.stride()}"
            raise RemoteError(f"blob {place} is {given} where {shape} was planned: please report this net")


def _listed(shapes: Any) -> str:
    return ", ".join(str(shape) for shape in shapes)


def _nothing(blobs: list[Tensor | None]) -> None:
    """The step of a layer without bottoms."""


def _no_diffs(blobs: Tensors, diffs: Tensors) -> None:
    """The backward step of a layer that is not prepared: what is given has no gradient."""


def _check_reachable(layer: Layer) -> None:
    """Refuse a backward pass that Caffe would end the process at."""
    kind = LAYER_TYPES[layer.type]
    for place, propagates in enumerate(layer.propagates):
        layer.require(not propagates or place not in kind.closed, f"no diff can reach bottom {place}")
        layer.require(not propagates or kind.differentiable, "it cannot run backwards")


def _backward(gradient: Gradient, layer: Layer, scribbles: frozenset[int]) -> BackwardStep:
    parameters = tuple(layer.parameters)

    def step(blobs: Tensors, diffs: Tensors) -> None:
        _check_reachable(layer)
        wanted = (*layer.propagates, *layer.learns)
        bottoms = [cast(Tensor, blobs[place]) for place in layer.bottoms]
        if BOTTOM in layer.state:
            bottoms[0] = layer.state[BOTTOM]
        tops = [cast(Tensor, blobs[place]) for place in layer.tops]
        given = Pass(bottoms, tops, [cast(Tensor, diffs[place]) for place in layer.tops], parameters, wanted)
        found = gradient(given)
        for index, (place, diff) in enumerate(zip(layer.bottoms, found, strict=False)):
            if diff is not None and (wanted[index] or index in scribbles):
                diffs[place] = diff.contiguous()
            elif wanted[index]:
                diffs[place] = torch.zeros_like(cast(Tensor, blobs[place]))
        for learnable, diff, learns in zip(layer.learnables, found[len(bottoms) :], layer.learns, strict=False):
            if learns and diff is not None:
                learnable.accumulate(_own(diff, given.diffs))

    return step


def _own(diff: Tensor, others: Sequence[Tensor]) -> Tensor:
    """A diff in memory of its own: a parameter's is added to later, a blob's replaced."""
    shared = any(diff.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() for other in others)
    return diff.clone(memory_format=torch.contiguous_format) if shared else diff.contiguous()


def _keeping(operation: Operation, layer: Layer, copied: bool) -> Operation:
    def kept(*tensors: Tensor) -> Tensor | Sequence[Tensor]:
        if layer.needs_backward:
            layer.state[BOTTOM] = tensors[0].clone() if copied else tensors[0]
        return operation(*tensors)

    return kept


def _one_bottom(operation: Operation, layer: Layer) -> Step:
    (bottom,), (top,), parameters = layer.bottoms, layer.tops, tuple(layer.parameters)
    compute = cast(Callable[..., Tensor], operation)

    def step(blobs: list[Tensor | None]) -> None:
        blobs[top] = compute(blobs[bottom], *parameters)

    return step


def _several_bottoms(operation: Operation, layer: Layer) -> Step:
    bottoms, (top,), parameters = layer.bottoms, layer.tops, tuple(layer.parameters)
    compute = cast(Callable[..., Tensor], operation)

    def step(blobs: list[Tensor | None]) -> None:
        blobs[top] = compute(*[blobs[place] for place in bottoms], *parameters)

    return step


def _written_through(operation: Operation, layer: Layer) -> Step:
    """In-place computation on memory that another blob shares: that one has to see it too."""
    bottoms, (top,), parameters = layer.bottoms, layer.tops, tuple(layer.parameters)
    compute = cast(Callable[..., Tensor], operation)

    def step(blobs: list[Tensor | None]) -> None:
        memory = cast(Tensor, blobs[top])
        result = compute(*[blobs[place] for place in bottoms], *parameters)
        if result is not memory:
            memory.copy_(result)

    return step


def _several_tops(operation: Operation, layer: Layer) -> Step:
    bottoms, tops, parameters = layer.bottoms, layer.tops, tuple(layer.parameters)
    compute = cast(Callable[..., Sequence[Tensor]], operation)

    def step(blobs: list[Tensor | None]) -> None:
        results = compute(*[blobs[place] for place in bottoms], *parameters)
        for place, result in zip(tops, results, strict=True):
            blobs[place] = result

    return step


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that compute; views and bare allocations launch nothing."""

    _ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # By default the class definition imports torch._dynamo, only to keep it out: 2 s and 80 MB in each worker.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket.__name__ not in self._ALLOCATIONS:
            self.kernels += 1
        return func(*args, **(kwargs or {}))
