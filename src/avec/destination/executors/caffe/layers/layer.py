"""What a layer is to the functions that carry it out, and what such a function must look like.

A layer type is two small functions. `parameters` says which learnable arrays a layer has. `prepare` works out all that
is fixed while shapes stay the same: the shapes of the tops, and the operation (tensors in: bottoms, then parameters;
tensors out). Operations are plain differentiable torch. Shapes are computed and not inferred on meta tensors, whose
first use costs a worker 0.7 s and 40 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.formats.caffe.message import Message

Shape: TypeAlias = tuple[int, ...]
Operation: TypeAlias = Callable[..., Tensor | Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One learnable array of a layer, and the FillerParameter that gives its first values."""

    shape: Shape
    filler: Message


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
        raise InvalidArgument(f"layer {self.name!r} ({self.type}): {reason}")

    def unsupported(self, what: str) -> NoReturn:
        raise UnsupportedOperation(f"layer {self.name!r} ({self.type}): {what} is not supported")

    def axis(self, index: int, shape: Shape) -> int:
        """Resolve an axis that may count from the end. Source: Blob::CanonicalAxisIndex."""
        self.require(-len(shape) <= index < len(shape), f"axis {index} is out of range for a bottom of shape {shape}")
        return index % len(shape)


class Prepared(NamedTuple):
    """A layer made ready for its bottoms' shapes."""

    operation: Operation
    tops: Sequence[Shape]


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
