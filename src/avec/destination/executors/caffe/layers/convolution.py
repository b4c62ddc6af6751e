"""Convolution and Deconvolution over one to three axes, Im2col. Source: caffe/src/caffe/layers/base_conv_layer.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import (
    Gradient,
    Layer,
    Operation,
    ParameterSpec,
    Pass,
    Prepared,
    Shape,
)

_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


@dataclass(frozen=True, slots=True)
class Geometry:
    """The settings of a convolution with one number for each spatial axis."""

    axis: int  # of the channels
    channels: int
    outputs: int
    groups: int
    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape


def geometry(layer: Layer, bottoms: Sequence[Shape]) -> Geometry:
    """Read and check ConvolutionParameter against the first bottom's shape."""
    setting = layer.setting("convolution_param")
    shape = bottoms[0]
    axis = layer.axis(setting.axis, shape)
    spatial = len(shape) - axis - 1
    if spatial not in _CONVOLUTIONS:
        layer.unsupported(f"a bottom of shape {shape}, which has {spatial} spatial axes (1 to 3 are),")
    layer.require_values(shape, axis)
    layer.require(setting.num_output > 0, "num_output must be positive")
    layer.require(setting.group > 0, "group must be positive")
    for what, count in (("input channels", shape[axis]), ("num_output", setting.num_output)):
        layer.require(count % setting.group == 0, f"{count} {what} are not divisible by group {setting.group}")
    for other in bottoms[1:]:
        layer.require(other == shape, f"bottoms differ in shape: {shape} and {other}")
    return Geometry(
        axis=axis,
        channels=shape[axis],
        outputs=setting.num_output,
        groups=setting.group,
        kernel=_per_axis(layer, "kernel", "kernel_size", spatial, None),
        stride=_per_axis(layer, "stride", "stride", spatial, 1),
        pad=_per_axis(layer, "pad", "pad", spatial, 0),
        dilation=_per_axis(layer, "dilation", "dilation", spatial, 1),
    )


def _per_axis(layer: Layer, prefix: str, name: str, spatial: int, default: int | None) -> Shape:
    """One number for each spatial axis, from `name` given once or for each, or from the _h and _w fields."""
    setting = layer.setting("convolution_param")
    given = tuple(getattr(setting, name))
    sides = [f"{prefix}_h", f"{prefix}_w"] if prefix != "dilation" else []
    if any(setting.HasField(side) for side in sides):
        layer.require(spatial == 2, f"{prefix}_h and {prefix}_w are for two spatial axes; here are {spatial}")
        layer.require(not given, f"{name} is given beside {prefix}_h and {prefix}_w; keep one way")
        given = tuple(getattr(setting, side) for side in sides)
    elif not given and default is not None:
        given = (default,)
    layer.require(len(given) in (1, spatial), f"{name} is given {len(given)} times; once or {spatial} times is allowed")
    values = given * spatial if len(given) == 1 else given
    layer.require(prefix == "pad" or min(values) > 0, f"{name} must be positive, not {values}")
    return values


def _parameters(layer: Layer, weight: Shape) -> list[ParameterSpec]:
    setting = layer.setting("convolution_param")
    found = [ParameterSpec(weight, setting.weight_filler)]
    if setting.bias_term:
        found.append(ParameterSpec((setting.num_output,), setting.bias_filler))
    return found


def convolution_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    g = geometry(layer, bottoms)
    return _parameters(layer, (g.outputs, g.channels // g.groups, *g.kernel))


def deconvolution_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    g = geometry(layer, bottoms)
    return _parameters(layer, (g.channels, g.outputs // g.groups, *g.kernel))


def convolution(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    g = geometry(layer, bottoms)
    _check_channels(layer, g.channels, layer.parameters[0].shape[1] * g.groups)
    convolve = _CONVOLUTIONS[len(g.kernel)]

    def operation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, weight, bias, g.stride, g.pad, g.dilation, g.groups)

    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(bottoms[0][g.axis + 1 :], g.kernel, g.stride, g.pad, g.dilation, strict=True)
    ]
    return _prepared(layer, operation, g, bottoms, size, transposed=False)


def deconvolution(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    g = geometry(layer, bottoms)
    _check_channels(layer, g.channels, layer.parameters[0].shape[0])
    convolve = _TRANSPOSED[len(g.kernel)]

    def operation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, weight, bias, g.stride, g.pad, 0, g.groups, g.dilation)

    size = [
        s * (n - 1) + d * (k - 1) + 1 - 2 * p
        for n, k, s, p, d in zip(bottoms[0][g.axis + 1 :], g.kernel, g.stride, g.pad, g.dilation, strict=True)
    ]
    return _prepared(layer, operation, g, bottoms, size, transposed=True)


def _prepared(
    layer: Layer,
    operation: Callable[..., Tensor],
    g: Geometry,
    bottoms: Sequence[Shape],
    size: list[int],
    transposed: bool,
) -> Prepared:
    layer.require(min(size) > 0, f"kernel {g.kernel} with pad {g.pad} leaves nothing of a bottom of shape {bottoms[0]}")
    top = (*bottoms[0][: g.axis], g.outputs, *size)
    flattened = _over_leading_axes(operation, g.axis)
    gradient = _gradient(g, transposed) if g.axis == 1 else None
    return Prepared(_for_each_bottom(flattened, len(bottoms)), [top] * len(bottoms), gradient)


def _gradient(g: Geometry, transposed: bool) -> Gradient:
    """Of all bottoms; what they give to the parameters is summed up."""
    no_padding = (0,) * len(g.kernel)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        count, weight = len(given.bottoms), given.parameters[0]
        learns = given.wanted[count:]
        bias_shape = [g.outputs] if len(learns) > 1 else None
        downs: list[Tensor | None] = []
        sums: list[Tensor | None] = [None] * len(learns)
        for x, diff, down in zip(given.bottoms, given.diffs, given.wanted, strict=False):
            found = torch.ops.aten.convolution_backward(
                diff, x, weight, bias_shape, g.stride, g.pad, g.dilation, transposed, no_padding, g.groups,
                (down, *learns, *(False for _ in range(2 - len(learns)))),
            )  # fmt: skip
            downs.append(found[0])
            for index, (total, part) in enumerate(zip(sums, found[1:], strict=False)):
                sums[index] = part if total is None else total + part
        return [*downs, *sums]

    return gradient


def im2col(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Each window of the kernel as a column of channels. Source: caffe/src/caffe/layers/im2col_layer.cpp."""
    setting, shape = layer.setting("convolution_param"), bottoms[0]
    axis = layer.axis(setting.axis, shape)
    if len(shape) - axis - 1 != 2:
        layer.unsupported(f"a bottom of shape {shape} with channels on axis {axis}: 2 spatial axes are; that")
    kernel = _per_axis(layer, "kernel", "kernel_size", 2, None)
    stride = _per_axis(layer, "stride", "stride", 2, 1)
    pad = _per_axis(layer, "pad", "pad", 2, 0)
    dilation = _per_axis(layer, "dilation", "dilation", 2, 1)
    spans = zip(shape[axis + 1 :], kernel, stride, pad, dilation, strict=True)
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans]
    layer.require(min(size) > 0, f"kernel {kernel} with pad {pad} leaves nothing of a bottom of shape {shape}")
    layer.require(0 not in shape[axis:], f"a bottom of shape {shape} has nothing to make columns of")
    top = (*shape[:axis], shape[axis] * math.prod(kernel), *size)

    def operation(x: Tensor) -> Tensor:
        batch = x.reshape(math.prod(shape[:axis]), *shape[axis:])
        return F.unfold(batch, kernel, dilation, pad, stride).view(top)

    return Prepared(operation, [top])


def _check_channels(layer: Layer, given: int, expected: int) -> None:
    layer.require(given == expected, f"the bottom has {given} channels; the weights are for {expected}")


def _over_leading_axes(operation: Callable[..., Tensor], axis: int) -> Callable[..., Tensor]:
    """Let an operation on (batch, channels, …) take tensors with any number of axes before the channels."""
    if axis == 1:
        return operation

    def flattened(x: Tensor, *parameters: Tensor) -> Tensor:
        leading = x.shape[:axis]
        y = operation(x.reshape(math.prod(leading), *x.shape[axis:]), *parameters)
        return y.reshape(*leading, *y.shape[1:])

    return flattened


def _for_each_bottom(operation: Callable[..., Tensor], count: int) -> Operation:
    if count == 1:
        return operation

    def several(*tensors: Tensor) -> list[Tensor]:
        return [operation(x, *tensors[count:]) for x in tensors[:count]]

    return several
