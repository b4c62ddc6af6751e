"""The first values of parameters. Source: caffe/include/caffe/filler.hpp.

Caffe seeds its fillers from the clock; here each net's generator starts from the same seed, so that a net without
weights gives the same numbers each time it is loaded, on any accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn, TypeAlias

import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Shape
from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message

Fill: TypeAlias = Callable[[Message, Shape, torch.Generator], Tensor]


def fill(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    """Make a float32 tensor in host memory as a FillerParameter says.

    Raises:
        InvalidArgument: an unknown filler, or one that the shape does not suit.
    """
    function = FILLERS.get(filler.type)
    if function is None:
        _refuse(filler, f"there is none of this name; known are {', '.join(FILLERS)}")
    if filler.sparse != -1 and filler.type != "gaussian":
        _refuse(filler, "sparse is for gaussian only")
    return function(filler, shape, generator)


def _refuse(filler: Message, reason: str) -> NoReturn:
    raise InvalidArgument(f"filler {filler.type!r}: {reason}")


def _constant(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.full(shape, filler.value, dtype=torch.float32)


def _uniform(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    if filler.min > filler.max:
        _refuse(filler, f"min {filler.min} is over max {filler.max}")
    return torch.empty(shape).uniform_(filler.min, filler.max, generator=generator)


def _gaussian(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    if filler.std < 0 or filler.sparse < -1:
        _refuse(filler, f"std {filler.std} and sparse {filler.sparse} must not be negative")
    values = torch.empty(shape).normal_(filler.mean, filler.std, generator=generator)
    if filler.sparse < 0:
        return values
    if not shape or shape[0] < filler.sparse:
        _refuse(filler, f"sparse {filler.sparse} is more than the outputs of shape {shape}")
    return values * torch.empty(shape).bernoulli_(filler.sparse / shape[0], generator=generator)


def _fan(filler: Message, shape: Shape) -> float:
    """The count that a variance is normalised by."""
    count = math.prod(shape)
    if count == 0:
        _refuse(filler, f"the parameter's shape {shape} is empty")
    fan_in = count // shape[0] if shape else 1
    fan_out = count // shape[1] if len(shape) > 1 else count
    if filler.variance_norm == filler.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == filler.FAN_OUT else fan_in


def _xavier(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    reach = math.sqrt(3.0 / _fan(filler, shape))
    return torch.empty(shape).uniform_(-reach, reach, generator=generator)


def _msra(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0.0, math.sqrt(2.0 / _fan(filler, shape)), generator=generator)


def _positive_unitball(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    if not shape or math.prod(shape) == 0:
        _refuse(filler, f"the parameter's shape {shape} has no rows")
    rows = torch.empty(shape).uniform_(0.0, 1.0, generator=generator).view(shape[0], -1)
    return (rows / rows.sum(1, keepdim=True)).view(shape)


def _bilinear(filler: Message, shape: Shape, generator: torch.Generator) -> Tensor:
    if len(shape) != 4 or shape[2] != shape[3]:
        _refuse(filler, f"it needs a square kernel in a 4-axis parameter, not shape {shape}")
    half = math.ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2.0 * half)
    line = 1 - (torch.arange(shape[3], dtype=torch.float32) / half - centre).abs()
    return torch.outer(line, line).expand(shape).contiguous()


FILLERS: dict[str, Fill] = {
    "constant": _constant,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
