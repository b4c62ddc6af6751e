"""What a layer is to the functions that carry it out, and what such a function must look like.

A layer type is two small functions. `parameters` says which learnable arrays a layer has. `prepare` works out all that
is fixed while shapes stay the same: the shapes of the tops, the operation (tensors in: bottoms, then parameters;
tensors out), and its gradient. A layer without a gradient of its own gets one by torch's differentiation of its
operation, which then is plain differentiable torch without effects. Shapes are computed and not inferred on meta
tensors, whose first use costs a worker 0.7 s and 40 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.formats.caffe.message import Message
from avec.protocol.caffe import HOST_LAYERS

Shape: TypeAlias = tuple[int, ...]
Operation: TypeAlias = Callable[..., Tensor | Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One learnable array of a layer, and the FillerParameter that gives its first values."""

    shape: Shape
    filler: Message


@dataclass(slots=True, eq=False)
class Learnable:
    """One learnable array with its diff; layers that share a parameter by name share this. Source: Net::AppendParam."""

    values: Tensor
    diff: Tensor | None = None  # None: zeros
    rate: float = 1.0  # lr_mult
    decay: float = 1.0  # decay_mult

    def accumulate(self, gradient: Tensor) -> None:
        """Add to the diff; `gradient` is the diff's own from now on."""
        gradient = gradient.view(self.values.shape)
        self.diff = gradient if self.diff is None else self.diff.add_(gradient)


@dataclass(slots=True)
class Layer:
    """One layer of a net; bottoms and tops are places in the net's blobs."""

    name: str
    type: str
    definition: Message  # the LayerParameter
    bottoms: Shape
    tops: Shape
    training: bool
    parameters: list[Tensor] = field(default_factory=list)
    learnables: list[Learnable] = field(default_factory=list)  # of each parameter
    learns: tuple[bool, ...] = ()  # for each parameter whether it gets a diff
    propagates: tuple[bool, ...] = ()  # for each bottom whether it gets a diff
    needs_backward: bool = False
    loss_weights: tuple[float, ...] = ()  # of each top; empty: all 0
    random: torch.Generator | None = None  # the net's, on the accelerator
    filling: torch.Generator | None = None  # the net's in host memory, which fillers draw from
    state: dict[str, Tensor] = field(default_factory=dict)  # what a pass leaves for the next one
    files: Mapping[str, bytes] = field(default_factory=dict)  # the host's files that came with the net

    @property
    def kind(self) -> str:
        return f"layer {self.name!r} ({self.type})"

    @property
    def external(self) -> bool:
        """Whether the host runs it."""
        return self.type in HOST_LAYERS

    @property
    def given(self) -> bool:
        """Whether its tops hold what the host wrote: nothing is computed here."""
        return self.type == "Input" or self.external

    @property
    def in_place(self) -> bool:
        """Whether the first top is the first bottom: the operation may then write into it."""
        return bool(self.tops and self.bottoms and self.tops[0] == self.bottoms[0])

    def setting(self, name: str) -> Any:
        """The layer's own parameter message, `convolution_param` for instance."""
        return getattr(self.definition, name)

    def require(self, condition: bool, reason: str) -> None:
        """Raise InvalidArgument unless the condition holds, as Caffe's CHECK would abort."""
        if not condition:
            self.refuse(reason)

    def require_values(self, shape: Shape, axis: int) -> None:
        """Refuse a bottom that is empty from an axis on; an empty batch is no reason to."""
        self.require(0 not in shape[axis:], f"a bottom of shape {shape} holds nothing to work on")

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidArgument(f"{self.kind}: {reason}")

    def unsupported(self, what: str) -> NoReturn:
        raise UnsupportedOperation(f"{self.kind}: {what} is not supported")

    def kept(self, name: str) -> Tensor:
        """What the last forward pass left for the backward pass."""
        found = self.state.get(name)
        if found is None:
            self.refuse("a backward pass needs a forward pass before it")
        return found

    def axis(self, index: int, shape: Shape) -> int:
        """Resolve an axis that may count from the end. Source: Blob::CanonicalAxisIndex."""
        self.require(-len(shape) <= index < len(shape), f"axis {index} is out of range for a bottom of shape {shape}")
        return index % len(shape)


@dataclass(frozen=True, slots=True)
class Pass:
    """What the gradient of a layer is computed from."""

    bottoms: Sequence[Tensor]  # what a layer that works in place has overwritten it finds overwritten, as in Caffe
    tops: Sequence[Tensor]
    diffs: Sequence[Tensor]  # of the tops
    parameters: Sequence[Tensor]
    wanted: tuple[bool, ...]  # for each bottom, then for each parameter


# A diff for each bottom, then for each parameter; None where it is zeros or not wanted. Those of parameters are new.
Gradient: TypeAlias = Callable[[Pass], Sequence[Tensor | None]]


class Prepared(NamedTuple):
    """A layer made ready for its bottoms' shapes."""

    operation: Operation
    tops: Sequence[Shape]
    gradient: Gradient | None = None  # None: by differentiating the operation
    keeps_bottom: bool = False  # in place, the gradient needs what the first bottom was before
    scribbles: frozenset[int] = frozenset()  # bottoms whose diffs are written although they are not wanted, as in Caffe


def elementwise(gradient: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Gradient:
    """The gradient of a layer with one bottom and one top from a function of bottom, top and top's diff."""

    def from_pass(given: Pass) -> Sequence[Tensor]:
        return (gradient(given.bottoms[0], given.tops[0], given.diffs[0]),)

    return from_pass


def differentiated(operation: Operation) -> Gradient:
    """The gradient of an operation by running it again under torch's differentiation."""

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        with torch.enable_grad():
            inputs = [
                tensor.detach().requires_grad_(wanted)
                for tensor, wanted in zip((*given.bottoms, *given.parameters), given.wanted, strict=True)
            ]
            result = operation(*inputs)
        outputs = [result] if isinstance(result, Tensor) else list(result)
        pairs = [(top, diff) for top, diff in zip(outputs, given.diffs, strict=True) if top.requires_grad]
        sought = [tensor for tensor, wanted in zip(inputs, given.wanted, strict=True) if wanted]
        if not pairs or not sought:
            return [None] * len(inputs)
        found = iter(
            torch.autograd.grad([top for top, _ in pairs], sought, [diff for _, diff in pairs], allow_unused=True)
        )
        return [next(found) if wanted else None for wanted in given.wanted]

    return gradient


Prepare: TypeAlias = Callable[[Layer, Sequence[Shape], torch.device], Prepared]
Parameters: TypeAlias = Callable[[Layer, Sequence[Shape]], list[ParameterSpec]]


def no_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    return []


def never_shares(layer: Layer) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class LayerType:
    """How one layer type is carried out; `bottoms` and `tops` are the least and the greatest number of them."""

    prepare: Prepare
    bottoms: tuple[int, int]
    tops: tuple[int, int]
    parameters: Parameters = no_parameters
    shares_memory: Callable[[Layer], bool] = never_shares  # tops are the first bottom's memory (Blob::ShareData)
    shares_diffs: bool = True  # where memory is shared, diffs are as well
    loss: bool = False  # the first top is a loss of weight 1, and made where the definition names none
    forced: frozenset[int] | None = None  # bottoms that force_backward reaches; None: all (Layer::AllowForceBackward)
    differentiable: bool = True
    closed: frozenset[int] = frozenset()  # bottoms that no diff can reach, as labels and indices are
    fixed_parameters: bool = False  # what it learns it does in its forward pass: its parameters' lr_mult is 0
    dynamic: bool = False  # the tops' shapes depend on the bottoms' contents
