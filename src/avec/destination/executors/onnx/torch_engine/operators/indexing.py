"""Operators that take or put elements by index. Source: onnx/docs/Operators.md"""

from __future__ import annotations

import torch
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    given,
    together,
)


def _positive(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices).to(torch.int64)


def _gather(node: Node, inputs: Inputs) -> Tensor:
    x, indices = together(given(inputs, 0), given(inputs, 1))
    axis = node.integer("axis", 0) % x.ndim
    flat = _positive(indices.reshape(-1), x.shape[axis])
    taken = x.index_select(axis, flat)
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(node: Node, inputs: Inputs) -> Tensor:
    x, indices = together(given(inputs, 0), given(inputs, 1))
    axis = node.integer("axis", 0)
    return x.gather(axis, _positive(indices, x.shape[axis]))


def _places(indices: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """The last axis of indices as one index tensor for each axis of what is indexed."""
    return tuple(_positive(indices[..., axis], shape[axis]) for axis in range(indices.shape[-1]))


def _gather_nd(node: Node, inputs: Inputs) -> Tensor:
    x, indices = together(given(inputs, 0), given(inputs, 1))
    batches = node.integer("batch_dims", 0)
    if not batches:
        return x[_places(indices, x.shape)]
    leading = x.shape[:batches]
    x = x.reshape((-1, *x.shape[batches:]))
    indices = indices.reshape((x.shape[0], *indices.shape[batches:]))
    rows = [each[_places(places, each.shape)] for each, places in zip(x, indices, strict=True)]
    taken = torch.stack(rows)
    return taken.reshape((*leading, *taken.shape[1:]))


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(node: Node, inputs: Inputs) -> Tensor:
    x, indices, updates = together(given(inputs, 0), given(inputs, 1), given(inputs, 2))
    axis, reduction = node.integer("axis", 0), node.text("reduction", "none")
    places = _positive(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction], include_self=True)


def _scatter_nd(node: Node, inputs: Inputs) -> Tensor:
    x, indices, updates = together(given(inputs, 0), given(inputs, 1), given(inputs, 2))
    reduction = node.text("reduction", "none")
    places = _places(indices, x.shape)
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    raise node.refuse(f"with reduction {reduction}")


def _one_hot(node: Node, inputs: Inputs) -> Tensor:
    indices, values = together(given(inputs, 0), given(inputs, 2))
    depth, axis = int(given(inputs, 1)), node.integer("axis", -1)
    off, on = values[0], values[1]
    places = torch.arange(depth, device=indices.device)
    axis = axis % (indices.ndim + 1)
    wanted = torch.remainder(indices.to(torch.int64), depth).unsqueeze(axis)
    inside = ((indices >= -depth) & (indices < depth)).unsqueeze(axis)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = depth
    return torch.where((wanted == places.reshape(shape)) & inside, on, off)


def _non_zero(node: Node, inputs: Inputs) -> Tensor:
    return torch.nonzero(given(inputs, 0)).T


def _compress(node: Node, inputs: Inputs) -> Tensor:
    x, condition = together(given(inputs, 0), given(inputs, 1))
    if "axis" not in node.attributes:
        flat = x.reshape(-1)
        return flat[: condition.numel()][condition[: flat.numel()]]
    places = torch.nonzero(condition).reshape(-1)
    return x.index_select(node.integer("axis", 0), places)


OPERATORS: dict[str, Operator] = {
    "Compress": _compress, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd,
    "NonZero": _non_zero, "OneHot": _one_hot, "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}  # fmt: skip
