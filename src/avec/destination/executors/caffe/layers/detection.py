"""The layers that SSD adds: Permute, Normalize, PriorBox, DetectionOutput. Source: Liu et al., "SSD".

They are those of the Caffe fork that the SSD networks come with; real Caffe itself has none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.elementwise import constant_filler
from avec.destination.executors.caffe.layers.layer import Layer, ParameterSpec, Prepared, Shape, elementwise
from avec.formats.caffe.message import Message

Floats = npt.NDArray[np.float32]

CORNER, CORNER_SIZE = 1, 3  # of PriorBoxParameter.CodeType
DEFAULT_VARIANCE = 0.1
SAME_RATIO = 1e-6  # aspect ratios that differ by less are one
ROW = 7  # of a detection: image, label, score, and the box's left, top, right and bottom
ADAPTIVE_LEAST = 0.5  # an adaptive overlap threshold shrinks while it is over this


def permute(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """The axes in another order; those that are not named follow in theirs."""
    shape = bottoms[0]
    named = list(layer.setting("permute_param").order)
    layer.require(
        len(set(named)) == len(named) and all(axis < len(shape) for axis in named),
        f"order {named} must name axes of a bottom of shape {shape}, each once",
    )
    order = named + [axis for axis in range(len(shape)) if axis not in named]
    inverse = [order.index(axis) for axis in range(len(shape))]

    def operation(x: Tensor) -> Tensor:
        return x.permute(order).contiguous()

    return Prepared(
        operation, [tuple(shape[axis] for axis in order)], elementwise(lambda x, y, dy: dy.permute(inverse))
    )


def normalize_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("norm_param")
    layer.require(len(bottoms[0]) >= 2, f"the bottom must have 2 axes or more, not shape {bottoms[0]}")
    filler = setting.scale_filler if setting.HasField("scale_filler") else constant_filler(1.0)
    return [ParameterSpec(() if setting.channel_shared else (bottoms[0][1],), filler)]


def normalize(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Divide by the L2 norm, over the channels or over all of an item; then multiply by a learned scale."""
    setting, shape = layer.setting("norm_param"), bottoms[0]
    axes = list(range(1, len(shape))) if setting.across_spatial else [1]
    spread = (-1, *(1 for _ in shape[2:]))
    eps: float = setting.eps

    def operation(x: Tensor, scale: Tensor) -> Tensor:
        return x / ((x * x).sum(axes, keepdim=True) + eps).sqrt() * scale.view(spread)

    return Prepared(operation, bottoms)


@dataclass(frozen=True, slots=True)
class Grid:
    """The boxes of a PriorBox layer: their sizes, the same at each place, and how places lie in the image."""

    sizes: list[tuple[float, float]]  # width and height in pixels
    image: tuple[int, int]  # width, height
    step: tuple[float, float]
    places: tuple[int, int]
    offset: float
    clip: bool


def _pair(layer: Layer, setting: Message, name: str, sides: tuple[str, str]) -> tuple[float, float] | None:
    """A setting given once, or for width and height; None: not given."""
    given = [setting.HasField(side) for side in sides]
    if any(given):
        layer.require(not setting.HasField(name), f"{name} is given beside {sides[0]} and {sides[1]}; keep one way")
        found = tuple(getattr(setting, side) for side in sides)
    elif setting.HasField(name):
        found = (getattr(setting, name),) * 2
    else:
        return None
    layer.require(min(found) > 0, f"{name} must be positive, not {found}")
    return found[0], found[1]


def _ratios(setting: Message) -> list[float]:
    """The aspect ratios other than 1, each with its inverse where boxes are flipped."""
    found = [1.0]
    for ratio in setting.aspect_ratio:
        if all(abs(ratio - other) >= SAME_RATIO for other in found):
            found += [ratio, 1.0 / ratio] if setting.flip else [ratio]
    return [ratio for ratio in found[1:] if abs(ratio - 1.0) >= SAME_RATIO]


def _box_sizes(layer: Layer, setting: Message) -> list[tuple[float, float]]:
    least, most = list(setting.min_size), list(setting.max_size)
    layer.require(bool(least) and min(least) > 0, f"min_size must be given and positive, not {least}")
    layer.require(
        not most or (len(most) == len(least) and all(a < b for a, b in zip(least, most, strict=True))),
        f"max_size {most} must be given once for each min_size {least}, and be greater",
    )
    layer.require(all(ratio > 0 for ratio in setting.aspect_ratio), "aspect_ratio must be positive")
    sizes = []
    for place, size in enumerate(int(size) for size in least):
        sizes.append((float(size), float(size)))
        if most:
            side = math.sqrt(size * int(most[place]))
            sizes.append((side, side))
        sizes += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in _ratios(setting)]
    return sizes


def prior_box(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Boxes at every place of the first bottom, as parts of the image's size, and their variances."""
    setting = layer.setting("prior_box_param")
    for shape in bottoms:
        layer.require(len(shape) == 4 and min(shape[2:]) > 0, f"a bottom must be (N, C, height, width), not {shape}")
    features, picture = bottoms
    image = _pair(layer, setting, "img_size", ("img_w", "img_h")) or (picture[3], picture[2])
    step = _pair(layer, setting, "step", ("step_w", "step_h")) or (image[0] / features[3], image[1] / features[2])
    width, height = int(image[0]), int(image[1])
    sizes = _box_sizes(layer, setting)
    grid = Grid(sizes, (width, height), step, (features[3], features[2]), setting.offset, setting.clip)
    boxes = _boxes(grid)
    variances = _variances(layer, setting, boxes.size)
    made = torch.from_numpy(np.stack([boxes.ravel(), variances])[np.newaxis]).to(device)

    def operation(features: Tensor, image: Tensor) -> Tensor:
        return made.clone()

    return Prepared(operation, [(1, 2, boxes.size)], lambda given: (None, None))


def _boxes(grid: Grid) -> Floats:
    across, down = (
        (np.arange(count, dtype=np.float32) + np.float32(grid.offset)) * np.float32(step)
        for count, step in zip(grid.places, grid.step, strict=True)
    )
    halves = np.asarray(grid.sizes, np.float32) / 2
    centres = np.stack(np.broadcast_arrays(across[np.newaxis, :], down[:, np.newaxis]), -1)[:, :, np.newaxis]
    boxes = np.concatenate([centres - halves, centres + halves], -1) / np.tile(np.asarray(grid.image, np.float32), 2)
    found: Floats = np.ascontiguousarray(np.clip(boxes, 0, 1) if grid.clip else boxes, np.float32)
    return found


def _variances(layer: Layer, setting: Message, count: int) -> Floats:
    given = list(setting.variance) or [DEFAULT_VARIANCE]
    layer.require(len(given) in (1, 4) and min(given) > 0, f"variance must be 1 or 4 positive numbers, not {given}")
    return np.resize(np.asarray(given, np.float32), count)


def detection_output(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Decode boxes, drop those that overlap better ones, and list the rest, a row each."""
    setting = layer.setting("detection_output_param")
    layer.require(setting.num_classes > 0, "num_classes must be positive")
    layer.require(setting.nms_param.nms_threshold >= 0, "nms_threshold must not be negative")
    layer.require(0 < setting.nms_param.eta <= 1, f"eta must be over 0 and at most 1, not {setting.nms_param.eta}")
    if setting.save_output_param.output_directory:
        layer.unsupported("saving detections into the host's files (save_output_param)")
    classes = 1 if setting.share_location else setting.num_classes
    priors = bottoms[2][2] // 4 if len(bottoms[2]) > 2 else 0
    batch = bottoms[0][0]
    layer.require(batch == bottoms[1][0], f"{batch} items of locations, {bottoms[1][0]} of confidences")
    for what, shape, wanted in (
        ("locations", bottoms[0], priors * classes * 4),
        ("confidences", bottoms[1], priors * setting.num_classes),
    ):
        count = math.prod(shape[1:])
        layer.require(count == wanted, f"{count} {what} of shape {shape} for {priors} priors; {wanted} are needed")

    def operation(locations: Tensor, confidences: Tensor, boxes: Tensor) -> Tensor:
        shifts = locations.detach().view(batch, priors, classes, 4).cpu().numpy()
        scores = confidences.detach().view(batch, priors, setting.num_classes).cpu().numpy()
        prior, variance = boxes.detach().view(2, priors, 4).cpu().numpy()
        rows = [
            row
            for image in range(batch)
            for row in _detections(setting, image, _decode(setting, shifts[image], prior, variance), scores[image])
        ]
        none = [[float(image), *[-1.0] * (ROW - 1)] for image in range(batch)]
        return torch.tensor(rows or none, dtype=torch.float32, device=device).view(1, 1, -1, ROW)

    return Prepared(operation, [(1, 1, 1, ROW)])


def _decode(setting: Message, shifts: Floats, prior: Floats, variance: Floats) -> Floats:
    """Boxes (priors, classes, 4) from predicted shifts."""
    boxes, scale = prior[:, np.newaxis], variance[:, np.newaxis]
    moved = shifts if setting.variance_encoded_in_target else shifts * scale
    size = boxes[..., 2:] - boxes[..., :2]
    found: Floats
    if setting.code_type in (CORNER, CORNER_SIZE):
        found = boxes + (moved if setting.code_type == CORNER else moved * np.concatenate([size, size], -1))
        return found
    centre = moved[..., :2] * size + (boxes[..., :2] + boxes[..., 2:]) / 2
    half = np.exp(moved[..., 2:]) * size / 2
    found = np.concatenate([centre - half, centre + half], -1)
    return found


def _detections(setting: Message, image: int, boxes: Floats, scores: Floats) -> list[list[float]]:
    """The rows of one image, by label."""
    kept = {
        label: _suppress(setting, boxes[:, 0 if setting.share_location else label], scores[:, label])
        for label in range(setting.num_classes)
        if label != setting.background_label_id
    }
    found = [(label, index) for label, indices in kept.items() for index in indices]
    if -1 < setting.keep_top_k < len(found):
        best = sorted(found, key=lambda each: -scores[each[1], each[0]])[: setting.keep_top_k]
        found = sorted(best, key=lambda each: each[0])
    return [
        [image, label, scores[index, label], *boxes[index, 0 if setting.share_location else label]]
        for label, index in found
    ]


def _suppress(setting: Message, boxes: Floats, scores: Floats) -> list[int]:
    """The places of the boxes that overlap no better one too much. Source: ApplyNMSFast."""
    limit = setting.confidence_threshold if setting.HasField("confidence_threshold") else -np.inf
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > limit]
    if setting.nms_param.HasField("top_k") and setting.nms_param.top_k > -1:
        order = order[: setting.nms_param.top_k]
    threshold, kept = setting.nms_param.nms_threshold, list[int]()
    for index in order:
        if kept and _overlaps(boxes[index], boxes[kept]).max() > threshold:
            continue
        kept.append(int(index))
        if setting.nms_param.eta < 1 and threshold > ADAPTIVE_LEAST:
            threshold *= setting.nms_param.eta
    return kept


def _overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union with each of the others."""
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.where((inner > 0).all(1), inner.prod(1), 0)
    with np.errstate(all="ignore"):
        ratio: Floats = np.where(shared > 0, shared / (_area(box[np.newaxis]) + _area(others) - shared), 0)
    return ratio


def _area(boxes: Floats) -> Floats:
    sides = boxes[:, 2:] - boxes[:, :2]
    area: Floats = np.where((sides >= 0).all(1), sides.prod(1), 0)
    return area
