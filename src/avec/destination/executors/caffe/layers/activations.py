"""The rest of the layers that work on each value by itself. Source: caffe/src/caffe/layers, files of these names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Gradient, Layer, Prepared, Shape, elementwise


def _overwriting(layer: Layer, derivative: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """A gradient by a derivative of x and y, which Caffe's CPU code writes over the bottom's diff and then multiplies
    by the top's: in place that is the derivative as well."""

    def gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        found = derivative(x, y)
        return found * (found if layer.in_place else dy)

    return elementwise(gradient)


def absolute(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    return Prepared(torch.abs, bottoms, _overwriting(layer, lambda x, y: x.sign()))


def bnll(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Binomial normal log likelihood, log(1 + exp(x))."""

    def operation(x: Tensor) -> Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    return Prepared(operation, bottoms, elementwise(lambda x, y, dy: torch.sigmoid(x) * dy))


def clip(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    setting = layer.setting("clip_param")
    low: float = setting.min
    high: float = setting.max

    def operation(x: Tensor) -> Tensor:
        return x.clamp(low, high)

    return Prepared(operation, bottoms, elementwise(lambda x, y, dy: torch.where((x >= low) & (x <= high), dy, 0.0)))


def elu(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    alpha: float = layer.setting("elu_param").alpha

    def operation(x: Tensor) -> Tensor:
        return F.elu(x, alpha)

    return Prepared(operation, bottoms, elementwise(lambda x, y, dy: torch.where(x > 0, dy, (alpha + y) * dy)))


def _logarithm(layer: Layer, base: float) -> float:
    """The natural logarithm of a base, where −1 stands for e."""
    if base == -1:
        return 1.0
    layer.require(base > 0 and base != math.inf, f"base must be positive (or −1, for e), not {base}")
    return math.log(base)


def exponential(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """base ^ (shift + scale · x)."""
    setting = layer.setting("exp_param")
    logarithm = _logarithm(layer, setting.base)
    inner, outer = logarithm * setting.scale, math.exp(logarithm * setting.shift)

    def operation(x: Tensor) -> Tensor:
        return torch.exp(x * inner) * outer

    return Prepared(operation, bottoms, elementwise(lambda x, y, dy: y * dy * inner))


def logarithm(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """log_base(shift + scale · x)."""
    setting = layer.setting("log_param")
    natural = _logarithm(layer, setting.base)
    layer.require(natural != 0, "base must not be 1")
    scale, shift = setting.scale, setting.shift

    def operation(x: Tensor) -> Tensor:
        return torch.log(x * scale + shift) / natural

    return Prepared(operation, bottoms, _overwriting(layer, lambda x, y: (scale / natural) / (x * scale + shift)))


def power(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """(shift + scale · x) ^ power."""
    setting = layer.setting("power_param")
    exponent: float = setting.power
    scale: float = setting.scale
    shift: float = setting.shift

    def operation(x: Tensor) -> Tensor:
        if exponent * scale == 0:
            return torch.full_like(x, 1.0 if exponent == 0 else _power(shift, exponent))
        base = x if (scale, shift) == (1, 0) else x * scale + shift
        if exponent == 1:
            return base.clone() if base is x else base
        return torch.pow(base, exponent)

    def derivative(x: Tensor, y: Tensor) -> Tensor:
        if exponent == 1 or exponent * scale == 0:
            return torch.full_like(x, exponent * scale)
        base = x * scale + shift
        return (base if exponent == 2 else y / base) * (exponent * scale)

    return Prepared(operation, bottoms, _overwriting(layer, derivative))


def _power(base: float, exponent: float) -> float:
    return float(torch.tensor(base, dtype=torch.float32).pow(exponent))


def swish(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """x · sigmoid(beta · x)."""
    beta: float = layer.setting("swish_param").beta

    def operation(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x * beta)

    return Prepared(operation, bottoms, keeps_bottom=True)


def threshold(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """1 where a value is over the threshold, else 0."""
    limit: float = layer.setting("threshold_param").threshold

    def operation(x: Tensor) -> Tensor:
        return (x > limit).to(x.dtype)

    return Prepared(operation, bottoms)
