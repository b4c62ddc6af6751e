"""Operators that reduce axes, or normalise along one. Source: onnx/docs/Operators.md"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    axes_of,
    given,
)
from avec.errors import UnsupportedOperation

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def reduction(function: Reduction) -> Operator:
    def operate(node: Node, inputs: Inputs) -> Tensor:
        x, axes = given(inputs, 0), axes_of(node, inputs)
        if not axes:
            if node.integer("noop_with_empty_axes", 0):
                return function(x, [], True) if x.ndim == 0 else function(x.unsqueeze(-1), [-1], False)
            axes = list(range(x.ndim))
        if x.ndim == 0:
            return function(x.reshape(1), [0], False)
        return function(x, axes, bool(node.integer("keepdims", 1)))

    return operate


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc").to(x.dtype)


def _extreme(function: Callable[..., Tensor]) -> Reduction:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            raise UnsupportedOperation("the torch engine does not have the extreme of no elements")
        if x.dtype == torch.bool:
            return function(x.to(torch.uint8), axes, keepdim=keep).to(torch.bool)
        return function(x, axes, keepdim=keep)

    return reduce


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x, axes, keep).log()


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep).sqrt().to(x.dtype)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _along(node: Node, inputs: Inputs, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Apply a function along one axis; before opset 13 the tensor was taken for a matrix split at that axis."""
    x = given(inputs, 0)
    if node.opset >= 13:
        return function(x, node.integer("axis", -1))
    axis = node.integer("axis", 1) % max(x.ndim, 1)
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return function(x.reshape(rows, -1), 1).reshape(x.shape)


def _softmax(node: Node, inputs: Inputs) -> Tensor:
    return _along(node, inputs, lambda x, axis: torch.softmax(x, axis))


def _log_softmax(node: Node, inputs: Inputs) -> Tensor:
    return _along(node, inputs, lambda x, axis: torch.log_softmax(x, axis))


def _hardmax(node: Node, inputs: Inputs) -> Tensor:
    def hardest(x: Tensor, axis: int) -> Tensor:
        return torch.zeros_like(x).scatter_(axis, x.argmax(axis, keepdim=True), 1)

    return _along(node, inputs, hardest)


def _arg(largest: bool) -> Operator:
    def operate(node: Node, inputs: Inputs) -> Tensor:
        x, axis, keep = given(inputs, 0), node.integer("axis", 0), bool(node.integer("keepdims", 1))
        find = torch.argmax if largest else torch.argmin
        if not node.integer("select_last_index", 0):
            return find(x, axis, keepdim=keep)
        return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=keep)

    return operate


def _cumulative_sum(node: Node, inputs: Inputs) -> Tensor:
    x, axis = given(inputs, 0), int(given(inputs, 1))
    reverse = node.integer("reverse", 0)
    x = x.flip(axis) if reverse else x
    total = x.cumsum(axis, dtype=x.dtype)
    total = total - x if node.integer("exclusive", 0) else total
    return total.flip(axis) if reverse else total


def _top_k(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = given(inputs, 0), node.integer("axis", -1)
    count = node.integer("k", 1) if node.opset < 10 else int(given(inputs, 1))
    largest = bool(node.integer("largest", 1))
    # A stable sort, because of equal elements ONNX takes those with the lower indices.
    values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


OPERATORS: dict[str, Operator] = {
    "ArgMax": _arg(True), "ArgMin": _arg(False), "CumSum": _cumulative_sum, "Hardmax": _hardmax,
    "LogSoftmax": _log_softmax, "ReduceL1": reduction(_l1), "ReduceL2": reduction(_l2),
    "ReduceLogSum": reduction(_log_sum), "ReduceLogSumExp": reduction(_log_sum_exp),
    "ReduceMax": reduction(_extreme(torch.amax)), "ReduceMean": reduction(_mean),
    "ReduceMin": reduction(_extreme(torch.amin)), "ReduceProd": reduction(_product), "ReduceSum": reduction(_sum),
    "ReduceSumSquare": reduction(_sum_square), "Softmax": _softmax, "TopK": _top_k,
}  # fmt: skip
