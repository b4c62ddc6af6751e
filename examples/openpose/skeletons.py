"""What the maps of each network mean: the body parts, the limbs between them, and their colours.

A body network gives a heatmap for each part, one for the background, then two maps (x and y) for the part
affinity field of each limb. Hands and faces have heatmaps only.
"""

import colorsys
from dataclasses import dataclass
from typing import TypeAlias

Colour: TypeAlias = tuple[int, int, int]  # blue, green, red


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Parts and limbs of one kind of network.

    fields[i] is the first of limb i's two affinity maps, counted from the first affinity map.
    A limb may serve grouping without being drawn.
    """

    parts: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    colours: tuple[Colour, ...]
    fields: tuple[int, ...] = ()
    drawn_limbs: int | None = None


def _hues(*degrees: int) -> tuple[Colour, ...]:
    return tuple(_colour(hue, 1.0) for hue in degrees)


def _colour(hue: int, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, 1.0, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def _limbs(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (pair.split("-") for pair in text.split())
    return tuple((int(start), int(end)) for start, end in pairs)


def _chain(*parts: int, closed: bool = False) -> tuple[tuple[int, int], ...]:
    return tuple(zip(parts, (*parts[1:], parts[0]) if closed else parts[1:], strict=closed))


COCO = Skeleton(
    parts=tuple(
        "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee"
        " right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear".split()
    ),
    limbs=_limbs("1-2 1-5 2-3 3-4 5-6 6-7 1-8 8-9 9-10 1-11 11-12 12-13 1-0 0-14 14-16 0-15 15-17 2-16 5-17"),
    fields=(12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26),
    drawn_limbs=17,
    colours=_hues(
        *(340, 0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 320, 280, 300, 260),
    ),
)

BODY_25 = Skeleton(
    parts=tuple(
        "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip right_hip"
        " right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe"
        " left_small_toe left_heel right_big_toe right_small_toe right_heel".split()
    ),
    limbs=_limbs(
        "1-8 1-2 1-5 2-3 3-4 5-6 6-7 8-9 9-10 10-11 8-12 12-13 13-14 1-0 0-15 15-17 0-16 16-18 2-17 5-18"
        " 14-19 19-20 14-21 11-22 22-23 11-24"
    ),
    fields=(
        *(0, 14, 22, 16, 18, 24, 26, 6, 2, 4, 8, 10, 12, 30, 32, 36, 34, 38, 20, 28),
        *(40, 42, 44, 46, 48, 50),
    ),
    colours=_hues(
        *(340, 0, 20, 40, 60, 80, 100, 120, 0, 140, 160, 180, 200, 220, 240, 320, 280, 300, 260),
        *(240, 240, 240, 180, 180, 180),
    ),
)

MPI = Skeleton(
    parts=tuple(
        "head neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee"
        " right_ankle left_hip left_knee left_ankle chest".split()
    ),
    limbs=_limbs("0-1 1-2 2-3 3-4 1-5 5-6 6-7 1-14 14-8 8-9 9-10 14-11 11-12 12-13"),
    fields=tuple(range(0, 28, 2)),
    colours=_hues(*(340, 0, 20, 40, 60, 80, 100, 110, 120, 140, 160, 180, 200, 220, 240)),
)

_FINGERS = {"thumb": 0, "index": 60, "middle": 150, "ring": 210, "little": 300}

HAND = Skeleton(
    parts=("wrist", *(f"{finger}_{joint}" for finger in _FINGERS for joint in range(1, 5))),
    limbs=tuple(limb for first in range(1, 21, 4) for limb in _chain(0, *range(first, first + 4))),
    colours=(
        (100, 100, 100),
        *(_colour(hue, value) for hue in _FINGERS.values() for value in (0.4, 0.6, 0.8, 1.0)),
    ),
)

FACE = Skeleton(
    parts=tuple(f"point_{index}" for index in range(70)),
    limbs=(
        *_chain(*range(17)),
        *(_chain(*range(17, 22)) + _chain(*range(22, 27))),
        *(_chain(*range(27, 31)) + _chain(*range(31, 36))),
        *(_chain(*range(36, 42), closed=True) + _chain(*range(42, 48), closed=True)),
        *(_chain(*range(48, 60), closed=True) + _chain(*range(60, 68), closed=True)),
    ),
    colours=((255, 255, 255),) * 70,
)
