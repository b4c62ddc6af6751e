"""The layers that OpenPose's first release adds to Caffe: ImResize and Nms. Source: its GPU code, caffe_rtpose.

There is no oracle for them but that code's reading; neither has a backward pass, there or here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Prepared, Shape

NEIGHBOURHOOD = 3  # a peak's place is the mean over so many pixels to each side, weighted by their values


def im_resize(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Enlarge maps by cubic interpolation, and average over the batch, whose items are scales of one image."""
    setting, shape = layer.setting("imresize_param"), bottoms[0]
    layer.require(len(shape) == 4, f"the bottom must have 4 axes, not shape {shape}")
    scales, channels, height, width = shape
    target_height, target_width = setting.target_spatial_height, setting.target_spatial_width
    if setting.factor:
        target_height, target_width = int(height * setting.factor), int(width * setting.factor)
    layer.require(target_height > 0 and target_width > 0, f"it would make maps of {target_height}×{target_width}")
    margins = [1 - setting.start_scale + scale * setting.scale_gap for scale in range(scales)]
    layer.require(
        all(0 <= margin < 1 for margin in margins),
        f"start_scale {setting.start_scale:g} and scale_gap {setting.scale_gap:g} leave nothing of {scales} scales",
    )

    def matrices(source: int, target: int) -> Tensor:
        rows = [_interpolation(source, target, math.floor(source // 2 * margin)) for margin in margins]
        return torch.from_numpy(np.stack(rows)).to(device).unsqueeze(1)

    rows, columns = matrices(height, target_height), matrices(width, target_width).mT.contiguous()

    def operation(x: Tensor) -> Tensor:
        return (rows @ x @ columns).mean(0, keepdim=True)

    return Prepared(operation, [(1, channels, target_height, target_width)])


def _interpolation(source: int, target: int, margin: int) -> npt.NDArray[np.float32]:
    """The matrix (target × source) of a cubic interpolation (Catmull and Rom's) along one axis, margins cut off."""
    inner = source - 2 * margin
    places = (np.arange(target) - (target / inner / 2 - 0.5)) * (inner / target)
    second = np.maximum((places + 1e-5).astype(np.int64), 0)
    third = np.minimum(second + 1, inner - 1)
    neighbours = (np.maximum(second - 1, 0), second, third, np.minimum(third + 1, inner - 1))
    d = places - second
    weights = (
        -0.5 * d**3 + d**2 - 0.5 * d,
        1.5 * d**3 - 2.5 * d**2 + 1,
        -1.5 * d**3 + 2 * d**2 + 0.5 * d,
        0.5 * d**3 - 0.5 * d**2,
    )
    matrix = np.zeros((target, source), np.float32)
    for neighbour, weight in zip(neighbours, weights, strict=True):
        np.add.at(matrix, (np.arange(target), neighbour + margin), weight.astype(np.float32))
    return matrix


def nms(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Peaks of each part's map: row 0 holds their number, the rows after it x, y and score, in reading order."""
    setting, shape = layer.setting("nms_param"), bottoms[0]
    parts, limit, threshold = setting.num_parts, setting.max_peaks, float(setting.threshold)
    layer.require(
        len(shape) == 4 and shape[1] >= parts, f"the bottom must have 4 axes and {parts} maps, not shape {shape}"
    )

    def operation(x: Tensor) -> Tensor:
        maps = x[:, :parts]
        return _table(maps, _peaks(maps, threshold), limit)

    return Prepared(operation, [(shape[0], parts, limit + 1, 3)])


def _peaks(maps: Tensor, threshold: float) -> Tensor:
    """Where a map is over the threshold and larger than all eight neighbours; never on its border."""
    height, width = maps.shape[2:]
    found = torch.zeros_like(maps, dtype=torch.bool)
    if height < 3 or width < 3:
        return found
    centre = maps[..., 1:-1, 1:-1]
    highest = centre > threshold
    for dy in range(3):
        for dx in range(3):
            if (dy, dx) != (1, 1):
                highest &= centre > maps[..., dy : height - 2 + dy, dx : width - 2 + dx]
    found[..., 1:-1, 1:-1] = highest
    return found


def _table(maps: Tensor, found: Tensor, limit: int) -> Tensor:
    height, width = maps.shape[2:]
    flat, marks = maps.flatten(2), found.flatten(2)
    table = maps.new_zeros(*maps.shape[:2], limit + 1, 3)
    table[:, :, 0, 0] = marks.sum(2)
    count = min(limit, height * width)
    # The first peaks in reading order are those with the largest distance from the end.
    from_end = torch.arange(height * width, 0, -1, device=maps.device)
    order, places = torch.where(marks, from_end, 0).topk(count, 2)
    y, x = _centres(flat, places, height, width)
    rows = torch.stack([x, y, flat.gather(2, places)], 3)
    table[:, :, 1 : count + 1] = torch.where((order > 0).unsqueeze(3), rows, 0)
    return table


def _centres(flat: Tensor, places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The mean place around each peak, weighted by positive values; the first row and column take no part."""
    steps = torch.arange(-NEIGHBOURHOOD, NEIGHBOURHOOD + 1, device=flat.device)
    y = (places // width)[..., None, None] + steps[:, None]
    x = (places % width)[..., None, None] + steps
    inside = (y > 0) & (y < height) & (x > 0) & (x < width)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(2)
    values = flat.gather(2, index).view(inside.shape).clamp_min(0) * inside
    total = values.sum((3, 4))
    return (values * y).sum((3, 4)) / total, (values * x).sum((3, 4)) / total
