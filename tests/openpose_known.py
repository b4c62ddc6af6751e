"""What tests of the OpenPose example are given in place of a network, and of a camera."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np


class KnownEstimator:
    """Stands in for the network: finds one person, always the same."""

    def __init__(self, depth: int = 2) -> None:
        self.depth = depth
        self.person = np.zeros((1, 18, 3), np.float32)
        self.person[0, :8] = [(20 + 5 * part, 30 + 4 * part, 0.5) for part in range(8)]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image

    def begin(self, prepared: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: prepared

    def find(self, maps: np.ndarray) -> np.ndarray:
        return self.person.copy()


def write_clip(path: Path, frame_count: int) -> None:
    rng = np.random.default_rng(0)
    clip = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(frame_count):
        clip.write(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8))
    clip.release()
