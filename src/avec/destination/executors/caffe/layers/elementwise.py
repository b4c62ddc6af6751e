"""Layers that work on each value by itself, or with one number for each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Operation, ParameterSpec, Prepared, Shape
from avec.formats.caffe.message import Message, message_class


def constant_filler(value: float) -> Message:
    return message_class("FillerParameter")(type="constant", value=value)


def relu(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    slope = layer.setting("relu_param").negative_slope
    if slope:
        leaky = F.leaky_relu_ if layer.in_place else F.leaky_relu

        def operation(x: Tensor) -> Tensor:
            return leaky(x, slope)

        return Prepared(operation, bottoms)
    return Prepared(torch.relu_ if layer.in_place else torch.relu, bottoms)


def sigmoid(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    return Prepared(torch.sigmoid_ if layer.in_place else torch.sigmoid, bottoms)


def tanh(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    return Prepared(torch.tanh_ if layer.in_place else torch.tanh, bottoms)


def prelu_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("prelu_param")
    layer.require(len(bottoms[0]) >= 2, f"the bottom must have 2 axes or more, not shape {bottoms[0]}")
    filler = setting.filler if setting.HasField("filler") else constant_filler(0.25)
    return [ParameterSpec(() if setting.channel_shared else (bottoms[0][1],), filler)]


def prelu(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    slopes = layer.parameters[0].numel()
    layer.require(len(bottoms[0]) >= 2, f"the bottom must have 2 axes or more, not shape {bottoms[0]}")
    layer.require(slopes in (1, bottoms[0][1]), f"the bottom has {bottoms[0][1]} channels; there are {slopes} slopes")

    def operation(x: Tensor, slope: Tensor) -> Tensor:
        return torch.prelu(x, slope.reshape(-1))

    return Prepared(operation, bottoms)


def dropout(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    ratio = layer.setting("dropout_param").dropout_ratio
    if layer.training:

        def drop(x: Tensor) -> Tensor:
            return torch.dropout(x, ratio, True)

        return Prepared(drop, bottoms)

    def keep(x: Tensor) -> Tensor:
        return x if layer.in_place else x.clone()

    return Prepared(keep, bottoms)


def batch_norm_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    layer.require(len(bottoms[0]) >= 2, f"the bottom must have 2 axes or more, not shape {bottoms[0]}")
    channels = bottoms[0][1]
    return [ParameterSpec(shape, constant_filler(0.0)) for shape in ((channels,), (channels,), (1,))]


def batch_norm(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Normalise each channel; the third parameter is the factor that the first two are to be divided by."""
    setting = layer.setting("batch_norm_param")
    channels = layer.parameters[0].shape[0]
    layer.require(
        len(bottoms[0]) >= 2 and bottoms[0][1] == channels,
        f"the bottom has shape {bottoms[0]}; the statistics are for {channels} channels",
    )
    stored = setting.use_global_stats if setting.HasField("use_global_stats") else not layer.training
    if stored:
        return Prepared(_normalise_by_stored_statistics(setting.eps), bottoms)
    layer.require_values(bottoms[0], 0)
    return Prepared(_normalise_by_batch_statistics(setting.eps, setting.moving_average_fraction), bottoms)


def _normalise_by_stored_statistics(eps: float) -> Operation:
    known: list[tuple[tuple[int, ...], Tensor, Tensor]] = []  # what the statistics gave when last looked at

    def operation(x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor) -> Tensor:
        versions = (mean._version, variance._version, factor._version)
        if not known or known[0][0] != versions:
            with torch.inference_mode(False), torch.no_grad():  # a backward pass may use them as well
                scale = torch.where(factor == 0, torch.zeros_like(factor), 1.0 / factor)
                known[:] = [(versions, mean * scale, variance * scale)]
        return torch.batch_norm(x, None, None, known[0][1], known[0][2], False, 0.0, eps, False)

    return operation


def _normalise_by_batch_statistics(eps: float, fraction: float) -> Operation:
    def operation(x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor) -> Tensor:
        with torch.no_grad():  # the moving averages are no part of the gradient
            axes = [axis for axis in range(x.ndim) if axis != 1]
            batch_variance, batch_mean = torch.var_mean(x, axes, correction=0)
            count = x.numel() // x.shape[1]
            unbiased = count / (count - 1) if count > 1 else 1.0
            factor.mul_(fraction).add_(1.0)
            mean.mul_(fraction).add_(batch_mean)
            variance.mul_(fraction).add_(batch_variance, alpha=unbiased)
        return torch.batch_norm(x, None, None, None, None, True, 0.0, eps, False)

    return operation


def scale_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("scale_param")
    shape = bottoms[1] if len(bottoms) > 1 else _learned_shape(layer, bottoms[0])
    found = []
    if len(bottoms) == 1:
        filler = setting.filler if setting.HasField("filler") else constant_filler(1.0)
        found.append(ParameterSpec(shape, filler))
    if setting.bias_term:
        found.append(ParameterSpec(shape, setting.bias_filler))
    return found


def _learned_shape(layer: Layer, shape: Shape) -> Shape:
    setting = layer.setting("scale_param")
    axis = layer.axis(setting.axis, shape)
    layer.require(setting.num_axes >= -1, f"num_axes must be −1 or more, not {setting.num_axes}")
    end = len(shape) if setting.num_axes == -1 else axis + setting.num_axes
    layer.require(end <= len(shape), f"axis {axis} and num_axes {setting.num_axes} go beyond shape {shape}")
    return shape[axis:end]


def scale(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Multiply by the second bottom or a learned scale, from `axis` on; then add a learned bias."""
    setting = layer.setting("scale_param")
    shape = bottoms[0]
    factor = bottoms[1] if len(bottoms) > 1 else tuple(layer.parameters[0].shape)
    axis = layer.axis(setting.axis, shape) if factor else 0
    layer.require(
        shape[axis : axis + len(factor)] == factor,
        f"a scale of shape {factor} does not fit a bottom of shape {shape} from axis {axis} on",
    )
    spread = (*factor, *(1 for _ in range(len(shape) - axis - len(factor))))

    def with_bias(x: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
        return torch.addcmul(bias.view(spread), x, factor.view(spread))

    def without_bias(x: Tensor, factor: Tensor) -> Tensor:
        return x * factor.view(spread)

    return Prepared(with_bias if setting.bias_term else without_bias, bottoms[:1])


def eltwise(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    setting = layer.setting("eltwise_param")
    coefficients = list(setting.coeff)
    for other in bottoms[1:]:
        layer.require(other == bottoms[0], f"bottoms differ in shape: {bottoms[0]} and {other}")
    layer.require(
        len(coefficients) in (0, len(bottoms)),
        f"{len(coefficients)} coefficients for {len(bottoms)} bottoms; give one for each or none",
    )
    layer.require(not (coefficients and setting.operation == setting.PROD), "coefficients are for SUM, not for PROD")
    if setting.operation == setting.SUM:
        operation = _weighted_sum(coefficients or [1.0] * len(bottoms), layer.in_place)
    elif setting.operation == setting.MAX and layer.in_place:
        operation = _maximum_of_others
    else:
        operation = _fold(torch.mul if setting.operation == setting.PROD else torch.maximum)
    return Prepared(operation, bottoms[:1])


def _fold(combine: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    def operation(*tensors: Tensor) -> Tensor:
        return reduce(combine, tensors)

    return operation


# In place, Caffe overwrites the first bottom before it reads it: with 0 for SUM, with −FLT_MAX for MAX (its CPU code
# alone; its GPU code gives the true maximum). Source: caffe/src/caffe/layers/eltwise_layer.cpp, Forward_cpu.


def _maximum_of_others(first: Tensor, *others: Tensor) -> Tensor:
    return reduce(torch.maximum, others).clone()


def _weighted_sum(coefficients: list[float], in_place: bool) -> Operation:
    if not in_place and all(coefficient == 1.0 for coefficient in coefficients):
        return _fold(torch.add)

    def weighted(*tensors: Tensor) -> Tensor:
        total = torch.zeros_like(tensors[0]) if in_place else tensors[0] * coefficients[0]
        for tensor, coefficient in zip(tensors[1:], coefficients[1:], strict=True):
            total = torch.add(total, tensor, alpha=coefficient)
        return total

    return weighted
