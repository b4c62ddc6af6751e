"""Draws people as the small pose network knows them: 3-D stick figures of shaded capsules.

Lengths are in body heights, the hips' middle is the origin, x points to the right of the picture, y up and
z towards the viewer; a person with yaw 0 faces the viewer. Angles are degrees. Pixel (0, 0) has its centre
at 0, 0, as OpenCV has it. Images are float32 in 0..1, blue-green-red, height x width x 3.
"""

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from skeletons import COCO

Array: TypeAlias = NDArray[np.float32]
Joints: TypeAlias = dict[str, Array]

SIDES = {"right": -1, "left": 1}
SHADE = 0.45  # how much darker a capsule is at its edge
# A joint on the far side of the head is in the truth as invisible; depths in body heights.
FACE_DEPTH, EAR_DEPTH = -0.005, -0.05


@dataclass(frozen=True, slots=True)
class Body:
    """Proportions and clothes."""

    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    stoutness: float
    skin: Array
    shirt: Array
    sleeve: Array
    trousers: Array
    lower_leg: Array
    hair: Array
    shoe: Array


@dataclass(frozen=True, slots=True)
class Arm:
    spread: float = 8
    forward: float = 0
    twist: float = 0
    elbow: float = 15


@dataclass(frozen=True, slots=True)
class Leg:
    spread: float = 3
    forward: float = 0
    knee: float = 5


@dataclass(frozen=True, slots=True)
class Pose:
    yaw: float = 0
    lean: float = 0  # of the body, sideways
    bow: float = 4  # of the spine, forwards
    head_yaw: float = 0
    head_nod: float = 0
    arms: dict[str, Arm] = field(default_factory=lambda: dict.fromkeys(SIDES, Arm()))
    legs: dict[str, Leg] = field(default_factory=lambda: dict.fromkeys(SIDES, Leg()))


@dataclass(frozen=True, slots=True)
class Person:
    """Someone in a picture: the feet's lowest point stands at foot_y, the hips above foot_x; pixels."""

    body: Body
    pose: Pose
    height: float
    foot_x: float
    foot_y: float


def random_body(rng: np.random.Generator) -> Body:
    skin = np.array((0.5, 0.65, 0.85)) * rng.uniform(0.45, 1.05) + rng.normal(0, 0.04, 3)
    skin = skin.clip(0, 1).astype(np.float32)
    shirt, trousers, hair, shoe = (rng.uniform(0, top, 3).astype(np.float32) for top in (1, 1, 0.5, 0.5))
    return Body(
        shoulder=rng.uniform(0.09, 0.125),
        hip=rng.uniform(0.045, 0.065),
        upper_arm=rng.uniform(0.145, 0.17),
        forearm=rng.uniform(0.125, 0.15),
        thigh=rng.uniform(0.23, 0.25),
        shin=rng.uniform(0.22, 0.24),
        stoutness=rng.uniform(0.8, 1.3),
        skin=skin,
        shirt=shirt,
        sleeve=shirt if rng.random() < 0.5 else skin,
        trousers=trousers,
        lower_leg=skin if rng.random() < 0.3 else trousers,
        hair=hair,
        shoe=shoe,
    )


def random_pose(rng: np.random.Generator, yaw: float) -> Pose:
    """Draw a pose of someone standing, gesturing or striding."""
    arms = {
        side: Arm(rng.random() ** 2 * 120, rng.uniform(-20, 60), rng.uniform(-40, 40), rng.uniform(0, 90))
        for side in SIDES
    }
    legs = {side: Leg(rng.random() ** 2 * 25, rng.uniform(-20, 30), rng.random() ** 2 * 50) for side in SIDES}
    lean, bow = rng.uniform(-8, 8), rng.uniform(-3, 15)
    return Pose(yaw, lean, bow, rng.uniform(-30, 30), rng.uniform(-10, 15), arms, legs)


def walking_pose(yaw: float, phase: float) -> Pose:
    """Pose someone in the middle of a walk; the phase is in turns, two steps to the turn."""
    swing = math.sin(2 * math.pi * phase)
    lift = math.cos(2 * math.pi * phase)
    return Pose(
        yaw=yaw,
        arms={
            "right": Arm(spread=14, forward=-24 * swing, elbow=22 - 10 * swing),
            "left": Arm(spread=14, forward=24 * swing, elbow=22 + 10 * swing),
        },
        legs={
            "right": Leg(forward=24 * swing, knee=8 + 42 * max(lift, 0)),
            "left": Leg(forward=-24 * swing, knee=8 + 42 * max(-lift, 0)),
        },
    )


def _turn(axis: str, degrees: float) -> Array:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {
        "x": ((1, 0, 0), (0, c, -s), (0, s, c)),
        "y": ((c, 0, s), (0, 1, 0), (-s, 0, c)),
        "z": ((c, -s, 0), (s, c, 0), (0, 0, 1)),
    }
    return np.array(rows[axis], np.float32)


def _vector(x: float, y: float, z: float) -> Array:
    return np.array((x, y, z), np.float32)


def joints(body: Body, pose: Pose) -> Joints:
    """Place the joints of skeletons.COCO in space, and "head" and "crown" besides."""
    down = _vector(0, -1, 0)
    spine = _turn("x", pose.bow)
    neck = spine @ _vector(0, 0.355, 0)
    head_turn = spine @ _turn("y", pose.head_yaw) @ _turn("x", pose.head_nod)
    head = neck + head_turn @ _vector(0, 0.105, 0.01)
    points = {
        "neck": neck,
        "head": head,
        "nose": head + head_turn @ _vector(0, -0.005, 0.068),
        "crown": head + head_turn @ _vector(0, 0.03, -0.02),
    }
    for side, sign in SIDES.items():
        arm, leg = pose.arms[side], pose.legs[side]
        shoulder = neck + spine @ _vector(sign * body.shoulder, -0.015, 0)
        turn = spine @ _turn("z", sign * arm.spread) @ _turn("x", -arm.forward) @ _turn("y", arm.twist)
        elbow = shoulder + turn @ down * body.upper_arm
        hip = _vector(sign * body.hip, 0, 0)
        stride = _turn("z", sign * leg.spread) @ _turn("x", -leg.forward)
        knee = hip + stride @ down * body.thigh
        points |= {
            f"{side}_shoulder": shoulder,
            f"{side}_elbow": elbow,
            f"{side}_wrist": elbow + turn @ _turn("x", -arm.elbow) @ down * body.forearm,
            f"{side}_hip": hip,
            f"{side}_knee": knee,
            f"{side}_ankle": knee + stride @ _turn("x", leg.knee) @ down * body.shin,
            f"{side}_eye": head + head_turn @ _vector(sign * 0.026, 0.018, 0.058),
            f"{side}_ear": head + head_turn @ _vector(sign * 0.062, 0, -0.005),
        }
    whole = _turn("y", pose.yaw) @ _turn("z", pose.lean)
    return {name: whole @ point for name, point in points.items()}


def _to_pixels(person: Person) -> Joints:
    """Place a person's joints in the picture: x and y in pixels, z towards the viewer in body heights."""
    points = joints(person.body, person.pose)
    lowest = min(float(point[1]) for point in points.values()) - 0.06  # the sole, below the ankle
    return {
        name: _vector(
            person.foot_x + float(point[0]) * person.height,
            person.foot_y - (float(point[1]) - lowest) * person.height,
            float(point[2]),
        )
        for name, point in points.items()
    }


def truth(person: Person, image: Array) -> Array:
    """List a person's joints in the order of skeletons.COCO as (x, y, visible).

    Visible means: within the picture, and for eyes, ears and nose on the near side of the head. Other
    people in front are not considered.
    """
    points = _to_pixels(person)
    rows = np.stack([points[part] for part in COCO.parts])
    depth_below_head = {"nose": FACE_DEPTH, "eye": FACE_DEPTH, "ear": EAR_DEPTH}
    visible = [
        point[2] > points["head"][2] + depth_below_head.get(part.rpartition("_")[2], -math.inf)
        for part, point in zip(COCO.parts, rows, strict=True)
    ]
    height, width = image.shape[:2]
    inside = (rows[:, :2] >= -0.5).all(axis=1) & (rows[:, 0] < width - 0.5) & (rows[:, 1] < height - 0.5)
    rows[:, 2] = inside & visible
    return rows


@dataclass(frozen=True, slots=True)
class Capsule:
    """A cone with round ends from start to end; x, y and radii in pixels."""

    start: Array
    end: Array
    start_radius: float
    end_radius: float
    colour: Array
    depth: float = 0.0


def draw_person(image: Array, person: Person) -> None:
    """Draw a person onto an image, the parts furthest away first."""
    for capsule in sorted(_capsules(person), key=lambda capsule: capsule.depth):
        draw_capsule(image, capsule)


def _capsules(person: Person) -> list[Capsule]:
    at = _to_pixels(person)
    body, stout, size = person.body, person.body.stoutness, person.height
    parts: list[Capsule] = []

    def add(start: Array, end: Array, radii: tuple[float, float], colour: Array, depth: float) -> None:
        first, last = (max(radius * size, 0.6) for radius in radii)
        parts.append(Capsule(start[:2], end[:2], first, last, colour, depth))

    def limb(start: str, end: str, radii: tuple[float, float], colour: Array, nearer: float = 0.0) -> None:
        add(at[start], at[end], radii, colour, float(at[start][2] + at[end][2]) / 2 + nearer)

    hips = (at["right_hip"] + at["left_hip"]) / 2
    torso_depth = float(at["neck"][2] + at["right_hip"][2] + at["left_hip"][2]) / 3
    add(at["neck"], hips, (0.085 * stout, 0.075 * stout), body.shirt, torso_depth)
    for side in SIDES:
        wrist, elbow, ankle = (at[f"{side}_{joint}"] for joint in ("wrist", "elbow", "ankle"))
        limb(f"{side}_shoulder", f"{side}_hip", (0.05 * stout, 0.05 * stout), body.shirt, -0.01)
        limb(f"{side}_shoulder", f"{side}_elbow", (0.036 * stout, 0.03 * stout), body.shirt)
        limb(f"{side}_elbow", f"{side}_wrist", (0.029 * stout, 0.022 * stout), body.sleeve)
        add(wrist, wrist + (wrist - elbow) * 0.2, (0.024, 0.02), body.skin, float(wrist[2]) + 0.01)
        limb(f"{side}_hip", f"{side}_knee", (0.056 * stout, 0.04 * stout), body.trousers)
        limb(f"{side}_knee", f"{side}_ankle", (0.039 * stout, 0.027 * stout), body.lower_leg)
        toes = ankle + _vector(0, 0.03 * size, 0)
        add(ankle, toes, (0.03, 0.025), body.shoe, float(ankle[2]) + 0.01)
        limb(f"{side}_eye", f"{side}_eye", (0.011, 0.011), np.full(3, 0.08, np.float32), 0.005)
        limb(f"{side}_ear", f"{side}_ear", (0.016, 0.016), body.skin * 0.8)
    limb("neck", "head", (0.035, 0.035), body.skin, -0.02)
    chin = (2 * at["head"] + at["nose"]) / 3
    add(at["head"], chin, (0.066, 0.06), body.skin, float(at["head"][2]) + 0.02)
    limb("crown", "crown", (0.064, 0.064), body.hair, 0.01)
    limb("nose", "nose", (0.013, 0.013), body.skin * 0.75 + 0.1, 0.005)
    return parts


def draw_capsule(image: Array, capsule: Capsule) -> None:
    """Blend an anti-aliased capsule, darker towards its edge, into the part of the image it covers."""
    height, width = image.shape[:2]
    reach = max(capsule.start_radius, capsule.end_radius) + 1
    low = np.floor(np.minimum(capsule.start, capsule.end) - reach).astype(int).clip(0, (width, height))
    high = np.ceil(np.maximum(capsule.start, capsule.end) + reach).astype(int).clip(0, (width, height))
    if (high <= low).any():
        return
    x = np.arange(low[0], high[0], dtype=np.float32)[None, :] - capsule.start[0]
    y = np.arange(low[1], high[1], dtype=np.float32)[:, None] - capsule.start[1]
    axis_x, axis_y = capsule.end - capsule.start
    along = ((x * axis_x + y * axis_y) / max(float(axis_x**2 + axis_y**2), 1e-4)).clip(0, 1)
    distance = np.hypot(x - along * axis_x, y - along * axis_y)
    radius = capsule.start_radius + (capsule.end_radius - capsule.start_radius) * along
    cover = (radius - distance + 0.5).clip(0, 1)[..., None]
    shade = 1 - SHADE * np.square((distance / radius).clip(0, 1))[..., None]
    region = image[low[1] : high[1], low[0] : high[0]]
    region += cover * (capsule.colour * shade - region)


def background(rng: np.random.Generator, height: int, width: int, roughness: float) -> Array:
    """Draw a background of smooth noise at several sizes, with bars and blobs that are nobody."""
    noise = np.zeros((height, width, 3), np.float32)
    for cell in (5, 12, 40, 120):
        shape = (max(2, height // cell), max(2, width // cell), 3)
        coarse = rng.normal(0, 0.5 * rng.uniform(0, roughness), shape).astype(np.float32)
        noise += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    noise += rng.normal(0, 0.5, 3).astype(np.float32)
    image = 1 / (1 + np.exp(-noise))
    for _ in range(5):
        start = rng.uniform(0, (width, height)).astype(np.float32)
        end = start + rng.normal(0, height * 0.25 * rng.random(), 2).astype(np.float32)
        radius = 2 + rng.random() * height * 0.06
        colour = rng.random(3).astype(np.float32)
        draw_capsule(image, Capsule(start, end, radius, radius * rng.uniform(0.2, 1), colour))
    return image
