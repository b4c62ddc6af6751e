"""Layers that sum up, and MVN. Source: the files of these names in caffe/src/caffe/layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Prepared, Shape, elementwise


def reduction(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """The sum, sum of magnitudes, sum of squares or mean of all from `axis` on."""
    setting, shape = layer.setting("reduction_param"), bottoms[0]
    axis = layer.axis(setting.axis, shape) if shape else 0
    top, length = shape[:axis], math.prod(shape[axis:])
    flat = (*top, length)
    mean = setting.operation == setting.MEAN
    coefficient: float = setting.coeff / length if mean and length else setting.coeff
    squares, magnitudes = setting.operation == setting.SUMSQ, setting.operation == setting.ASUM

    def operation(x: Tensor) -> Tensor:
        rows = x.reshape(flat)
        return (rows * rows if squares else rows.abs() if magnitudes else rows).sum(-1) * coefficient

    def gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        spread = (dy * coefficient).unsqueeze(-1)
        rows = x.reshape(flat)
        diff = rows * (2 * spread) if squares else rows.sign() * spread if magnitudes else spread.expand(flat)
        return diff.reshape(shape)

    return Prepared(operation, [top], elementwise(gradient))


def mean_variance_normalization(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Subtract the mean and divide by the standard deviation, of each channel or of each item."""
    setting, shape = layer.setting("mvn_param"), bottoms[0]
    layer.require(len(shape) <= 4, f"the bottom may have 4 axes, not shape {shape}")
    layer.require(0 not in shape, f"a bottom of shape {shape} has no values to take statistics of")
    top = (*shape, *(1 for _ in range(4 - len(shape))))
    groups = top[0] if setting.across_channels else top[0] * top[1]
    rows = (groups, math.prod(top) // max(groups, 1))
    eps: float = setting.eps

    def deviation(x: Tensor) -> Tensor:
        return x.var(1, correction=0, keepdim=True).sqrt() + eps

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)

    def operation(x: Tensor) -> Tensor:
        values = x.reshape(rows)
        found = centred(values)
        return (found / deviation(values) if setting.normalize_variance else found).view(top)

    def gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        diff, normalized = dy.reshape(rows), y.reshape(rows)
        if not setting.normalize_variance:
            return centred(diff).view(shape)
        if layer.in_place:  # Caffe's CPU code overwrites the diffs that it goes on to read
            shared = normalized * (normalized * diff).sum(1, keepdim=True)
            return ((shared + shared.sum(1, keepdim=True)) * (-2 / rows[1]) / deviation(x.reshape(rows))).view(shape)
        # Caffe's own formula: it differs from the derivative by eps.
        shared = normalized * (normalized * diff).mean(1, keepdim=True) + diff.mean(1, keepdim=True)
        return ((diff - shared) / deviation(x.reshape(rows))).view(shape)

    return Prepared(operation, [top], elementwise(gradient), keeps_bottom=True)


def silence(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Reads blobs so that they are no outputs."""

    def operation(*tensors: Tensor) -> Sequence[Tensor]:
        return ()

    return Prepared(operation, [])
