"""Operators on each element, with ONNX's (numpy's) broadcasting. Source: onnx/docs/Operators.md"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    DTYPES,
    Inputs,
    Node,
    Operator,
    given,
    optional,
    together,
)

Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def unary(function: Unary) -> Operator:
    return lambda node, inputs: function(given(inputs, 0))


def binary(function: Binary) -> Operator:
    def operate(node: Node, inputs: Inputs) -> Tensor:
        return function(*together(given(inputs, 0), given(inputs, 1)))

    return operate


def variadic(function: Binary) -> Operator:
    def operate(node: Node, inputs: Inputs) -> Tensor:
        return functools.reduce(function, together(*(given(inputs, index) for index in range(len(inputs)))))

    return operate


def _clip(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    low, high = optional(inputs, 1), optional(inputs, 2)
    if node.opset < 11:
        return x.clamp(node.number("min", -math.inf), node.number("max", math.inf))
    if low is not None:
        x = torch.maximum(x, low.to(x.device))
    return x if high is None else torch.minimum(x, high.to(x.device))


def _divide(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def _power(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y.to(x.dtype) if x.is_floating_point() else y).to(x.dtype)


def _modulo(node: Node, inputs: Inputs) -> Tensor:
    x, y = together(given(inputs, 0), given(inputs, 1))
    return torch.fmod(x, y) if node.integer("fmod", 0) else torch.remainder(x, y)


def _mean(node: Node, inputs: Inputs) -> Tensor:
    tensors = together(*(given(inputs, index) for index in range(len(inputs))))
    return functools.reduce(torch.add, tensors) / len(tensors)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _where(node: Node, inputs: Inputs) -> Tensor:
    condition, x, y = together(given(inputs, 0), given(inputs, 1), given(inputs, 2))
    return torch.where(condition, x, y)


def _cast(node: Node, inputs: Inputs) -> Tensor:
    x, to = given(inputs, 0), node.integer("to", 0)
    if to not in DTYPES or (x.dtype == torch.bfloat16 and to == 10):
        raise node.refuse(f"from {x.dtype} to type {to}")
    return x.to(DTYPES[to])


def _cast_like(node: Node, inputs: Inputs) -> Tensor:
    return given(inputs, 0).to(given(inputs, 1).dtype)


def _gelu(node: Node, inputs: Inputs) -> Tensor:
    return F.gelu(given(inputs, 0), approximate=node.text("approximate", "none"))


def _hard_sigmoid(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return (node.number("alpha", 0.2) * x + node.number("beta", 0.5)).clamp(0, 1).to(x.dtype)


def _elu(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return torch.where(x < 0, node.number("alpha", 1.0) * torch.expm1(x), x)


def _celu(node: Node, inputs: Inputs) -> Tensor:
    return F.celu(given(inputs, 0), node.number("alpha", 1.0))


def _selu(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def _leaky_relu(node: Node, inputs: Inputs) -> Tensor:
    return F.leaky_relu(given(inputs, 0), node.number("alpha", 0.01))


def _thresholded_relu(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return torch.where(x > node.number("alpha", 1.0), x, torch.zeros_like(x))


def _shrink(node: Node, inputs: Inputs) -> Tensor:
    x, bias, bound = given(inputs, 0), node.number("bias", 0.0), node.number("lambd", 0.5)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))


def _swish(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return x * torch.sigmoid(node.number("alpha", 1.0) * x)


def _is_inf(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    positive = torch.isposinf(x) if node.integer("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    return positive | torch.isneginf(x) if node.integer("detect_negative", 1) else positive


def _shift(node: Node, inputs: Inputs) -> Tensor:
    x, y = together(given(inputs, 0), given(inputs, 1))
    return x << y if node.text("direction", "") == "LEFT" else x >> y


def _dropout(node: Node, inputs: Inputs) -> Tensor | tuple[Tensor, ...]:
    x, training = given(inputs, 0), optional(inputs, 2)
    if training is not None and bool(training):
        raise node.refuse("while training")
    return (x, torch.ones_like(x, dtype=torch.bool)) if node.outputs > 1 else x


OPERATORS: dict[str, Operator] = {
    "Abs": unary(torch.abs), "Acos": unary(torch.acos), "Acosh": unary(torch.acosh), "Add": binary(torch.add),
    "And": binary(torch.logical_and), "Asin": unary(torch.asin), "Asinh": unary(torch.asinh),
    "Atan": unary(torch.atan), "Atanh": unary(torch.atanh), "BitShift": _shift,
    "BitwiseAnd": binary(torch.bitwise_and), "BitwiseNot": unary(torch.bitwise_not),
    "BitwiseOr": binary(torch.bitwise_or), "BitwiseXor": binary(torch.bitwise_xor), "Cast": _cast,
    "CastLike": _cast_like, "Ceil": unary(torch.ceil), "Celu": _celu, "Clip": _clip, "Cos": unary(torch.cos),
    "Cosh": unary(torch.cosh), "Div": binary(_divide), "Dropout": _dropout, "Elu": _elu, "Equal": binary(torch.eq),
    "Erf": unary(torch.erf), "Exp": unary(torch.exp), "Floor": unary(torch.floor), "Gelu": _gelu,
    "Greater": binary(torch.gt), "GreaterOrEqual": binary(torch.ge), "HardSigmoid": _hard_sigmoid,
    "HardSwish": unary(F.hardswish), "Identity": unary(lambda x: x), "IsInf": _is_inf, "IsNaN": unary(torch.isnan),
    "LeakyRelu": _leaky_relu, "Less": binary(torch.lt), "LessOrEqual": binary(torch.le), "Log": unary(torch.log),
    "Max": variadic(torch.maximum), "Mean": _mean, "Min": variadic(torch.minimum), "Mish": unary(F.mish),
    "Mod": _modulo, "Mul": binary(torch.mul), "Neg": unary(torch.neg), "Not": unary(torch.logical_not),
    "Or": binary(torch.logical_or), "PRelu": binary(_prelu), "Pow": binary(_power),
    "Reciprocal": unary(torch.reciprocal), "Relu": unary(torch.relu), "Round": unary(torch.round), "Selu": _selu,
    "Shrink": _shrink, "Sigmoid": unary(torch.sigmoid), "Sign": unary(torch.sign), "Sin": unary(torch.sin),
    "Sinh": unary(torch.sinh), "Softplus": unary(F.softplus), "Softsign": unary(F.softsign),
    "Sqrt": unary(torch.sqrt), "Sub": binary(torch.sub), "Sum": variadic(torch.add), "Swish": _swish,
    "Tan": unary(torch.tan), "Tanh": unary(torch.tanh), "ThresholdedRelu": _thresholded_relu, "Where": _where,
    "Xor": binary(torch.logical_xor),
}  # fmt: skip
