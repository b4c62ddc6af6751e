"""How well a network does on scenes that it has not seen, with the post-processing that the program uses.

The measures are those of accuracy.py: average precision at an object keypoint similarity of 0.5 and of 0.75, and
joints within 5 % of the body height. The same maps drawn from the truth give what post-processing can reach at most.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grouping
import numpy as np
import torch
from accuracy import Truth, evaluate
from grouping import Array
from skeletons import COCO
from torch import Tensor
from training import labels, scenes
from training.figures import CROWD, Dice, Range
from training.network import as_input
from training.scenes import FEWEST_VISIBLE, Scenes

SIZE = (368, 656)
SEED = 900_001  # of the scenes; training's seeds are below
OKS_STEPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
TALL_PX = 180  # from which people count as near

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame's maps and truth."""

    maps_CHW: Array
    truths: list[Truth]


def truths_of(rendered: Scenes) -> list[list[Truth]]:
    """List the people of each scene that have enough visible joints to count."""
    rows = torch.cat([rendered.joints, rendered.visible[..., None]], dim=-1).float().cpu().numpy()
    heights = rendered.height.tolist()
    return [
        [Truth(row, height) for row, height in zip(people, tall, strict=True) if row[:, 2].sum() >= FEWEST_VISIBLE]
        for people, tall in zip(rows, heights, strict=True)
    ]


def unseen(
    frames: int, device: torch.device, seed: int = SEED, among: Range = CROWD, batch: int = 16,
    blend: scenes.Blend = scenes.blend,
) -> Iterator[Scenes]:  # fmt: skip
    """Render unseen scenes at the size that the network is used at."""
    dice = Dice(torch.Generator(device).manual_seed(seed))
    for first in range(0, frames, batch):
        yield scenes.render(dice, min(batch, frames - first), SIZE, among, blend)


@torch.no_grad()
def answers(network: Network, rendered: Iterator[Scenes]) -> Iterator[Frame]:
    """Run the network on the scenes, in float32."""
    for some in rendered:
        maps = network(as_input(some.images))[1].float().cpu().numpy()
        yield from map(Frame, maps, truths_of(some))


def perfect(rendered: Iterator[Scenes]) -> Iterator[Frame]:
    """Draw the maps of a perfect network for the scenes."""
    for some in rendered:
        yield from map(Frame, labels.maps_of(some).cpu().numpy(), truths_of(some))


def measure(frames: list[Frame], thresholds: grouping.Thresholds = grouping.DEFAULT_THRESHOLDS) -> dict[str, float]:
    """Find the people in the frames' maps, and compare them with the truth."""
    found = [(grouping.find_people(frame.maps_CHW, COCO, thresholds=thresholds), frame.truths) for frame in frames]
    scores = {step: evaluate(found, step) for step in OKS_STEPS}
    half = scores[0.5]
    offsets = _offsets(found)
    return {
        "frames": len(frames),
        "people": half.people,
        "found": half.found,
        "false_people": half.false_people,
        "ap50": round(half.average_precision, 4),
        "ap75": round(scores[0.75].average_precision, 4),
        "ap": round(float(np.mean([score.average_precision for score in scores.values()])), 4),
        "pck": round(half.correct_joints / max(half.joints, 1), 4),
        "recall_near": round(_recall(found, lambda truth: truth.height >= TALL_PX), 4),
        "recall_far": round(_recall(found, lambda truth: truth.height < TALL_PX), 4),
        "bias_x_px": round(float(offsets[:, 0].mean()), 3) if len(offsets) else 0.0,
        "bias_y_px": round(float(offsets[:, 1].mean()), 3) if len(offsets) else 0.0,
        "median_error_px": round(float(np.median(np.hypot(*offsets.T))), 3) if len(offsets) else 0.0,
    }


def measure_perfect(frames: int, device: torch.device) -> dict[str, float]:
    """Measure what post-processing reaches on the unseen scenes with the maps of a perfect network."""
    return measure(list(perfect(unseen(frames, device))))


def _nearest(found: Array, truth: Truth) -> Array | None:
    """Pick the found person who has the most joints near the true ones'; none where that is fewer than three."""
    near = [_near(person, truth).sum() for person in found]
    return found[int(np.argmax(near))] if near and max(near) >= 3 else None


def _near(person: Array, truth: Truth) -> np.ndarray:
    distance = np.hypot(*(person[:, :2] - truth.joints[:, :2]).T)
    return (distance < 0.1 * truth.height) & (person[:, 2] > 0) & (truth.joints[:, 2] > 0)


def _offsets(found: list[tuple[Array, list[Truth]]]) -> Array:
    """List how far off each joint near the true one is: joints x (x, y) in pixels."""
    offsets = [np.zeros((0, 2), np.float32)]
    for people, truths in found:
        for truth in truths:
            person = _nearest(people, truth)
            if person is not None:
                offsets.append((person[:, :2] - truth.joints[:, :2])[_near(person, truth)])
    return np.concatenate(offsets)


def _recall(found: list[tuple[Array, list[Truth]]], counts: Callable[[Truth], bool]) -> float:
    some = [(people, [truth for truth in truths if counts(truth)]) for people, truths in found]
    score = evaluate(some)
    return score.found / max(score.people, 1)
