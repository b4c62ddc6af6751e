"""Scenes with their truth: renders people into pictures and says where the joints are that can be seen.

A joint counts as visible when it is in the picture, is not on the far side of its own head, and is covered by
nobody and nothing in front. (Its own arm may cover it: where it is can be told from the rest.)
"""

from dataclasses import dataclass
from functools import cache

import torch
from skeletons import COCO
from torch import Tensor
from training import painting
from training.figures import (
    CROWD,
    JOINTS,
    Capsules,
    Dice,
    People,
    Range,
    body_capsules,
    in_pixels,
    sample_people,
    turned_to_viewer,
    walk,
)
from training.painting import Blend, blend

FEWEST_VISIBLE = 4  # joints, for a person to count in an evaluation


@dataclass(frozen=True, slots=True)
class Scenes:
    """Rendered pictures and the truth about them; x and y in pixels, 0 being the first pixel's centre."""

    images: Tensor  # B x 3 x H x W, uint8, blue-green-red
    joints: Tensor  # B x P x 18 x 2, in the order of skeletons.COCO
    visible: Tensor  # B x P x 18, bool
    guessable: Tensor  # B x P x 18, bool: visible, or in the picture, covered, and a limb away from one that is visible
    height: Tensor  # B x P, the body height in pixels


def render(dice: Dice, scenes: int, size: tuple[int, int], among: Range = CROWD, blend: Blend = blend) -> Scenes:
    """Render scenes that have nothing to do with each other; size is height and width."""
    people = sample_people(dice, scenes, size, among)
    behind = painting.bars(dice, scenes, painting.BARS_BEHIND, size, 0.6)
    front = painting.bars(dice, scenes, painting.BARS_IN_FRONT, size, 0.25)
    image = painting.background(dice, scenes, size)
    return _compose(dice, image, painting.texture(dice, scenes, size), people, behind, front, blend)


def render_clip(dice: Dice, frames: int, size: tuple[int, int], among: Range = CROWD, chunk: int = 16) -> list[Scenes]:
    """Render one scene in which the people walk, so many frames of it, in chunks."""
    people = walk(dice, sample_people(dice, 1, size, among), frames)
    behind = painting.bars(dice, 1, painting.BARS_BEHIND, size, 0.6)
    image, folds = painting.background(dice, 1, size), painting.texture(dice, 1, size)
    chunks = []
    for first in range(0, frames, chunk):
        some = _frames(people, slice(first, first + chunk))
        count = len(some.height)
        still = Capsules(*(getattr(behind, name).expand(count, *getattr(behind, name).shape[1:])
                           for name in Capsules.__slots__))  # fmt: skip
        nothing = painting.bars(dice, count, 0, size, 0)
        fixed = (tensor.expand(count, *tensor.shape[1:]) for tensor in (image, folds))
        chunks.append(_compose(dice, *fixed, some, still, nothing, blend, exposure=False))
    return chunks


def _frames(people: People, wanted: slice) -> People:
    angles, lengths, colours = (
        {name: tensor[wanted] for name, tensor in tensors.items()}
        for tensors in (people.angles, people.lengths, people.colours)
    )
    return People(angles, lengths, colours, people.height[wanted], people.hips[wanted], people.present[wanted])


def _compose(
    dice: Dice,
    image: Tensor,
    folds: Tensor,
    people: People,
    behind: Capsules,
    front: Capsules,
    blend: Blend,
    exposure: bool = True,
) -> Scenes:
    points = in_pixels(people)
    bodies = body_capsules(people, points)
    everything = Capsules(*(torch.cat([getattr(layer, name) for layer in (behind, bodies, front)], dim=1)
                            for name in Capsules.__slots__))  # fmt: skip
    image = painting.paint(image, folds, everything, blend)
    joints = torch.stack([points[part] for part in COCO.parts], dim=2)[..., :2]
    height, width = image.shape[-2:]
    inside = (joints >= -0.5).all(-1) & (joints[..., 0] < width - 0.5) & (joints[..., 1] < height - 0.5)
    labelled = inside & people.present[..., None] & turned_to_viewer(points)
    visible = labelled & ~_covered(joints, bodies, front)
    near = visible.float() @ _neighbours(dice.device) > 0
    quantised = painting.camera(dice, image) if exposure else painting.sensor(dice, image)
    return Scenes(quantised, joints, visible, labelled & (visible | near), people.height)


def _covered(joints: Tensor, bodies: Capsules, front: Capsules) -> Tensor:
    """Tell which joints lie under someone nearer or something in front: B x P x 18, bool."""
    _, people, parts, _ = joints.shape
    per_person = bodies.start.shape[1] // max(people, 1)
    nearer = torch.arange(bodies.start.shape[1], device=joints.device) // per_person
    later = nearer[None, :] > torch.arange(people, device=joints.device)[:, None]  # P x N
    under_bodies = (_within(joints.flatten(1, 2), bodies).unflatten(1, (people, parts)) & later[:, None]).any(-1)
    return under_bodies | _within(joints.flatten(1, 2), front).any(-1).unflatten(1, (people, parts))


def _within(points: Tensor, capsules: Capsules) -> Tensor:
    """Tell which points lie in which capsules: B x M x N, bool."""
    from_start = points[:, :, None] - capsules.start[:, None]
    axis = (capsules.end - capsules.start)[:, None]
    along = ((from_start * axis).sum(-1) / axis.square().sum(-1).clamp(min=1e-4)).clamp(0, 1)
    distance = (from_start - along[..., None] * axis).square().sum(-1).sqrt()
    radius = capsules.start_radius[:, None] * (1 - along) + capsules.end_radius[:, None] * along
    return (distance < radius) & (capsules.present[:, None] > 0)


@cache
def _neighbours(device: torch.device) -> Tensor:
    adjacent = torch.zeros(JOINTS, JOINTS)
    for start, end in COCO.limbs:
        adjacent[start, end] = adjacent[end, start] = 1
    return adjacent.to(device)
