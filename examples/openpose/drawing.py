"""Superimposes skeletons on pictures."""

import cv2
import numpy as np
from grouping import Array
from numpy.typing import NDArray
from skeletons import Skeleton

OPACITY = 0.75
SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel
WIDTH_PER_SIZE = 1 / 55  # of a limb, to the size of the skeleton it belongs to
SMALLEST_RADIUS, LARGEST_RADIUS = 1.5, 9.0


def draw_skeletons(image: NDArray[np.uint8], keypoints: Array, skeleton: Skeleton) -> NDArray[np.uint8]:
    """Return a copy of a picture with skeletons over it; keypoints are found x parts x (x, y, score)."""
    overlay = image.copy()
    for person in keypoints:
        _draw_one(overlay, person, skeleton)
    return cv2.addWeighted(overlay, OPACITY, image, 1 - OPACITY, 0)


def _draw_one(overlay: NDArray[np.uint8], person: Array, skeleton: Skeleton) -> None:
    present = person[:, 2] > 0
    if not present.any():
        return
    size = float(np.ptp(person[present, :2], axis=0).max())
    radius = min(max(size * WIDTH_PER_SIZE, SMALLEST_RADIUS), LARGEST_RADIUS)
    for start, end in skeleton.limbs[: skeleton.drawn_limbs]:
        if present[start] and present[end]:
            _draw_limb(overlay, person[start, :2], person[end, :2], radius, skeleton.colours[end])
    for part in np.nonzero(present)[0]:
        centre = tuple(_subpixels(person[part, :2]).tolist())
        cv2.circle(
            overlay, centre, int(radius * 2**SUBPIXEL_BITS), skeleton.colours[part], -1, cv2.LINE_AA, SUBPIXEL_BITS
        )


def _draw_limb(
    overlay: NDArray[np.uint8], start: Array, end: Array, radius: float, colour: tuple[int, int, int]
) -> None:
    """Fill an ellipse from joint to joint."""
    middle, half = (start + end) / 2, (end - start) / 2
    across = np.array((-half[1], half[0])) / max(float(np.hypot(*half)), 1e-3) * radius
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    outline = middle + np.cos(angle) * half + np.sin(angle) * across
    cv2.fillConvexPoly(overlay, _subpixels(outline), colour, cv2.LINE_AA, SUBPIXEL_BITS)


def _subpixels(points: Array) -> NDArray[np.int32]:
    return np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)
