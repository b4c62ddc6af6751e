"""People to be drawn: sampled proportions, clothes and poses, their joints in space, the capsules of their bodies.

Everything is a tensor over scenes x people (B x P), so that a GPU samples a batch at once; the figure is that of
stick_people.py, with wilder poses. Lengths are in body heights, x to the right, y up, z towards the viewer, the hips'
middle at 0; angles are degrees. In pictures, pixel (0, 0) has its centre at 0, 0, and colours are blue-green-red.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from skeletons import COCO
from torch import Tensor

RIGHT, LEFT = 0, 1  # of a pair; a person who faces the viewer has the right side at negative x
SIDE_SIGN = (-1.0, 1.0)
JOINTS = len(COCO.parts)
FACE_DEPTH, EAR_DEPTH = -0.005, -0.05  # behind the head's middle; beyond it, eyes, nose and ears are out of sight
SKIN = (0.5, 0.65, 0.85)

Points = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Capsules:
    """Cones with round ends, in the order of painting; the last dimension of `start`, `end` is x, y in pixels."""

    start: Tensor  # B x N x 2
    end: Tensor  # B x N x 2
    start_radius: Tensor  # B x N, pixels
    end_radius: Tensor  # B x N
    colour: Tensor  # B x N x 3, 0..1
    present: Tensor  # B x N, 1 or 0


@dataclass(frozen=True, slots=True)
class People:
    """Who is in the scenes: the further away come first, which is the order of painting."""

    angles: Mapping[str, Tensor]  # each B x P, or B x P x 2 for the sides
    lengths: Mapping[str, Tensor]  # each B x P
    colours: Mapping[str, Tensor]  # each B x P x 3
    height: Tensor  # B x P, pixels
    hips: Tensor  # B x P x 2, pixels
    present: Tensor  # B x P, bool


@dataclass(frozen=True, slots=True)
class Range:
    """How many people a scene has, how tall they are in pixels, how far down the picture their hips are."""

    people: tuple[int, int] = (1, 6)
    height: tuple[float, float] = (90.0, 320.0)
    hips: tuple[float, float] = (0.35, 0.75)


CROWD = Range()


@cache
def constant(values: tuple[float, ...] | tuple[int, ...], device: torch.device) -> Tensor:
    """Keep a constant on a device: bringing one there waits for all that the device still has to do."""
    return torch.tensor(values, device=device)


class Dice:
    """Draws from one generator on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator, device=self.device)

    def normal(self, spread: float, *shape: int) -> Tensor:
        return spread * torch.randn(shape, generator=self._generator, device=self.device)

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw from low..high, both included."""
        return torch.randint(low, high + 1, shape, generator=self._generator, device=self.device)

    def chance(self, likelihood: float, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < likelihood


def sample_people(dice: Dice, scenes: int, size: tuple[int, int], among: Range) -> People:
    """Draw the people of so many scenes; size is a picture's height and width in pixels."""
    picture_height, picture_width = size
    shape = (scenes, among.people[1])
    low, high = (math.log(height) for height in among.height)
    height = dice.uniform(low, high, *shape).exp()
    # The taller stand nearer and hide the others, as a rule.
    nearness = height * dice.uniform(0.8, 1.25, *shape)
    count = dice.integer(*among.people, scenes, 1)
    present = torch.arange(shape[1], device=dice.device) < count
    nearness = torch.where(present, nearness, torch.inf)  # so that those who are not there come last
    height = height.gather(1, nearness.argsort(1))
    hips = torch.stack(
        [dice.uniform(0, picture_width, *shape), dice.uniform(*among.hips, *shape) * picture_height], dim=-1
    )
    return People(_sample_angles(dice, shape), _sample_lengths(dice, shape), _sample_colours(dice, shape),
                  height, hips, present)  # fmt: skip


def _sample_angles(dice: Dice, shape: tuple[int, int]) -> dict[str, Tensor]:
    def pair(low: float, high: float) -> Tensor:
        return dice.uniform(low, high, *shape, 2)

    # Half of them face the viewer more or less.
    frontal = dice.chance(0.5, *shape)
    yaw = torch.where(frontal, dice.uniform(-60, 60, *shape), dice.uniform(-180, 180, *shape))
    raised = dice.chance(0.5, *shape, 2)
    seated = dice.chance(0.25, *shape, 2)
    return {
        "yaw": yaw,
        "lean": dice.uniform(-16, 16, *shape),
        "tilt": dice.uniform(-12, 12, *shape),
        "bow": dice.uniform(-5, 22, *shape),
        "bend": dice.uniform(-10, 10, *shape),
        "head_yaw": dice.uniform(-50, 50, *shape),
        "head_nod": dice.uniform(-15, 22, *shape),
        "arm_spread": pair(0, 1).square() * 150,
        "arm_forward": pair(-20, 20) + raised * pair(-40, 110),
        "arm_twist": pair(-60, 60),
        "elbow": pair(0, 125),
        "leg_spread": pair(0, 1).square() * 40,
        "leg_forward": pair(-25, 28) + seated * pair(0, 75),
        "knee": pair(0, 1).square() * 95,
    }


def _sample_lengths(dice: Dice, shape: tuple[int, int]) -> dict[str, Tensor]:
    bounds = {
        "shoulder": (0.09, 0.125),
        "hip": (0.045, 0.065),
        "upper_arm": (0.145, 0.17),
        "forearm": (0.125, 0.15),
        "thigh": (0.23, 0.25),
        "shin": (0.22, 0.24),
        "stoutness": (0.8, 1.3),
    }
    return {name: dice.uniform(low, high, *shape) for name, (low, high) in bounds.items()}


def _sample_colours(dice: Dice, shape: tuple[int, int]) -> dict[str, Tensor]:
    skin = constant(SKIN, dice.device) * dice.uniform(0.4, 1.1, *shape, 1)
    skin = (skin + dice.normal(0.05, *shape, 3)).clamp(0, 1)
    shirt, trousers = dice.uniform(0, 1, *shape, 3), dice.uniform(0, 1, *shape, 3)
    return {
        "skin": skin,
        "shirt": shirt,
        "sleeve": torch.where(dice.chance(0.5, *shape, 1), shirt, skin),
        "trousers": trousers,
        "lower_leg": torch.where(dice.chance(0.3, *shape, 1), skin, trousers),
        "hair": dice.uniform(0, 0.5, *shape, 3),
        "shoe": dice.uniform(0, 0.5, *shape, 3),
    }


def walk(dice: Dice, people: People, frames: int, frames_per_second: float = 15.0) -> People:
    """Set the people of one scene in motion: each frame becomes a scene.

    They stride upright where their yaw leads them, arms swinging, at half a body height a second or so.
    """
    shape = people.present.shape
    time_s = (torch.arange(frames, device=dice.device) / frames_per_second)[:, None]  # x P
    turns = dice.uniform(0, 1, *shape) + time_s * dice.uniform(0.6, 1.0, *shape)
    swing, lift = (2 * math.pi * turns).sin(), (2 * math.pi * turns).cos()
    opposite = torch.stack([swing, -swing], dim=-1)
    bent = torch.stack([lift, -lift], dim=-1).clamp(min=0)
    stride = dice.uniform(16, 28, *shape, 1)
    still = {name: angle.expand(frames, *angle.shape[1:]) for name, angle in people.angles.items()}
    upright = {name: still[name] * 0.3 for name in ("lean", "tilt", "bow", "bend")}
    moving = {
        "arm_spread": 10 + still["arm_spread"] * 0.1,
        "arm_forward": -opposite * stride,
        "arm_twist": still["arm_twist"] * 0.3,
        "elbow": 18 + still["elbow"] * 0.15 + 10 * opposite.abs(),
        "leg_spread": 2 + still["leg_spread"] * 0.1,
        "leg_forward": opposite * stride,
        "knee": 8 + 42 * bent,
        "head_yaw": still["head_yaw"] * 0.6 + 10 * (0.5 * swing),
    }
    way = dice.uniform(0.35, 0.65, *shape) * people.height * (people.angles["yaw"] * math.pi / 180).sin()
    middle = time_s.mean()
    step = torch.stack([way * (time_s - middle), torch.zeros_like(turns)], dim=-1)

    def repeated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.expand(frames, *tensor.shape[1:]) for name, tensor in tensors.items()}

    return replace(
        people,
        angles=still | upright | moving,
        lengths=repeated(people.lengths),
        colours=repeated(people.colours),
        height=people.height.expand(frames, -1),
        hips=people.hips + step,
        present=people.present.expand(frames, -1),
    )


def _turn(axis: str, degrees: Tensor) -> Tensor:
    """Make the matrices that turn around an axis: ... x 3 x 3."""
    angle = degrees * (math.pi / 180)
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = {
        "x": (one, zero, zero, zero, c, -s, zero, s, c),
        "y": (c, zero, s, zero, one, zero, -s, zero, c),
        "z": (c, -s, zero, s, c, zero, zero, zero, one),
    }
    return torch.stack(rows[axis], dim=-1).unflatten(-1, (3, 3))


def _vector(like: Tensor, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
    zero = torch.zeros_like(like)
    return torch.stack([zero + x, zero + y, zero + z], dim=-1)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def joints_in_space(people: People) -> Points:
    """Place COCO's joints, and "head" and "crown" besides: B x P x 3 each, in body heights."""
    angles, lengths = people.angles, people.lengths
    like = people.height
    down = _vector(like, 0, -1, 0)
    spine = _turn("z", angles["bend"]) @ _turn("x", angles["bow"])
    neck = _apply(spine, _vector(like, 0, 0.355, 0))
    head_turn = spine @ _turn("y", angles["head_yaw"]) @ _turn("x", angles["head_nod"])
    head = neck + _apply(head_turn, _vector(like, 0, 0.105, 0.01))
    points = {
        "neck": neck,
        "head": head,
        "nose": head + _apply(head_turn, _vector(like, 0, -0.005, 0.068)),
        "crown": head + _apply(head_turn, _vector(like, 0, 0.03, -0.02)),
    }
    for number, (side, sign) in enumerate(zip(("right", "left"), SIDE_SIGN, strict=True)):
        angle = {name: value[..., number] for name, value in angles.items() if value.dim() > like.dim()}
        shoulder = neck + _apply(spine, _vector(like, sign * lengths["shoulder"], -0.015, 0))
        arm = spine @ _turn("z", sign * angle["arm_spread"]) @ _turn("x", -angle["arm_forward"])
        arm = arm @ _turn("y", angle["arm_twist"])
        elbow = shoulder + _apply(arm, down) * lengths["upper_arm"][..., None]
        hip = _vector(like, sign * lengths["hip"], 0, 0)
        leg = _turn("z", sign * angle["leg_spread"]) @ _turn("x", -angle["leg_forward"])
        knee = hip + _apply(leg, down) * lengths["thigh"][..., None]
        points |= {
            f"{side}_shoulder": shoulder,
            f"{side}_elbow": elbow,
            f"{side}_wrist": elbow + _apply(arm @ _turn("x", -angle["elbow"]), down) * lengths["forearm"][..., None],
            f"{side}_hip": hip,
            f"{side}_knee": knee,
            f"{side}_ankle": knee + _apply(leg @ _turn("x", angle["knee"]), down) * lengths["shin"][..., None],
            f"{side}_eye": head + _apply(head_turn, _vector(like, sign * 0.026, 0.018, 0.058)),
            f"{side}_ear": head + _apply(head_turn, _vector(like, sign * 0.062, 0, -0.005)),
        }
    whole = _turn("y", angles["yaw"]) @ _turn("z", angles["lean"]) @ _turn("x", angles["tilt"])
    return {name: _apply(whole, point) for name, point in points.items()}


def in_pixels(people: People) -> Points:
    """Place the joints in the picture: x and y in pixels, z towards the viewer in body heights."""
    height = people.height[..., None]
    return {
        name: torch.cat(
            [people.hips + point[..., :2] * constant((1.0, -1.0), height.device) * height, point[..., 2:]],
            dim=-1,
        )
        for name, point in joints_in_space(people).items()
    }


def turned_to_viewer(points: Points) -> Tensor:
    """Tell for each of COCO's joints whether its own head hides it: B x P x 18, bool."""
    limits = {"nose": FACE_DEPTH, "eye": FACE_DEPTH, "ear": EAR_DEPTH}
    depth = points["head"][..., 2]
    return torch.stack(
        [points[part][..., 2] > depth + limits.get(part.rpartition("_")[2], -math.inf) for part in COCO.parts], dim=-1
    )


def body_capsules(people: People, points: Points) -> Capsules:
    """List the capsules of all people, person by person, each person's furthest first: B x (P * 23)."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    colours, stout = people.colours, people.lengths["stoutness"]

    def add(start: Tensor, end: Tensor, radii: tuple[float, float], colour: Tensor, depth: Tensor,
            scale: Tensor | float = 1.0) -> None:  # fmt: skip
        first, last = ((radius * people.height * scale).clamp(min=0.6) for radius in radii)
        parts.append((start[..., :2], end[..., :2], first, last, colour, depth))

    def limb(start: str, end: str, radii: tuple[float, float], colour: Tensor, nearer: float = 0.0,
             scale: Tensor | float = 1.0) -> None:  # fmt: skip
        first, last = points[start], points[end]
        add(first, last, radii, colour, (first[..., 2] + last[..., 2]) / 2 + nearer, scale)

    neck, hips = points["neck"], (points["right_hip"] + points["left_hip"]) / 2
    add(neck, hips, (0.085, 0.075), colours["shirt"], (neck + 2 * hips)[..., 2] / 3, stout)
    dark = torch.full_like(colours["skin"], 0.08)
    for side in ("right", "left"):
        wrist, elbow, ankle = (points[f"{side}_{joint}"] for joint in ("wrist", "elbow", "ankle"))
        limb(f"{side}_shoulder", f"{side}_hip", (0.05, 0.05), colours["shirt"], -0.01, stout)
        limb(f"{side}_shoulder", f"{side}_elbow", (0.036, 0.03), colours["shirt"], 0.0, stout)
        limb(f"{side}_elbow", f"{side}_wrist", (0.029, 0.022), colours["sleeve"], 0.0, stout)
        add(wrist, wrist + (wrist - elbow) * 0.2, (0.024, 0.02), colours["skin"], wrist[..., 2] + 0.01)
        limb(f"{side}_hip", f"{side}_knee", (0.056, 0.04), colours["trousers"], 0.0, stout)
        limb(f"{side}_knee", f"{side}_ankle", (0.039, 0.027), colours["lower_leg"], 0.0, stout)
        toes = ankle + _vector(people.height, 0, 0.03 * people.height, 0)
        add(ankle, toes, (0.03, 0.025), colours["shoe"], ankle[..., 2] + 0.01)
        limb(f"{side}_eye", f"{side}_eye", (0.011, 0.011), dark, 0.005)
        limb(f"{side}_ear", f"{side}_ear", (0.016, 0.016), colours["skin"] * 0.8)
    limb("neck", "head", (0.035, 0.035), colours["skin"], -0.02)
    head = points["head"]
    add(head, (2 * head + points["nose"]) / 3, (0.066, 0.06), colours["skin"], head[..., 2] + 0.02)
    limb("crown", "crown", (0.064, 0.064), colours["hair"], 0.01)
    limb("nose", "nose", (0.013, 0.013), colours["skin"] * 0.75 + 0.1, 0.005)
    start, end, first, last, colour, depth = (torch.stack(values, dim=2) for values in zip(*parts, strict=True))
    order = depth.argsort(dim=2)

    def sorted_by_depth(values: Tensor) -> Tensor:
        index = order if values.dim() == order.dim() else order[..., None].expand_as(values)
        return values.gather(2, index).flatten(1, 2)

    present = people.present[..., None].expand_as(order).float()
    return Capsules(*map(sorted_by_depth, (start, end, first, last, colour)), present.flatten(1, 2))
