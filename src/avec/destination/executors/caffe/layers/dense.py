"""InnerProduct and Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, ParameterSpec, Pass, Prepared, Shape, elementwise


def inner_product_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("inner_product_param")
    layer.require(setting.num_output > 0, "num_output must be positive")
    length = math.prod(bottoms[0][layer.axis(setting.axis, bottoms[0]) :])
    shape = (length, setting.num_output) if setting.transpose else (setting.num_output, length)
    found = [ParameterSpec(shape, setting.weight_filler)]
    if setting.bias_term:
        found.append(ParameterSpec((setting.num_output,), setting.bias_filler))
    return found


def inner_product(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Multiply all from `axis` on with a matrix. Source: caffe/src/caffe/layers/inner_product_layer.cpp."""
    setting = layer.setting("inner_product_param")
    shape, transposed = bottoms[0], setting.transpose
    axis = layer.axis(setting.axis, shape)
    length, expected = math.prod(shape[axis:]), layer.parameters[0].shape[0 if transposed else 1]
    layer.require(
        length == expected, f"a bottom of shape {shape} gives {length} values a row; the weights are for {expected}"
    )
    flat, result = (math.prod(shape[:axis]), length), (*shape[:axis], setting.num_output)
    rows = (flat[0], setting.num_output)

    def operation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x.view(flat), weight.t() if transposed else weight, bias).view(result)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, weight, diff = given.bottoms[0].view(flat), given.parameters[0], given.diffs[0].view(rows)
        down, learns, *learns_bias = given.wanted
        to_weight = (x.t() @ diff if transposed else diff.t() @ x) if learns else None
        to_bottom = (diff @ (weight.t() if transposed else weight)).view(shape) if down else None
        return [to_bottom, to_weight, *(diff.sum(0) for _ in learns_bias)]

    return Prepared(operation, [result], gradient)


def softmax(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    axis = layer.axis(layer.setting("softmax_param").axis, bottoms[0])

    def operation(x: Tensor) -> Tensor:
        return torch.softmax(x, axis)

    return Prepared(operation, bottoms, elementwise(lambda x, y, dy: y * (dy - (dy * y).sum(axis, keepdim=True))))
