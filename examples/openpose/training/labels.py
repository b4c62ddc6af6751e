"""The maps that a network is taught: Gaussians at the joints, unit vectors along the limbs, in OpenPose's order.

Cell i of a map has its centre at pixel 8 i + 3.5, the middle of the pixels that it stands for: the convention that
grouping.py reads maps by.
"""

import torch
from skeletons import COCO
from torch import Tensor
from training.figures import constant
from training.scenes import Scenes

STRIDE = 8  # pixels per cell
SIGMA = 7.0  # pixels, of the Gaussians
FIELD_HALF_WIDTH = 8.0  # pixels, on each side of a limb and beyond its ends
HEATMAPS = len(COCO.parts) + 1  # the last is the background
FIELDS = 2 * len(COCO.limbs)
MAPS = HEATMAPS + FIELDS
ORDER = tuple(sorted(range(len(COCO.limbs)), key=COCO.fields.__getitem__))  # the limbs by the place of their field


def draw_maps(joints: Tensor, present: Tensor, height: int, width: int) -> Tensor:
    """Draw the maps for joints (B x P x 18 x 2, pixels) that are present (B x P x 18, bool).

    Returns:
        B x 57 x height / 8 x width / 8: heatmaps, background, fields.
    """
    x = torch.arange(width // STRIDE, device=joints.device) * STRIDE + (STRIDE - 1) / 2
    y = (torch.arange(height // STRIDE, device=joints.device) * STRIDE + (STRIDE - 1) / 2)[:, None]
    heatmaps = _heatmaps(joints, present, x, y)
    background = 1 - heatmaps.amax(1, keepdim=True)
    return torch.cat([heatmaps, background, _fields(joints, present, x, y)], dim=1)


def maps_of(scenes: Scenes) -> Tensor:
    """Draw what a network is to answer to scenes, in the form of draw_maps."""
    return draw_maps(scenes.joints, scenes.guessable, *scenes.images.shape[-2:])


def _heatmaps(joints: Tensor, present: Tensor, x: Tensor, y: Tensor) -> Tensor:
    squared = (x - joints[..., 0, None, None]).square() + (y - joints[..., 1, None, None]).square()
    return ((-squared / (2 * SIGMA**2)).exp() * present[..., None, None]).amax(1)


def _fields(joints: Tensor, present: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Draw the fields: where limbs of several people cross, the mean of their directions."""
    first, second = (constant(ends, joints.device) for ends in zip(*COCO.limbs, strict=True))
    start, span = joints[:, :, first], joints[:, :, second] - joints[:, :, first]
    length = span.square().sum(-1).sqrt().clamp(min=1e-3)
    unit = span / length[..., None]
    both = present[:, :, first] & present[:, :, second]
    total = torch.zeros(len(joints), len(COCO.limbs), 2, len(y), len(x), device=joints.device)
    count = torch.zeros(len(joints), len(COCO.limbs), 1, len(y), len(x), device=joints.device)
    for person in range(joints.shape[1]):
        from_x = x - start[:, person, :, 0, None, None]
        from_y = y - start[:, person, :, 1, None, None]
        unit_x, unit_y = unit[:, person, :, 0, None, None], unit[:, person, :, 1, None, None]
        along = from_x * unit_x + from_y * unit_y
        across = (from_x * unit_y - from_y * unit_x).abs()
        end = length[:, person, :, None, None] + FIELD_HALF_WIDTH
        on = (along > -FIELD_HALF_WIDTH) & (along < end) & (across < FIELD_HALF_WIDTH)
        on = (on & both[:, person, :, None, None])[:, :, None]
        total += on * unit[:, person, :, :, None, None]
        count += on
    means = total / count.clamp(min=1)
    return means[:, constant(ORDER, joints.device)].flatten(1, 2)
