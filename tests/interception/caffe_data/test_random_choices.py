"""What data layers draw at random: within Caffe's rules, and again the same with the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from avec.formats.caffe.message import Message
from avec.interception.caffe.data import Floats, open_source
from avec.interception.caffe.randomness import UNSEEDED
from goldens.data_goldens import data_cases

TRAIN, TEST = 0, 1

READ = Callable[..., list[list[Floats]]]

PIXELS = """layer { name: "source" type: "Data" top: "data" top: "label" data_param { source: "pixels.lmdb"
  backend: LMDB batch_size: 7 %s } transform_param { %s } }"""
IMAGES = """layer { name: "source" type: "ImageData" top: "data" top: "label" image_data_param { source: "same.txt"
  root_folder: "images/" batch_size: 3 %s } transform_param { %s } }"""
ROWS = """layer { name: "source" type: "HDF5Data" top: "label" top: "data"
  hdf5_data_param { source: "%s" batch_size: %d shuffle: true } }"""
WINDOWS = """layer { name: "source" type: "WindowData" top: "data" top: "label"
  window_data_param { source: "windows.txt" batch_size: 40 fg_fraction: 0.75 %s }
  transform_param { crop_size: 9 mirror: true } }"""


@pytest.fixture
def read(files: Path, layer: Callable[[str], Message]) -> READ:
    """Read a few batches of a layer."""

    def batches(prototxt: str, count: int = 4, phase: int = TRAIN, seed: int = 1, **turns: int) -> list[list[Floats]]:
        with open_source(layer(prototxt), phase, seed, **turns) as source:
            return [source.next_batch() for _ in range(count)]

    return batches


def places_of(crop_CHW: Floats, whole_CHW: Floats) -> set[tuple[int, int, bool]]:
    """Where a crop lies in an item, and whether it is mirrored there."""
    _, height, width = crop_CHW.shape
    return {
        (row, column, mirrored)
        for row in range(whole_CHW.shape[1] - height + 1)
        for column in range(whole_CHW.shape[2] - width + 1)
        for mirrored, found in ((False, crop_CHW), (True, crop_CHW[:, :, ::-1]))
        if np.array_equal(found, whole_CHW[:, row : row + height, column : column + width])
    }


@pytest.mark.parametrize("name", data_cases(random=True))
def test_items_drawn_at_random_are_those_that_real_caffe_draws(name: str, read: READ) -> None:
    case = data_cases(random=True)[name]

    def items(batches: Iterable[Sequence[Floats]]) -> set[tuple[bytes, float]]:
        return {
            (item.tobytes(), float(label)) for data, labels in batches for item, label in zip(data, labels, strict=True)
        }

    assert items(read(case.prototxt, 20, TEST)) == items(case.batches)


def test_crops_in_training_lie_anywhere_in_the_item(read: READ) -> None:
    [[whole, _]] = read(PIXELS % ("", ""), 1)
    places = set()
    for crops, _ in read(PIXELS % ("", "crop_size: 9"), 40):
        for crop, item in zip(crops, whole, strict=True):
            [place] = places_of(crop, item)
            places.add(place)
    assert places == {(row, column, False) for row in range(2) for column in range(4)}


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_items_are_mirrored_half_of_the_time_in_both_phases(read: READ, phase: int) -> None:
    [[whole, _]] = read(PIXELS % ("", ""), 1)
    batches = read(PIXELS % ("", "mirror: true"), 40, phase)
    mirrored = [places_of(item, whole[n]) == {(0, 0, True)} for data, _ in batches for n, item in enumerate(data)]
    straight = [places_of(item, whole[n]) == {(0, 0, False)} for data, _ in batches for n, item in enumerate(data)]
    assert sum(mirrored) + sum(straight) == 280
    assert 100 < sum(mirrored) < 180


def test_a_mean_image_is_cropped_with_the_item_and_mirrored_after(read: READ) -> None:
    [[centred, _]] = read(PIXELS % ("", 'mean_file: "mean.binaryproto"'), 1)
    for data, _ in read(PIXELS % ("", 'mean_file: "mean.binaryproto" crop_size: 8 mirror: true'), 5):
        for crop, item in zip(data, centred, strict=True):
            assert len(places_of(crop, item)) == 1


@pytest.mark.parametrize(
    "prototxt",
    [
        PIXELS % ("", "crop_size: 5 mirror: true"),
        IMAGES % ("shuffle: true", "crop_size: 9"),
        IMAGES % ("rand_skip: 3", "mirror: true"),
        ROWS % ("rows.txt", 5),
        WINDOWS % "fg_threshold: 0.6 bg_threshold: 0.6",
    ],
)
def test_a_seed_gives_the_same_batches_again_and_another_one_others(read: READ, prototxt: str) -> None:
    first, again, other = (read(prototxt, 8, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_equal(again, first)
    assert any(not np.array_equal(a, b) for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))


def test_without_a_seed_every_source_draws_its_own(read: READ) -> None:
    first, second = (read(IMAGES % ("shuffle: true", ""), 30, seed=UNSEEDED) for _ in range(2))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


def test_shuffled_images_come_once_in_each_epoch_in_changing_order(read: READ) -> None:
    orders = {tuple(labels.tolist()) for _, labels in read(IMAGES % ("shuffle: true", ""), 30)}
    assert {frozenset(order) for order in orders} == {frozenset({4.0, 17.0, -3.0})}
    assert len(orders) == 6


def test_skipped_images_are_those_at_the_beginning(read: READ) -> None:
    firsts = {float(read(IMAGES % ("rand_skip: 2", ""), 1, seed=seed)[0][1][0]) for seed in range(12)}
    assert firsts == {4.0, 17.0}


@pytest.mark.parametrize(("source", "rows"), [("row.txt", 5), ("rows.txt", 8)])
def test_shuffled_rows_come_once_in_each_epoch_with_their_labels(read: READ, source: str, rows: int) -> None:
    pairs = [
        {(float(label), data.tobytes()) for label, data in zip(*batch, strict=True)}
        for batch in read(ROWS % (source, rows), 20)
    ]
    assert len(pairs[0]) == rows
    assert all(epoch == pairs[0] for epoch in pairs)
    orders = {tuple(labels.tolist()) for labels, _ in read(ROWS % (source, rows), 20)}
    assert len(orders) > 10


def test_windows_are_of_background_first_in_the_fraction_asked_for(read: READ) -> None:
    [[_, labels]] = read(WINDOWS % "fg_threshold: 0.5", 1)
    assert labels[:10].tolist() == [0.0] * 10
    assert set(labels[10:].tolist()) == {3.0, 5.0}


def test_solvers_share_the_records_of_a_source_in_training_alone(read: READ) -> None:
    [[_, own]] = read(PIXELS % ("", ""), 1, solver_count=2, solver_rank=1)
    assert own.tolist() == [3 * n - 2 for n in (1, 3, 5, 0, 2, 4, 6)]
    [[_, all_of_them]] = read(PIXELS % ("", ""), 1, TEST, solver_count=2, solver_rank=1)
    assert all_of_them.tolist() == [3 * n - 2 for n in range(7)]
