"""How well found people agree with the truth that the synthetic renderer wrote down.

    python openpose.py --write-json --output out && python accuracy.py out [truth.json]

The measure is COCO's object keypoint similarity (OKS): 1 for a perfect person, falling with each joint's
distance in proportion to the person's size and to how exactly that joint can be placed at all.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]

MEDIA = Path(__file__).parent / "media"

# COCO's constants, in the order of skeletons.COCO; the neck, which COCO lacks, as the shoulders.
OKS_SIGMAS = np.array(
    (
        0.026,
        *(0.079, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062),
        *(0.107, 0.087, 0.089) * 2,
        *(0.025,) * 2,
        *(0.035,) * 2,
    ),
    np.float32,
)
AREA_PER_HEIGHT_SQUARED = 0.1855  # of a standing person: 0.53 wide by 0.35 filled
RECALL_STEPS = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class Truth:
    """One rendered person: joints as parts x (x, y, visible), and the body height in pixels."""

    joints: Array
    height: float


def similarity(found: Array, truth: Truth) -> float:
    """Compute the OKS of a found person (parts x (x, y, score); score 0 means missing)."""
    squared = np.square(found[:, :2] - truth.joints[:, :2]).sum(axis=1)
    area = AREA_PER_HEIGHT_SQUARED * truth.height**2
    likeness = np.exp(-squared / (2 * area * np.square(2 * OKS_SIGMAS)))
    return float(np.where(found[:, 2] > 0, likeness, 0)[truth.joints[:, 2] > 0].mean())


@dataclass(frozen=True, slots=True)
class Score:
    """Counts over all frames, at one OKS threshold."""

    people: int
    found: int
    false_people: int
    average_precision: float
    joints: int
    correct_joints: int  # within 5 % of the body height

    def __str__(self) -> str:
        return (
            f"{self.found} of {self.people} people found ({self.found / max(self.people, 1):.1%}), "
            f"{self.false_people} false; AP {self.average_precision:.3f}; "
            f"joints within 5 % of the height: {self.correct_joints / max(self.joints, 1):.1%}"
        )


def evaluate(frames: Iterable[tuple[Array, list[Truth]]], threshold: float = 0.5) -> Score:
    """Match each frame's found people (best first) with the true ones, one to one."""
    confidences: list[float] = []
    hits: list[bool] = []
    people = joints = correct = 0
    for found, truths in frames:
        people += len(truths)
        left = list(truths)
        for person in found:
            best = max(left, key=lambda truth: similarity(person, truth), default=None)
            hit = best is not None and similarity(person, best) >= threshold
            confidences.append(float(person[:, 2].sum()))
            hits.append(hit)
            if best is not None and hit:
                left = [truth for truth in left if truth is not best]
        for truth in truths:
            joints += int((truth.joints[:, 2] > 0).sum())
            correct += max((_correct_joints(person, truth) for person in found), default=0)
    precision = _average_precision(np.array(confidences), np.array(hits, bool), people)
    return Score(people, sum(hits), len(hits) - sum(hits), precision, joints, correct)


def _correct_joints(found: Array, truth: Truth) -> int:
    distance = np.hypot(*(found[:, :2] - truth.joints[:, :2]).T)
    near = (distance < 0.05 * truth.height) & (found[:, 2] > 0)
    return int((near & (truth.joints[:, 2] > 0)).sum())


def _average_precision(confidences: NDArray[np.float64], hits: NDArray[np.bool_], people: int) -> float:
    if not hits.any():
        return 0.0
    cumulated = hits[np.argsort(-confidences, kind="stable")].cumsum()
    recall = cumulated / people
    precision = np.maximum.accumulate((cumulated / np.arange(1, len(hits) + 1))[::-1])[::-1]
    reached = np.searchsorted(recall, RECALL_STEPS)
    return float(np.append(precision, 0.0)[reached].mean())


def load_truth(path: Path = MEDIA / "truth.json") -> dict[str, list[Truth]]:
    """Read the rendered people of each picture and of each frame, under the stem of its keypoint file."""
    document = json.loads(path.read_text())
    return {
        stem: [Truth(np.array(person["joints"], np.float32).reshape(-1, 3), person["height"]) for person in people]
        for stem, people in document.items()
    }


def load_keypoints(path: Path) -> Array:
    """Read the body keypoints of a file in OpenPose's format, as people x parts x (x, y, score)."""
    people = json.loads(path.read_text())["people"]
    rows = [person["pose_keypoints_2d"] for person in people]
    return np.array(rows, np.float32).reshape(len(rows), -1, 3)


def pairs(folder: Path, truth: dict[str, list[Truth]]) -> Iterator[tuple[Array, list[Truth]]]:
    """Pair each keypoint file in a folder with the truth of the same name."""
    for stem, people in truth.items():
        path = folder / f"{stem}_keypoints.json"
        if path.exists():
            yield load_keypoints(path), people


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print("usage: python accuracy.py FOLDER_WITH_KEYPOINTS [TRUTH]", file=sys.stderr)
        return 2
    truth = Path(sys.argv[2]) if len(sys.argv) == 3 else MEDIA / "truth.json"
    compared = list(pairs(Path(sys.argv[1]), load_truth(truth)))
    if not compared:
        print(f"accuracy: no keypoint file of the pictures in {truth} is in {sys.argv[1]}", file=sys.stderr)
        return 1
    print(f"{len(compared)} frames: {evaluate(compared)}")
    print(f"at an OKS of 0.75: AP {evaluate(compared, 0.75).average_precision:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
