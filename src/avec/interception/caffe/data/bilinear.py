"""cv::resize with INTER_LINEAR on 8-bit pictures, to the bit, in numpy alone; for hosts without OpenCV.

Source: OpenCV 4.5, modules/imgproc/src/resize.cpp, whose weights have 11 bits.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Picture: TypeAlias = npt.NDArray[np.uint8]  # height x width (x channels)
Integers: TypeAlias = npt.NDArray[np.integer[Any]]

WEIGHT = 1 << 11


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Resize to height x width."""
    if picture.shape[:2] == (height, width):
        return picture.copy()
    before, axes = picture.shape, picture.ndim
    left, part = _places(before[1], width)
    part[(left < 0) | (left >= before[1] - 1)] = 0  # of columns; rows beyond the border keep their weights
    near, far = (weight.reshape(-1, *(1,) * (axes - 2)) for weight in _weights(part))
    wide = _take(picture, left, 1).astype(np.int32) * near + _take(picture, left + 1, 1).astype(np.int32) * far
    upper, part = _places(before[0], height)
    near, far = (weight.reshape(-1, *(1,) * (axes - 1)) for weight in _weights(part))
    high = (near * (_take(wide, upper, 0) >> 4) >> 16) + (far * (_take(wide, upper + 1, 0) >> 4) >> 16)
    return ((high + 2) >> 2).astype(np.uint8)


def _places(before: int, after: int) -> tuple[Integers, npt.NDArray[np.float32]]:
    """For each row or column of the result the one before it in the picture, and how far it is beyond that."""
    scale = 1 / (after / before)
    places = ((np.arange(after) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(places)
    return low.astype(np.intp), places - low


def _weights(part: npt.NDArray[np.float32]) -> list[Integers]:
    return [np.rint(each * np.float32(WEIGHT)).astype(np.int32) for each in (1 - part, part)]


def _take(picture: Integers, places: Integers, axis: int) -> Integers:
    return picture.take(np.clip(places, 0, picture.shape[axis] - 1), axis)
