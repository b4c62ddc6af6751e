"""Paints scenes: a background of noise and bars, people as shaded capsules, things in front of them, a camera's faults.

Images are B x 3 x height x width, blue-green-red, 0..1. On a GPU every capsule is painted over whole images, many in
one fused kernel; on a CPU only within the window that it covers. The arithmetic is the same function.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from training.figures import Capsules, Dice, constant

SHADE = 0.45  # how much darker a capsule is at its edge
GROUP = 8  # capsules in one fused kernel
NOISE_CELLS = (3, 6, 14, 40, 120)  # pixels between the values of the background's noises
BARS_BEHIND, BARS_IN_FRONT = 7, 2
Blend = Callable[..., Tensor]
Fields = tuple[Tensor, ...]  # of Capsules, in their order


def blend(image: Tensor, texture: Tensor, x: Tensor, y: Tensor, capsules: Fields) -> Tensor:
    """Paint capsules one after another over an image, anti-aliased and darker towards their edge.

    Args:
        image: B x 3 x H x W.
        texture: B x 1 x H x W, what the colours are multiplied with.
        x, y: the pixels' coordinates, W and H x 1.
        capsules: the fields of Capsules, B x N in the same order.
    """
    starts, ends, first_radii, last_radii, colours, present = capsules
    for index in range(starts.shape[1]):
        start, end = starts[:, index, :, None, None], ends[:, index, :, None, None]
        first, last = first_radii[:, index, None, None], last_radii[:, index, None, None]
        from_x, from_y = x - start[:, 0], y - start[:, 1]
        axis_x, axis_y = end[:, 0] - start[:, 0], end[:, 1] - start[:, 1]
        squared = (axis_x.square() + axis_y.square()).clamp(min=1e-4)
        along = ((from_x * axis_x + from_y * axis_y) / squared).clamp(0, 1)
        distance = ((from_x - along * axis_x).square() + (from_y - along * axis_y).square()).sqrt()
        radius = first + (last - first) * along
        cover = (radius - distance + 0.5).clamp(0, 1) * present[:, index, None, None]
        shade = 1 - SHADE * (distance / radius.clamp(min=0.1)).clamp(0, 1).square()
        colour = colours[:, index, :, None, None] * (shade[:, None] * texture)
        image = image + cover[:, None] * (colour - image)
    return image


def paint(image: Tensor, texture: Tensor, capsules: Capsules, blend: Blend = blend) -> Tensor:
    """Paint capsules over the images, in their order; `blend` may be the function compiled."""
    height, width = image.shape[-2:]
    x = torch.arange(width, device=image.device, dtype=torch.float32)
    y = torch.arange(height, device=image.device, dtype=torch.float32)[:, None]
    fields = (capsules.start, capsules.end, capsules.start_radius, capsules.end_radius, capsules.colour,
              capsules.present)  # fmt: skip
    if image.is_cuda:
        return paint_everywhere(image, texture, x, y, fields, blend)
    return _paint_in_windows(image, texture, x, y, fields, blend)


def paint_everywhere(
    image: Tensor, texture: Tensor, x: Tensor, y: Tensor, capsules: Fields, blend: Blend = blend
) -> Tensor:
    """Paint every capsule over whole images, a group at a time."""
    groups = [_groups(field) for field in capsules]
    for group in zip(*groups, strict=True):
        image = blend(image, texture, x, y, group)
    return image


def _paint_in_windows(image: Tensor, texture: Tensor, x: Tensor, y: Tensor, capsules: Fields, blend: Blend) -> Tensor:
    """Paint each capsule that is there into what it covers of its image."""
    height, width = image.shape[-2:]
    image = image.clone()
    for scene, index in capsules[-1].nonzero().tolist():
        one = tuple(field[scene : scene + 1, index : index + 1] for field in capsules)
        top, bottom, left, right = _window(one, height, width)
        if top < bottom and left < right:
            region = image[scene : scene + 1, :, top:bottom, left:right]
            shades = texture[scene : scene + 1, :, top:bottom, left:right]
            region.copy_(blend(region, shades, x[left:right], y[top:bottom], one))
    return image


def _groups(field: Tensor) -> Tensor:
    """Cut B x N x … into groups x B x GROUP x …, filled up with zeros, which paint nothing: one shape for all."""
    missing = -field.shape[1] % GROUP
    filled = torch.cat([field, field.new_zeros(len(field), missing, *field.shape[2:])], dim=1)
    return filled.unflatten(1, (-1, GROUP)).transpose(0, 1).contiguous()


def _window(capsule: Fields, height: int, width: int) -> tuple[int, int, int, int]:
    """Bound what one capsule covers: top, bottom, left, right, clipped to the image."""
    ends = torch.cat([capsule[0], capsule[1]], dim=1)[0]
    reach = torch.maximum(capsule[2], capsule[3]) + 1
    (left, top), (right, bottom) = (ends.amin(0) - reach[0]).tolist(), (ends.amax(0) + reach[0] + 1).tolist()
    return max(int(top), 0), min(int(bottom) + 1, height), max(int(left), 0), min(int(right) + 1, width)


def noise(dice: Dice, scenes: int, channels: int, size: tuple[int, int], cell: int) -> Tensor:
    """Draw smooth noise of unit spread whose values stand so many pixels apart."""
    coarse = dice.normal(1.0, scenes, channels, max(2, size[0] // cell), max(2, size[1] // cell))
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)


def background(dice: Dice, scenes: int, size: tuple[int, int]) -> Tensor:
    """Draw what is behind everything."""
    image = dice.normal(0.7, scenes, 3, 1, 1).expand(scenes, 3, *size)
    for cell in NOISE_CELLS:
        image = image + noise(dice, scenes, 3, size, cell) * dice.uniform(0, 0.5, scenes, 1, 1, 1)
    return image.sigmoid()


def texture(dice: Dice, scenes: int, size: tuple[int, int]) -> Tensor:
    """Draw the folds and patterns of what people wear: B x 1 x H x W, about 1."""
    fine = noise(dice, scenes, 1, size, 4) * dice.uniform(0, 0.12, scenes, 1, 1, 1)
    return 1 + fine + noise(dice, scenes, 1, size, 20) * dice.uniform(0, 0.15, scenes, 1, 1, 1)


def bars(dice: Dice, scenes: int, count: int, size: tuple[int, int], likelihood: float) -> Capsules:
    """Draw bars and blobs that belong to nobody, each there with this likelihood."""
    shape = (scenes, count)
    start = dice.uniform(0, 1, *shape, 2) * constant((size[1], size[0]), dice.device)
    end = start + dice.normal(0.3 * size[0], *shape, 2) * dice.uniform(0, 1, *shape, 1)
    first = 2 + dice.uniform(0, 0.07, *shape) * size[0]
    last = (first * dice.uniform(0.3, 1, *shape)).clamp(min=1)
    return Capsules(start, end, first, last, dice.uniform(0, 1, *shape, 3), dice.chance(likelihood, *shape).float())


def camera(dice: Dice, image: Tensor) -> Tensor:
    """Add what a camera does, exposure, tint, blur and noise, to B x 3 x H x W of uint8."""
    scenes = len(image)
    image = image * dice.uniform(0.7, 1.3, scenes, 1, 1, 1) + dice.uniform(-0.1, 0.1, scenes, 3, 1, 1)
    blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    image = image.lerp(blurred, dice.uniform(0, 0.8, scenes, 1, 1, 1))
    return sensor(dice, image, 0.05)


def sensor(dice: Dice, image: Tensor, most_noise: float = 0.01) -> Tensor:
    """Add noise, and quantise to 8 bits as B x 3 x H x W of uint8."""
    image = image + dice.normal(1.0, *image.shape) * dice.uniform(0, most_noise, len(image), 1, 1, 1)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
