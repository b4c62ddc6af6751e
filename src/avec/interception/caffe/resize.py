"""Resizing of images as pycaffe does it, without scikit-image and scipy: numpy alone.

Images with 1 or 3 channels go the way of skimage.transform.resize (pixels are areas, zeros lie beyond the border, an
image that gets smaller is smoothed first), all others that of scipy.ndimage.zoom (pixels are points, corners stay).
Source: caffe/python/caffe/io.py, resize_image; scikit-image 0.18, _warps.py and interpolation.pxd; scipy 1.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import UnsupportedOperation

Array: TypeAlias = npt.NDArray[Any]
Taps: TypeAlias = list[tuple[Array, Array]]  # for each output row or column: places in the input, and their weights

SMOOTHING_REACH = 4.0  # standard deviations, scipy.ndimage.gaussian_filter's truncate


def as_areas(image_HWC: Array, height: int, width: int, order: int) -> Array:
    """Resize as skimage.transform.resize(image, mode="constant") does; order 0 (nearest), 1 (linear) or 3 (cubic)."""
    taps = _taps_of(order)
    for axis, size in ((0, height), (1, width)):
        factor = image_HWC.shape[axis] / size
        image_HWC = _convolve(image_HWC, axis, _smoothing((factor - 1) / 2))
        places = factor * (np.arange(size) + 0.5) - 0.5
        image_HWC = _gather(image_HWC, axis, taps(places))
    return image_HWC


def as_points(image_HWC: Array, height: int, width: int, order: int) -> Array:
    """Resize as scipy.ndimage.zoom does; order 0 (nearest) or 1 (linear)."""
    if order not in (0, 1):
        raise UnsupportedOperation(
            f"interpolation of order {order} is not supported for {image_HWC.shape[-1]} channels; use order 0 or 1"
        )
    taps = _taps_of(order)
    for axis, size in ((0, height), (1, width)):
        before = image_HWC.shape[axis]
        step = (before - 1) / (size - 1) if size > 1 else 1.0
        image_HWC = _gather(image_HWC, axis, taps(np.minimum(np.arange(size) * step, before - 1)))
    return image_HWC


def _taps_of(order: int) -> Callable[[Array], Taps]:
    known = {0: _nearest, 1: _linear, 3: _cubic}
    if order not in known:
        raise UnsupportedOperation(f"interpolation of order {order} is not supported; use 0, 1 or 3")
    return known[order]


def _nearest(places: Array) -> Taps:
    return [(np.floor(places + 0.5).astype(np.intp), np.ones(len(places)))]


def _linear(places: Array) -> Taps:
    low = np.floor(places)
    part = places - low
    return [(low.astype(np.intp), 1 - part), (low.astype(np.intp) + 1, part)]


def _cubic(places: Array) -> Taps:
    """Catmull and Rom's, as scikit-image."""
    low = np.floor(places)
    x = places - low
    weights = (
        x * (-0.5 + x * (1 - 0.5 * x)),
        1 + x * x * (-2.5 + 1.5 * x),
        x * (0.5 + x * (2 - 1.5 * x)),
        x * x * (-0.5 + 0.5 * x),
    )
    return [(low.astype(np.intp) + offset - 1, weight) for offset, weight in enumerate(weights)]


def _gather(image: Array, axis: int, taps: Taps) -> Array:
    """Add up the weighted rows or columns; those beyond the border are zeros."""
    size = image.shape[axis]
    total: Array | None = None
    for places, weights in taps:
        inside = (places >= 0) & (places < size)
        weights = np.where(inside, weights, 0).astype(image.dtype)
        part = image.take(np.clip(places, 0, size - 1), axis) * _along(weights, axis)
        total = part if total is None else total + part
    return image if total is None else total


def _smoothing(sigma: float) -> Array:
    """The weights of scipy.ndimage.gaussian_filter1d; one alone when there is nothing to smooth."""
    if sigma <= 0:
        return np.ones(1)
    reach = int(SMOOTHING_REACH * sigma + 0.5)
    weights: Array = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return weights


def _convolve(image: Array, axis: int, weights: Array) -> Array:
    if len(weights) == 1:
        return image
    reach, size = len(weights) // 2, image.shape[axis]
    padded = np.pad(image, [(reach, reach) if each == axis else (0, 0) for each in range(image.ndim)])
    total = np.zeros_like(image)
    for offset, weight in enumerate(weights):
        total += padded.take(range(offset, offset + size), axis) * image.dtype.type(weight)
    return total


def _along(weights: Array, axis: int) -> Array:
    return weights[:, None, None] if axis == 0 else weights[None, :, None]
