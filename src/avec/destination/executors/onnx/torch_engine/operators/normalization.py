"""Normalisations. Source: onnx/docs/Operators.md"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    given,
    optional,
)


def _batch(node: Node, inputs: Inputs) -> Tensor:
    if node.outputs > 1 or node.integer("training_mode", 0) or (node.opset < 9 and not node.integer("spatial", 1)):
        raise node.refuse("while training, or with statistics for each position")
    x, scale, bias, mean, variance = (given(inputs, index) for index in range(5))
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.number("epsilon", 1e-5))


def _instance(node: Node, inputs: Inputs) -> Tensor:
    x, scale, bias = (given(inputs, index) for index in range(3))
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.number("epsilon", 1e-5))


def _layer(node: Node, inputs: Inputs) -> Tensor | tuple[Tensor, ...]:
    normal = _layer_normal(node, inputs)
    if node.outputs == 1:
        return normal
    x = given(inputs, 0)
    axes = list(range(node.integer("axis", -1) % x.ndim, x.ndim))
    wide = x.to(torch.float32)
    mean = wide.mean(axes, keepdim=True)
    variance = ((wide - mean) ** 2).mean(axes, keepdim=True)
    return normal, mean, torch.rsqrt(variance + node.number("epsilon", 1e-5))


def _layer_normal(node: Node, inputs: Inputs) -> Tensor:
    x, scale, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    axis = node.integer("axis", -1) % x.ndim
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, scale, bias, node.number("epsilon", 1e-5))
    normal = F.layer_norm(x, shape, None, None, node.number("epsilon", 1e-5)) * scale
    return normal if bias is None else normal + bias


def _root_mean_square(node: Node, inputs: Inputs) -> Tensor:
    x, scale = given(inputs, 0), given(inputs, 1)
    axes = list(range(node.integer("axis", -1) % x.ndim, x.ndim))
    wide = x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x
    normal = wide * torch.rsqrt((wide * wide).mean(axes, keepdim=True) + node.number("epsilon", 1e-5))
    return normal.to(x.dtype) * scale


def _group(node: Node, inputs: Inputs) -> Tensor:
    x, scale, bias = (given(inputs, index) for index in range(3))
    groups = node.integer("num_groups", 1)
    if node.opset >= 21:
        return F.group_norm(x, groups, scale, bias, node.number("epsilon", 1e-5))
    each = x.shape[1] // groups  # before, there was one scale for each group
    return F.group_norm(
        x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), node.number("epsilon", 1e-5)
    )


def _local_response(node: Node, inputs: Inputs) -> Tensor:
    x, size = given(inputs, 0), node.integer("size", 1)
    if size % 2 == 0:
        raise node.refuse("of even size")
    alpha, beta, bias = node.number("alpha", 1e-4), node.number("beta", 0.75), node.number("bias", 1.0)
    return F.local_response_norm(x, size, alpha, beta, bias)


def _lp(node: Node, inputs: Inputs) -> Tensor:
    x, axis, power = given(inputs, 0), node.integer("axis", -1), node.integer("p", 2)
    norm = torch.linalg.vector_norm(x, power, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def _mean_variance(node: Node, inputs: Inputs) -> Tensor:
    x, axes = given(inputs, 0), node.integers("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + 1e-9)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch, "GroupNormalization": _group, "InstanceNormalization": _instance,
    "LRN": _local_response,
    "LayerNormalization": _layer, "LpNormalization": _lp, "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _root_mean_square,
}  # fmt: skip
