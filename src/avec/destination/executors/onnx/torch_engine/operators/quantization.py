"""Quantization to 8 bits and back, by whole tensors or along an axis. Source: onnx/docs/Operators.md"""

from __future__ import annotations

import torch
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    DTYPES,
    Inputs,
    Node,
    Operator,
    given,
    optional,
    together,
)

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


def _along(node: Node, x: Tensor, parameter: Tensor) -> Tensor:
    """A scale or a zero point, shaped so that it broadcasts along the node's axis."""
    if node.integer("block_size", 0):
        raise node.refuse("by blocks")
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[node.integer("axis", 1)] = -1
    return parameter.reshape(shape)


def _quantize(node: Node, inputs: Inputs) -> Tensor:
    x, scale = together(given(inputs, 0), given(inputs, 1))
    zero, wanted = optional(inputs, 2), node.integer("output_dtype", 0)
    dtype = zero.dtype if zero is not None else DTYPES.get(wanted, torch.uint8)
    if dtype not in _INTEGERS or (zero is None and wanted and wanted not in DTYPES):
        raise node.refuse(f"to type {wanted or dtype}")
    if node.integer("precision", 0) not in (0, 1) or x.dtype != torch.float32 or scale.dtype != torch.float32:
        raise node.refuse(f"of {x.dtype}")
    levels = torch.round(x / _along(node, x, scale))
    if zero is not None:
        levels = levels + _along(node, x, zero.to(x.device)).to(x.dtype)
    limits = torch.iinfo(dtype)
    return levels.clamp(limits.min, limits.max).to(dtype)


def _dequantize(node: Node, inputs: Inputs) -> Tensor:
    x, scale = together(given(inputs, 0), given(inputs, 1))
    zero = optional(inputs, 2)
    if x.dtype not in _INTEGERS or scale.dtype != torch.float32:
        raise node.refuse(f"of {x.dtype} by {scale.dtype}")
    levels = x.to(torch.int64)
    if zero is not None:
        levels = levels - _along(node, x, zero.to(x.device)).to(torch.int64)
    return levels.to(scale.dtype) * _along(node, x, scale)


def _dynamic(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = given(inputs, 0)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round((0 - low) / scale).clamp(0, 255)
    levels = (torch.round(x / scale) + zero).clamp(0, 255)
    return levels.to(torch.uint8), scale, zero.to(torch.uint8)


OPERATORS: dict[str, Operator] = {
    "DequantizeLinear": _dequantize, "DynamicQuantizeLinear": _dynamic, "QuantizeLinear": _quantize,
}  # fmt: skip
