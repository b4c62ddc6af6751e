"""Grouping finds people in maps whose truth is known exactly."""

import grouping
import numpy as np
import pytest
import skeletons
from grouping import STRIDE, Array
from skeletons import Skeleton
from stick_people import Arm, Leg, Person, Pose, random_body, truth

HEIGHT, WIDTH = 368, 656
HEATMAP_SIGMA = 7.0  # pixels, as the networks are trained
FIELD_HALF_WIDTH = 8.0


def four_people(skeleton: Skeleton) -> Array:
    """Place four people side by side: people x parts x (x, y)."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    pose = Pose(
        arms={"right": Arm(spread=35, elbow=30), "left": Arm(spread=60)},
        legs={"right": Leg(spread=14), "left": Leg(spread=6, forward=15)},
    )
    people = []
    for index in range(4):
        person = Person(random_body(np.random.default_rng(index)), pose, 260 - 10 * index, 90 + 155 * index, 340)
        people.append(points_of(dict(zip(skeletons.COCO.parts, truth(person, picture)[:, :2], strict=True)), skeleton))
    return np.stack(people)


def points_of(joints: dict[str, Array], skeleton: Skeleton) -> Array:
    """Derive what COCO has no name for from what it has."""
    hips = (joints["left_hip"] + joints["right_hip"]) / 2
    derived = {"mid_hip": hips, "chest": (joints["neck"] + hips) / 2, "head": joints["nose"] - (0, 18)}
    for side, outwards in (("right", -1), ("left", 1)):
        ankle = joints[f"{side}_ankle"]
        derived[f"{side}_big_toe"] = ankle + (4 * outwards, 16)
        derived[f"{side}_small_toe"] = ankle + (12 * outwards, 13)
        derived[f"{side}_heel"] = ankle + (-5 * outwards, 9)
    return np.stack([(joints | derived)[part] for part in skeleton.parts]).astype(np.float32)


def perfect_maps(people: Array, skeleton: Skeleton) -> Array:
    """Draw the maps that a perfect network would give: Gaussians at the parts, unit vectors along the limbs."""
    rows, columns = HEIGHT // STRIDE, WIDTH // STRIDE
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * STRIDE + (STRIDE - 1) / 2
    part_count = len(skeleton.parts)
    maps = np.zeros((part_count + 1 + 2 * len(skeleton.limbs), rows, columns), np.float32)
    for person in people:
        for part, (part_x, part_y) in enumerate(person):
            gaussian = np.exp(-((x - part_x) ** 2 + (y - part_y) ** 2) / (2 * HEATMAP_SIGMA**2))
            maps[part] = np.maximum(maps[part], gaussian)
        for (start, end), field in zip(skeleton.limbs, skeleton.fields, strict=True):
            span = person[end] - person[start]
            length = float(np.hypot(*span))
            unit_x, unit_y = span / length
            along = (x - person[start, 0]) * unit_x + (y - person[start, 1]) * unit_y
            across = np.abs((x - person[start, 0]) * unit_y - (y - person[start, 1]) * unit_x)
            on = (along > -FIELD_HALF_WIDTH) & (along < length + FIELD_HALF_WIDTH) & (across < FIELD_HALF_WIDTH)
            maps[part_count + 1 + field][on] = unit_x
            maps[part_count + 2 + field][on] = unit_y
    maps[part_count] = 1 - maps[:part_count].max(axis=0)
    return maps


@pytest.mark.parametrize("upsampling", [1, 2, 4])
@pytest.mark.parametrize("name", ["COCO", "BODY_25", "MPI"])
def test_four_people_are_found_within_a_pixel(name: str, upsampling: int) -> None:
    skeleton = getattr(skeletons, name)
    people = four_people(skeleton)
    found = grouping.find_people(perfect_maps(people, skeleton), skeleton, upsampling)
    assert found.shape == (4, len(skeleton.parts), 3)
    found = found[np.argsort(found[:, 1, 0])]  # the neck's place, from left to right
    assert (found[..., 2] > 0).all()
    assert np.abs(found[..., :2] - people).max() < 1.0


def test_a_missing_part_stays_missing_and_the_rest_is_found() -> None:
    people = four_people(skeletons.COCO)
    maps = perfect_maps(people, skeletons.COCO)
    left_wrist = skeletons.COCO.parts.index("left_wrist")
    maps[left_wrist] = 0
    found = grouping.find_people(maps, skeletons.COCO)
    assert found.shape[0] == 4
    assert not found[:, left_wrist].any()
    assert (np.delete(found, left_wrist, axis=1)[..., 2] > 0).all()


def test_parts_without_limbs_make_nobody() -> None:
    people = four_people(skeletons.COCO)
    maps = perfect_maps(people, skeletons.COCO)
    maps[len(skeletons.COCO.parts) + 1 :] = 0
    assert grouping.find_people(maps, skeletons.COCO).shape == (0, 18, 3)


def test_empty_maps_hold_nobody() -> None:
    maps = np.zeros((57, 46, 82), np.float32)
    assert grouping.find_people(maps, skeletons.COCO).shape == (0, 18, 3)


def test_peaks_in_noise_are_bounded() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (18, 46, 82)).astype(np.float32)
    peaks = grouping.find_peaks(noise, upsampling=2, threshold=0.1)
    assert np.bincount(peaks.part).tolist() == [grouping.MAX_PEAKS_PER_PART] * 18


def test_a_limb_joins_the_pair_that_the_field_runs_between() -> None:
    """Two right shoulders and two right elbows: the field, not the distance, tells which belong together."""
    skeleton = Skeleton(("shoulder", "elbow"), ((0, 1),), ((0, 0, 0),) * 2, (0,))
    people = np.array([[[100, 100], [220, 100]], [[100, 180], [220, 180]]], np.float32)
    crossed = people.copy()
    crossed[:, 1] = people[::-1, 1]
    peaks = grouping.find_peaks(perfect_maps(people, skeleton)[:2], 2, 0.1)
    limbs = grouping.score_limbs(peaks, perfect_maps(crossed, skeleton)[3:], skeleton)
    joined = {
        (round(float(peaks.xy[start, 1])), round(float(peaks.xy[end, 1])))
        for start, end in zip(limbs.start, limbs.end, strict=True)
    }
    assert joined == {(100, 180), (180, 100)}


def test_points_of_a_hand_are_found_within_a_pixel() -> None:
    places = np.random.default_rng(3).uniform(20, 340, (21, 2)).astype(np.float32)
    y, x = np.mgrid[:46, :46].astype(np.float32) * STRIDE + (STRIDE - 1) / 2
    maps = np.stack([np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * HEATMAP_SIGMA**2)) for px, py in places]).astype(
        np.float32
    )
    found = grouping.find_points(maps)
    assert found.shape == (1, 21, 3)
    assert np.abs(found[0, :, :2] - places).max() < 1.0


def test_no_point_above_the_threshold_is_no_hand() -> None:
    assert grouping.find_points(np.full((21, 46, 46), 0.01, np.float32)).shape == (0, 21, 3)


def test_skeletons_fit_their_networks() -> None:
    for skeleton, part_maps, limb_maps in (
        (skeletons.COCO, 19, 38),
        (skeletons.BODY_25, 26, 52),
        (skeletons.MPI, 16, 28),
        (skeletons.HAND, 22, 0),
        (skeletons.FACE, 71, 0),
    ):
        assert len(skeleton.parts) == len(skeleton.colours) == part_maps - 1
        assert sorted(skeleton.fields) == list(range(0, limb_maps, 2))
        assert max(max(limb) for limb in skeleton.limbs) < len(skeleton.parts)
