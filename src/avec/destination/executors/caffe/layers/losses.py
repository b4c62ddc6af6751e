"""Losses and Accuracy. Source: the files of these names in caffe/src/caffe/layers.

A loss's gradient is scaled by its top's diff, which holds its weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Pass, Prepared, Shape
from avec.formats.caffe.caffemodel import shape_of
from avec.formats.caffe.message import message_class

LEAST = float(np.finfo(np.float32).tiny)  # FLT_MIN, what SoftmaxWithLoss takes the logarithm of at least
LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD, the same for the other logarithmic losses
CONTRASTIVE_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels for predictions of shape (outer, classes, inner), and how a sum over them is normalised."""

    outer: int
    classes: int
    inner: int
    ignored: int | None
    mode: str

    def valid(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels as indices of shape (outer, 1, inner), and which of them count; None: all."""
        index = labels.reshape(self.outer, 1, self.inner).long()
        inside = index.clamp(0, self.classes - 1)
        return inside, None if self.ignored is None else index != self.ignored

    def poison(self, labels: Tensor) -> Tensor:
        """NaN where a label is out of range, else 0: an index out of range would end a GPU's whole context."""
        index = labels.reshape(-1).long()
        wrong = (index < 0) | (index >= self.classes)
        if self.ignored is not None:
            wrong &= index != self.ignored
        return torch.where(wrong.any(), math.nan, 0.0)

    def normalizer(self, counts: Tensor | None) -> float | Tensor:
        """What the sum of losses is divided by. Source: SoftmaxWithLossLayer::get_normalizer."""
        if self.mode == "VALID" and counts is not None:
            return counts.sum().clamp(min=1)
        count = {"BATCH_SIZE": self.outer, "NONE": 1}.get(self.mode, self.outer * self.inner)
        return max(count, 1)


def _mode(layer: Layer, default: str) -> str:
    setting = layer.setting("loss_param")
    if setting.HasField("normalization"):
        modes = {setting.FULL: "FULL", setting.VALID: "VALID", setting.BATCH_SIZE: "BATCH_SIZE", setting.NONE: "NONE"}
        return modes[setting.normalization]
    if setting.HasField("normalize"):
        return "VALID" if setting.normalize else "BATCH_SIZE"
    return default


def _ignored(setting: object) -> int | None:
    present: bool = setting.HasField("ignore_label")  # type: ignore[attr-defined]
    return int(setting.ignore_label) if present else None  # type: ignore[attr-defined]


def _labels(layer: Layer, bottoms: Sequence[Shape], axis: int, mode: str) -> Labels:
    shape = bottoms[0]
    axis = layer.axis(axis, shape)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    layer.require(shape[axis] > 0, f"predictions of shape {shape} have no classes")
    layer.require(
        outer * inner == math.prod(bottoms[1]),
        f"predictions of shape {shape} need {outer * inner} labels (axis {axis} is of classes), not shape {bottoms[1]}",
    )
    return Labels(outer, shape[axis], inner, _ignored(layer.setting("loss_param")), mode)


def softmax_with_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    known = _labels(layer, bottoms, layer.setting("softmax_param").axis, _mode(layer, "VALID"))

    def operation(x: Tensor, labels: Tensor) -> Tensor | Sequence[Tensor]:
        probabilities = torch.softmax(x.reshape(known.outer, known.classes, known.inner), 1)
        index, counts = known.valid(labels)
        losses = -probabilities.gather(1, index).clamp(min=LEAST).log()
        loss = (losses if counts is None else losses * counts).sum() / known.normalizer(counts) + known.poison(labels)
        return [loss, probabilities.view(bottoms[0])] if len(layer.tops) > 1 else loss

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, labels = given.bottoms
        index, counts = known.valid(labels)
        diff = torch.softmax(x.reshape(known.outer, known.classes, known.inner), 1)
        diff = diff.scatter_add(1, index, torch.full_like(diff[:, :1], -1.0))
        diff = diff if counts is None else diff * counts
        return (diff * (given.diffs[0] / known.normalizer(counts))).view(bottoms[0]), None

    return Prepared(operation, [(), *bottoms[:1]][: len(layer.tops)], gradient)


def infogain_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    setting = layer.setting("infogain_loss_param")
    known = _labels(layer, bottoms, setting.axis, _mode(layer, "VALID"))
    layer.require(not layer.setting("loss_param").HasField("normalize"), "normalize is not for it; use normalization")
    fixed = None if len(bottoms) > 2 else _matrix(layer, setting.source, device)
    shape = bottoms[2] if fixed is None else tuple(fixed.shape)
    layer.require(
        math.prod(shape) == known.classes**2,
        f"the infogain matrix has shape {shape}; {known.classes} × {known.classes} values are needed",
    )

    def weights(labels: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
        """The row of the matrix for each label, as (outer, classes, inner)."""
        index, counts = known.valid(labels)
        rows = matrix.reshape(known.classes, known.classes)[index.squeeze(1)].movedim(-1, 1)
        return (rows if counts is None else rows * counts), counts

    def operation(x: Tensor, labels: Tensor, given: Tensor | None = fixed) -> Tensor | Sequence[Tensor]:
        matrix = cast(Tensor, given)
        probabilities = torch.softmax(x.reshape(known.outer, known.classes, known.inner), 1)
        rows, counts = weights(labels, matrix)
        loss = -(rows * probabilities.clamp(min=LOG_THRESHOLD).log()).sum() / known.normalizer(counts) + known.poison(
            labels
        )
        return [loss, probabilities.view(bottoms[0])] if len(layer.tops) > 1 else loss

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, labels = given.bottoms[:2]
        rows, counts = weights(labels, given.bottoms[2] if fixed is None else fixed)
        diff = torch.softmax(x.reshape(known.outer, known.classes, known.inner), 1) * rows.sum(1, keepdim=True) - rows
        return (diff * (given.diffs[0] / known.normalizer(counts))).view(bottoms[0]), None, None

    return Prepared(operation, [(), *bottoms[:1]][: len(layer.tops)], gradient)


def _matrix(layer: Layer, source: str, device: torch.device) -> Tensor:
    """The infogain matrix from a file of the host's: a BlobProto."""
    layer.require(bool(source), "it needs the infogain matrix as a third bottom or as a file (source)")
    layer.require(source in layer.files, f"the file {source!r} of the infogain matrix did not come with the net")
    blob = message_class("BlobProto").from_wire(memoryview(layer.files[source]), source)
    values = np.array(blob.data.as_array(), np.float32)
    shape = shape_of(blob)
    layer.require(values.size == math.prod(shape), f"{source!r} has {values.size} values for shape {shape}")
    return torch.from_numpy(values).view(shape).to(device)


def multinomial_logistic_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    shape, known = _rows(layer, bottoms)
    batch = known.outer

    def operation(x: Tensor, labels: Tensor) -> Tensor:
        chosen = x.reshape(shape).gather(1, known.valid(labels)[0].view(batch, 1))
        return -chosen.clamp(min=LOG_THRESHOLD).log().sum() / batch + known.poison(labels)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, labels = given.bottoms
        index = known.valid(labels)[0].view(batch, 1)
        chosen = x.reshape(shape).gather(1, index).clamp(min=LOG_THRESHOLD)
        diff = torch.zeros_like(x.reshape(shape)).scatter(1, index, -(given.diffs[0] / batch) / chosen)
        return diff.view(bottoms[0]), None

    return Prepared(operation, [()], gradient)


def _rows(layer: Layer, bottoms: Sequence[Shape]) -> tuple[Shape, Labels]:
    """The first bottom as one row of classes for each label."""
    shape, labels = bottoms[0], bottoms[1]
    layer.require(len(shape) > 0 and shape[0] > 0, f"the bottom of shape {shape} has no items")
    layer.require(math.prod(labels) == shape[0], f"{shape[0]} labels are needed, not shape {labels}")
    classes = math.prod(shape[1:])
    layer.require(classes > 0, f"predictions of shape {shape} have no classes")
    return (shape[0], classes), Labels(shape[0], classes, 1, None, "BATCH_SIZE")


def hinge_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    shape, known = _rows(layer, bottoms)
    batch = known.outer
    setting = layer.setting("hinge_loss_param")
    squared = setting.norm == setting.L2

    def margins(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        signs = torch.ones(shape, device=x.device).scatter(1, known.valid(labels)[0].view(batch, 1), -1.0)
        return (1 + x.reshape(shape) * signs).clamp(min=0), signs

    def operation(x: Tensor, labels: Tensor) -> Tensor:
        margin, _ = margins(x, labels)
        return (margin * margin if squared else margin).sum() / batch + known.poison(labels)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        margin, signs = margins(*given.bottoms)
        slope = margin * signs * 2 if squared else (margin * signs).sign()
        return (slope * (given.diffs[0] / batch)).view(bottoms[0]), None

    return Prepared(operation, [()], gradient)


def euclidean_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    _same_batch(layer, bottoms)
    layer.require(
        math.prod(bottoms[0]) == math.prod(bottoms[1]), f"bottoms differ in size: {bottoms[0]} and {bottoms[1]}"
    )
    batch = max(bottoms[0][0], 1) if bottoms[0] else 1

    def operation(x: Tensor, target: Tensor) -> Tensor:
        difference = x - target.view(bottoms[0])
        return (difference * difference).sum() / (2 * batch)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        difference = (given.bottoms[0] - given.bottoms[1].view(bottoms[0])) * (given.diffs[0] / batch)
        return difference, -difference.view(bottoms[1])

    return Prepared(operation, [()], gradient)


def _same_batch(layer: Layer, bottoms: Sequence[Shape]) -> None:
    layer.require(
        bottoms[0][:1] == bottoms[1][:1], f"bottoms of shapes {bottoms[0]} and {bottoms[1]} differ in their first axis"
    )


def sigmoid_cross_entropy_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    layer.require(
        math.prod(bottoms[0]) == math.prod(bottoms[1]), f"bottoms differ in size: {bottoms[0]} and {bottoms[1]}"
    )
    outer = bottoms[0][0] if bottoms[0] else 1
    known = Labels(
        outer, 1, math.prod(bottoms[0][1:]), _ignored(layer.setting("loss_param")), _mode(layer, "BATCH_SIZE")
    )

    def counted(target: Tensor) -> Tensor | None:
        return None if known.ignored is None else (target.trunc() != known.ignored).view(bottoms[0])

    def operation(x: Tensor, target: Tensor) -> Tensor:
        counts = counted(target)
        losses = x.clamp(min=0) - x * target.view(bottoms[0]) + torch.log1p(torch.exp(-x.abs()))
        return (losses if counts is None else losses * counts).sum() / known.normalizer(counts)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        x, target = given.bottoms
        counts = counted(target)
        diff = torch.sigmoid(x) - target.view(bottoms[0])
        diff = diff if counts is None else diff * counts
        return diff * (given.diffs[0] / known.normalizer(counts)), None

    return Prepared(operation, [()], gradient)


def contrastive_loss(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Pulls similar pairs together and dissimilar ones apart, up to a margin."""
    setting = layer.setting("contrastive_loss_param")
    margin, legacy = setting.margin, setting.legacy_version
    first, second, labels = bottoms
    for shape in (first, second):
        layer.require(len(shape) >= 2 and math.prod(shape[2:]) == 1, f"a bottom must be (pairs, values), not {shape}")
    layer.require(first[:2] == second[:2], f"bottoms differ in shape: {first} and {second}")
    batch, channels = first[:2]
    layer.require(math.prod(labels) == batch, f"{batch} labels are needed, not shape {labels}")

    def pairs(a: Tensor, b: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        difference = a.view(batch, channels) - b.view(batch, channels)
        return difference, (difference * difference).sum(1), labels.reshape(batch).trunc() != 0

    def operation(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        _, squared, similar = pairs(a, b, labels)
        apart = (margin - squared).clamp(min=0) if legacy else (margin - squared.sqrt()).clamp(min=0).square()
        return torch.where(similar, squared, apart).sum() / (2 * batch)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        difference, squared, similar = pairs(given.bottoms[0], given.bottoms[1], given.bottoms[2])
        distance = squared.sqrt()
        room = margin - (squared if legacy else distance)
        apart = torch.full_like(room, -1.0) if legacy else -room / (distance + CONTRASTIVE_EPSILON)
        factor = torch.where(similar, 1.0, torch.where(room > 0, apart, 0.0)) * (given.diffs[0] / batch)
        diff = difference * factor.view(batch, 1)
        return diff.view(first), -diff.view(second), None

    return Prepared(operation, [()], gradient)


def accuracy(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """The share of labels among the top_k predictions; a second top holds it for each class."""
    setting = layer.setting("accuracy_param")
    top_k = setting.top_k
    known = _labels(layer, bottoms, setting.axis, "VALID")
    ignored = _ignored(setting)
    known = Labels(known.outer, known.classes, known.inner, ignored, "VALID")
    layer.require(top_k <= known.classes, f"top_k {top_k} is more than the {known.classes} classes")
    per_class = len(layer.tops) > 1

    def operation(x: Tensor, labels: Tensor) -> Tensor | Sequence[Tensor]:
        scores = x.reshape(known.outer, known.classes, known.inner)
        index, counts = known.valid(labels)
        better = (scores >= scores.gather(1, index)).sum(1, keepdim=True) - 1
        right = (better < top_k).to(x.dtype)
        valid = torch.ones_like(right) if counts is None else counts.to(x.dtype)
        share = (right * valid).sum() / valid.sum().clamp(min=1)
        return [share, _per_class(right * valid, valid, index)] if per_class else share

    def _per_class(right: Tensor, valid: Tensor, index: Tensor) -> Tensor:
        empty = torch.zeros(known.classes, device=right.device)
        totals = empty.scatter_add(0, index.reshape(-1), valid.reshape(-1))
        return empty.scatter_add(0, index.reshape(-1), right.reshape(-1)) / totals.clamp(min=1)

    return Prepared(operation, [(), (known.classes,)][: len(layer.tops)])
