"""Products of matrices. Source: onnx/docs/Operators.md"""

from __future__ import annotations

import torch
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    given,
    optional,
    together,
)


def _multiply(node: Node, inputs: Inputs) -> Tensor:
    x, y = together(given(inputs, 0), given(inputs, 1))
    return torch.matmul(x, y)


def _general(node: Node, inputs: Inputs) -> Tensor:
    x, y = together(given(inputs, 0), given(inputs, 1))
    x = x.T if node.integer("transA", 0) else x
    y = y.T if node.integer("transB", 0) else y
    alpha, beta, bias = node.number("alpha", 1.0), node.number("beta", 1.0), optional(inputs, 2)
    if bias is not None and x.is_floating_point():
        return torch.addmm(bias.to(x.device), x, y, beta=beta, alpha=alpha)
    product = torch.matmul(x, y)
    product = product if alpha == 1.0 else (product * alpha).to(product.dtype)
    return product if bias is None else product + (bias if beta == 1.0 else (bias * beta).to(bias.dtype))


def _einsum(node: Node, inputs: Inputs) -> Tensor:
    tensors = together(*(given(inputs, index) for index in range(len(inputs))))
    made: Tensor = torch.einsum(node.text("equation", "").replace(" ", ""), *tensors)
    return made


def _determinant(node: Node, inputs: Inputs) -> Tensor:
    made: Tensor = torch.linalg.det(given(inputs, 0))
    return made


OPERATORS: dict[str, Operator] = {"Det": _determinant, "Einsum": _einsum, "Gemm": _general, "MatMul": _multiply}
