"""Resize and Upsample: each axis by itself, by index and weight. Source: onnx/docs/Operators.md, Resize"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    given,
    optional,
)

Floats = npt.NDArray[np.float64]

_ROUNDINGS: dict[str, Callable[[Floats], Floats]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _resize(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    mode = node.text("mode", "nearest")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if node.integer("antialias", 0) or coordinates == "tf_crop_and_resize":
        raise node.refuse("with antialias, or cropping")
    axes = node.integers("axes") or list(range(x.ndim))
    scales, sizes = _targets(node, inputs, [x.shape[axis] for axis in axes])
    for axis, scale, size in zip(axes, scales, sizes, strict=True):
        if size != x.shape[axis] or scale != 1.0:
            x = _resize_axis(node, x, axis % x.ndim, scale, size, mode, coordinates)
    return x


def _upsample(node: Node, inputs: Inputs) -> Tensor:
    x, mode = given(inputs, 0), node.text("mode", "nearest")
    given_scales = optional(inputs, 1)
    scales = [float(each) for each in (node.attributes["scales"] if given_scales is None else given_scales.tolist())]  # type: ignore[union-attr]
    for axis, scale in enumerate(scales):
        if scale != 1.0:
            x = _resize_axis(node, x, axis, scale, math.floor(x.shape[axis] * scale), mode, "asymmetric", "floor")
    return x


def _targets(node: Node, inputs: Inputs, shape: Sequence[int]) -> tuple[list[float], list[int]]:
    """The scale and the new size of each axis."""
    scales = optional(inputs, 1 if node.opset < 11 else 2)
    if scales is not None and scales.numel():
        factors = [float(each) for each in scales.tolist()]
        return factors, [math.floor(size * factor) for size, factor in zip(shape, factors, strict=True)]
    sizes = [int(each) for each in given(inputs, 3).tolist()]
    factors = [new / old for new, old in zip(sizes, shape, strict=True)]
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return factors, sizes
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(sizes), [math.floor(factor * size + 0.5) for size in shape]


def _resize_axis(
    node: Node, x: Tensor, axis: int, scale: float, size: int, mode: str, coordinates: str, rounding: str = ""
) -> Tensor:
    old = x.shape[axis]
    source = _source(coordinates, np.arange(size, dtype=np.float64), scale, old, size, node)
    if mode == "nearest":
        rounding = rounding or node.text("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
        places = np.clip(_ROUNDINGS[rounding](source), 0, old - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(places).to(x.device))
    places, weights = _taps(node, source, mode)
    outside = (places < 0) | (places > old - 1)
    if node.integer("exclude_outside", 0):
        weights = np.where(outside, 0.0, weights)
        weights = weights / weights.sum(0, keepdims=True)
    places = np.clip(places, 0, old - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    result: Tensor | None = None
    for place, weight in zip(places, weights, strict=True):
        taken = x.index_select(axis, torch.from_numpy(place).to(x.device))
        part = taken * torch.from_numpy(weight).to(x.device, x.dtype).reshape(shape)
        result = part if result is None else result + part
    return x if result is None else result


def _source(coordinates: str, target: Floats, scale: float, old: int, new: int, node: Node) -> Floats:
    """Where each new position is in the old ones."""
    match coordinates:
        case "half_pixel":
            return (target + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (target + 0.5) / scale - 0.5 if new > 1 else np.zeros_like(target)
        case "asymmetric":
            return target / scale
        case "align_corners":
            last = scale * old - 1  # the specification takes the scaled size before it is rounded
            return target * ((old - 1) / last) if last > 0 else np.zeros_like(target)
        case "half_pixel_symmetric":
            adjusted = new / (scale * old)
            return old / 2 * (1 - adjusted) + (target + 0.5) / scale - 0.5
        case _:
            raise node.refuse(f"with coordinates {coordinates}")


def _taps(node: Node, source: Floats, mode: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """The old positions that each new one is made of, and their weights; one row for each tap."""
    base = np.floor(source)
    fraction = source - base
    first = base.astype(np.int64)
    if mode == "linear":
        return np.stack([first, first + 1]), np.stack([1 - fraction, fraction])
    if mode != "cubic":
        raise node.refuse(f"in mode {mode}")
    a = node.number("cubic_coeff_a", -0.75)
    distances = np.stack([1 + fraction, fraction, 1 - fraction, 2 - fraction])
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = ((a * distances - 5 * a) * distances + 8 * a) * distances - 4 * a
    return np.stack([first - 1, first, first + 1, first + 2]), np.where(distances <= 1, near, far)


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _upsample}
