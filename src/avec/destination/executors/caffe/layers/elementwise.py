"""Layers that work on each value by itself, or with one number for each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

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
    elementwise,
)
from avec.formats.caffe.message import Message, message_class


def constant_filler(value: float) -> Message:
    return message_class("FillerParameter")(type="constant", value=value)


def relu(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    slope = layer.setting("relu_param").negative_slope
    if slope:
        leaky = F.leaky_relu_ if layer.in_place else F.leaky_relu

        def operation(x: Tensor) -> Tensor:
            return leaky(x, slope)

        return Prepared(operation, bottoms, elementwise(lambda x, y, dy: torch.where(x > 0, dy, dy * slope)))
    gradient = elementwise(lambda x, y, dy: torch.ops.aten.threshold_backward(dy, x, 0.0))
    return Prepared(torch.relu_ if layer.in_place else torch.relu, bottoms, gradient)


def sigmoid(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    gradient = elementwise(lambda x, y, dy: torch.ops.aten.sigmoid_backward(dy, y))
    return Prepared(torch.sigmoid_ if layer.in_place else torch.sigmoid, bottoms, gradient)


def tanh(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    gradient = elementwise(lambda x, y, dy: torch.ops.aten.tanh_backward(dy, y))
    return Prepared(torch.tanh_ if layer.in_place else torch.tanh, bottoms, gradient)


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

    return Prepared(operation, bottoms, keeps_bottom=True)


def dropout(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    ratio = layer.setting("dropout_param").dropout_ratio
    layer.require(0 < ratio < 1, f"dropout_ratio must be between 0 and 1, not {ratio}")
    if layer.training:

        def drop(x: Tensor) -> Tensor:
            mask = torch.empty_like(x).bernoulli_(1 - ratio, generator=layer.random).mul_(1 / (1 - ratio))
            layer.state["mask"] = mask
            return x * mask

        return Prepared(drop, bottoms, elementwise(lambda x, y, dy: dy * layer.kept("mask")))

    def keep(x: Tensor) -> Tensor:
        return x if layer.in_place else x.clone()

    return Prepared(keep, bottoms, elementwise(lambda x, y, dy: dy))


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
        known = _StoredStatistics()
        operation = _normalise_by_stored_statistics(known, setting.eps)
        return Prepared(operation, bottoms, _scale_by_stored_statistics(known, setting.eps), keeps_bottom=True)
    layer.require(0 not in bottoms[0], f"a bottom of shape {bottoms[0]} has no values to take statistics of")
    operation = _normalise_by_batch_statistics(setting.eps, setting.moving_average_fraction)
    return Prepared(operation, bottoms, _batch_norm_gradient(setting.eps), keeps_bottom=True)


class _StoredStatistics:
    """Mean and variance from the parameters, computed again when these were written."""

    def __init__(self) -> None:
        self._known: tuple[tuple[int, ...], Tensor, Tensor] | None = None

    def of(self, mean: Tensor, variance: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        versions = (mean._version, variance._version, factor._version)
        if self._known is None or self._known[0] != versions:
            scale = torch.where(factor == 0, torch.zeros_like(factor), 1.0 / factor)
            self._known = (versions, mean * scale, variance * scale)
        return self._known[1:]


def _normalise_by_stored_statistics(known: _StoredStatistics, eps: float) -> Operation:
    def operation(x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor) -> Tensor:
        return torch.batch_norm(x, None, None, *known.of(mean, variance, factor), False, 0.0, eps, False)

    return operation


def _scale_by_stored_statistics(known: _StoredStatistics, eps: float) -> Gradient:
    def gradient(given: Pass) -> Sequence[Tensor | None]:
        _, variance = known.of(*given.parameters)
        spread = (-1, *(1 for _ in given.diffs[0].shape[2:]))
        return given.diffs[0] / (variance + eps).sqrt().view(spread), None, None, None

    return gradient


def _normalise_by_batch_statistics(eps: float, fraction: float) -> Operation:
    def operation(x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor) -> Tensor:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        batch_variance, batch_mean = torch.var_mean(x, axes, correction=0)
        count = x.numel() // x.shape[1]
        unbiased = count / (count - 1) if count > 1 else 1.0
        factor.mul_(fraction).add_(1.0)
        mean.mul_(fraction).add_(batch_mean)
        variance.mul_(fraction).add_(batch_variance, alpha=unbiased)
        return torch.batch_norm(x, None, None, batch_mean, batch_variance, False, 0.0, eps, False)

    return operation


def _batch_norm_gradient(eps: float) -> Gradient:
    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, dy = given.bottoms[0], given.diffs[0]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        inverse = (variance + eps).rsqrt()
        found = torch.ops.aten.native_batch_norm_backward(
            dy, x, None, None, None, mean, inverse, True, eps, (True, False, False)
        )
        return found[0], None, None, None

    return gradient


def scale_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("scale_param")
    shape = bottoms[1] if len(bottoms) > 1 else _learned_shape(layer, bottoms[0], setting)
    found = []
    if len(bottoms) == 1:
        filler = setting.filler if setting.HasField("filler") else constant_filler(1.0)
        found.append(ParameterSpec(shape, filler))
    if setting.bias_term:
        found.append(ParameterSpec(shape, setting.bias_filler))
    return found


def _learned_shape(layer: Layer, shape: Shape, setting: Message) -> Shape:
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
    spread = _spread(layer, setting, shape, factor)

    def with_bias(x: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
        return torch.addcmul(bias.view(spread), x, factor.view(spread))

    def without_bias(x: Tensor, factor: Tensor) -> Tensor:
        return x * factor.view(spread)

    operation: Operation = with_bias if setting.bias_term else without_bias
    gradient = _scale_gradient(shape, factor, spread, scribbles=not layer.in_place and factor != shape)
    return Prepared(operation, bottoms[:1], gradient, keeps_bottom=True, scribbles=frozenset({0}))


def _scale_gradient(shape: Shape, factor: Shape, spread: Shape, scribbles: bool) -> Gradient:
    """Where Caffe needs a product to sum up, and the bottom wants no diff, the product stays in the bottom's diff."""
    axis = len(shape) - len(spread)
    kept = range(axis, axis + len(factor))
    axes = [place for place in range(len(shape)) if place not in kept]

    def to_factor(values: Tensor) -> Tensor:
        return (values.sum(axes) if axes else values).view(factor)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, by, diff = given.bottoms[0], (*given.bottoms, *given.parameters)[1], given.diffs[0]
        down, to_scale, *to_bias = given.wanted
        product = x * diff if to_scale else None
        if down:
            bottom: Tensor | None = diff * by.view(spread)
        else:
            bottom = product if scribbles else None
        return [bottom, None if product is None else to_factor(product), *(to_factor(diff) for _ in to_bias)]

    return gradient


def bias_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("bias_param")
    return [ParameterSpec(_learned_shape(layer, bottoms[0], setting), setting.filler)] if len(bottoms) == 1 else []


def bias(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Add the second bottom or a learned bias, from `axis` on."""
    shape = bottoms[0]
    added = bottoms[1] if len(bottoms) > 1 else tuple(layer.parameters[0].shape)
    spread = _spread(layer, layer.setting("bias_param"), shape, added)

    def operation(x: Tensor, added: Tensor) -> Tensor:
        return x + added.view(spread)

    return Prepared(operation, bottoms[:1])


def _spread(layer: Layer, setting: Message, shape: Shape, factor: Shape) -> Shape:
    """The shape in which a scale or bias applies to a bottom from its `axis` on."""
    axis = layer.axis(setting.axis, shape) if factor else 0
    layer.require(
        shape[axis : axis + len(factor)] == factor,
        f"{factor} values do not fit a bottom of shape {shape} from axis {axis} on",
    )
    return (*factor, *(1 for _ in range(len(shape) - axis - len(factor))))


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
        coefficients = coefficients or [1.0] * len(bottoms)
        return Prepared(_weighted_sum(coefficients, layer.in_place), bottoms[:1], _weights(layer, coefficients))
    if setting.operation == setting.MAX:
        operation = _maximum_of_others if layer.in_place else _fold(torch.maximum)
        return Prepared(operation, bottoms[:1], _to_the_largest(layer))
    return Prepared(_fold(torch.mul), bottoms[:1], _product_gradient(layer, stable=setting.stable_prod_grad))


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


def _each_bottom(layer: Layer, diff_of: Callable[[Pass, Tensor, int], Tensor]) -> Gradient:
    """A diff for one bottom after another. In place, that of the first overwrites the top's, which the others read."""

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        top_diff = given.diffs[0]
        found: list[Tensor | None] = []
        for place, wanted in enumerate(given.wanted):
            found.append(diff_of(given, top_diff, place) if wanted else None)
            if place == 0 and layer.in_place:
                top_diff = top_diff if found[0] is None else found[0]
        return found

    return gradient


def _weights(layer: Layer, coefficients: list[float]) -> Gradient:
    def diff_of(given: Pass, diff: Tensor, place: int) -> Tensor:
        return diff if coefficients[place] == 1.0 else diff * coefficients[place]

    return _each_bottom(layer, diff_of)


def _product_gradient(layer: Layer, stable: bool) -> Gradient:
    """Of a product: of the others' product, or the cheaper and less stable top / bottom."""

    def diff_of(given: Pass, diff: Tensor, place: int) -> Tensor:
        if stable:
            factor = reduce(torch.mul, [other for index, other in enumerate(given.bottoms) if index != place])
        else:
            factor = given.tops[0] / given.bottoms[place]
        # In place, the factor is written over the top's diff before it is read.
        return factor * factor if place == 0 and layer.in_place else factor * diff

    return _each_bottom(layer, diff_of)


def _to_the_largest(layer: Layer) -> Gradient:
    """Of a maximum: all to the bottom that has it, of equal ones to the second, else to the first of them."""

    def diff_of(given: Pass, diff: Tensor, place: int) -> Tensor:
        first, second, *others = given.bottoms
        if layer.in_place:  # the first was overwritten with the least number before it was read
            first = torch.full_like(first, float("-inf"))
        largest = torch.maximum(first, second)
        owner = torch.where(first > second, 0, 1)
        for index, other in enumerate(others, 2):
            owner = torch.where(other > largest, index, owner)
            largest = torch.maximum(largest, other)
        return torch.where(owner == place, diff, 0.0)

    return _each_bottom(layer, diff_of)
