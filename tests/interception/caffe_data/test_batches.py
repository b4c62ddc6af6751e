"""The batches of data layers are those of real Caffe, to the bit, with OpenCV and with pillow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from avec.formats.caffe.message import Message
from avec.interception.caffe.data import bilinear, open_source
from goldens.data_goldens import data_cases

TEST = 1
SIDES = np.random.default_rng(0).integers(1, 60, (60, 4)).tolist()


@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
@pytest.mark.parametrize("name", data_cases())
def test_batches_equal_real_caffes(
    name: str, decoder: str, files: Path, layer: Callable[[str], Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    if decoder == "pillow":
        monkeypatch.setitem(sys.modules, "cv2", None)
    case = data_cases()[name]
    with open_source(layer(case.prototxt), TEST, seed=0) as source:
        assert tuple(source.shapes()) == case.shapes
        for expected in case.batches:
            found = source.next_batch()
            assert [top.shape for top in found] == [top.shape for top in expected]
            for top, wanted in zip(found, expected, strict=True):
                assert top.dtype == np.float32
                np.testing.assert_array_equal(top, wanted)


@pytest.mark.parametrize(("before", "after"), [((h, w), (y, x)) for h, w, y, x in SIDES] + [((24, 36), (12, 18))])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_resizing_in_numpy_equals_opencvs(before: tuple[int, int], after: tuple[int, int], channels: int) -> None:
    shape = (*before, channels) if channels else before
    picture = np.random.default_rng(sum(before)).integers(0, 256, shape).astype(np.uint8)
    expected = cv2.resize(picture, after[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(bilinear.resize(picture, *after), expected.reshape(*after, *shape[2:]))
