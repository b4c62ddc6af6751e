"""What detectors end with, and sampling by coordinates. Source: onnx/docs/Operators.md"""

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
    together,
)

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


def _grid_sample(node: Node, inputs: Inputs) -> Tensor:
    x, grid = together(given(inputs, 0), given(inputs, 1))
    mode = _MODES[node.text("mode", "linear")]
    if x.ndim not in (4, 5) or (x.ndim == 5 and mode == "bicubic"):
        raise node.refuse(f"of {x.ndim} axes in mode {mode}")
    return F.grid_sample(
        x, grid.to(x.dtype), mode, node.text("padding_mode", "zeros"), bool(node.integer("align_corners", 0))
    )


def _suppress(node: Node, inputs: Inputs) -> Tensor:
    """NonMaxSuppression: on the CPU, where its many small decisions are quickest."""
    boxes, scores = given(inputs, 0).cpu(), given(inputs, 1).cpu()
    limit = optional(inputs, 2)
    count = 0 if limit is None else int(limit)
    overlap, threshold = optional(inputs, 3), optional(inputs, 4)
    allowed = 0.0 if overlap is None else float(overlap)
    least = None if threshold is None else float(threshold)
    corners = _corners(boxes, node.integer("center_point_box", 0))
    selected = [
        (batch, kind, place)
        for batch in range(scores.shape[0])
        for kind in range(scores.shape[1])
        for place in _kept(corners[batch], scores[batch, kind], count, allowed, least)
    ]
    return torch.tensor(selected, dtype=torch.int64).reshape(-1, 3)


def _corners(boxes: Tensor, centred: int) -> Tensor:
    """Boxes as low and high corners."""
    if centred:
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat((centre - half, centre + half), -1)
    one, other = boxes[..., :2], boxes[..., 2:]
    return torch.cat((torch.minimum(one, other), torch.maximum(one, other)), -1)


def _kept(boxes: Tensor, scores: Tensor, count: int, allowed: float, least: float | None) -> list[int]:
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for place in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if len(kept) >= count or (least is not None and float(scores[place]) <= least):
            break
        if kept:
            others = boxes[kept]
            low, high = torch.maximum(others[:, :2], boxes[place, :2]), torch.minimum(others[:, 2:], boxes[place, 2:])
            common = (high - low).clamp(min=0).prod(1)
            if bool((common / (areas[kept] + areas[place] - common) > allowed).any()):
                continue
        kept.append(place)
    return kept


OPERATORS: dict[str, Operator] = {"GridSample": _grid_sample, "NonMaxSuppression": _suppress}
