"""Windows of images through a net: the predictions of real Caffe; context around windows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avec.errors import InvalidArgument
from goldens import net_specs

GOLDENS = Path(net_specs.__file__).parent / "caffe_api"
GOLDEN = np.load(GOLDENS / "detector.npz")
PREPARED = {"raw_scale": 2.0, "input_scale": 0.5, "channel_swap": (2, 1, 0)}


@pytest.fixture
def detect(caffe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a Detector; every file holds the golden's image."""
    weights = tmp_path / "none.caffemodel"
    weights.write_bytes(caffe.proto.caffe_pb2.NetParameter(name="none").SerializeToString())
    monkeypatch.setattr(caffe.io, "load_image", lambda filename: GOLDEN["image"].copy())
    return lambda **how: caffe.Detector(str(GOLDENS / "detector.prototxt"), str(weights), **how)


def test_predictions_are_those_of_real_caffe(detect: Any) -> None:
    windows = GOLDEN["windows"]
    found = detect(mean=GOLDEN["mean"], **PREPARED).detect_windows([("one", windows[:2]), ("two", windows[2:])])
    assert [each["filename"] for each in found] == ["one", "one", "two"]
    np.testing.assert_array_equal([each["window"] for each in found], windows)
    np.testing.assert_allclose([each["prediction"] for each in found], GOLDEN["predictions"], rtol=1e-5, atol=1e-6)


def test_no_windows_give_no_detections(detect: Any) -> None:
    assert detect().detect_windows([("one", []), ("two", [])]) == []


def test_a_window_is_cut_out_as_it_is(detect: Any) -> None:
    crop = detect().crop(GOLDEN["image"], [2, 3, 14, 17])
    np.testing.assert_array_equal(crop, GOLDEN["image"][2:14, 3:17])


def test_context_is_what_lies_around_the_window(detect: Any) -> None:
    """8 pixels with 2 of context at each border show twice the window, which is then not resized."""
    detector = detect(context_pad=2)
    crop = detector.crop(GOLDEN["image"], np.array([10, 12, 13, 15]))  # 4 x 4 pixels, the last one included
    np.testing.assert_allclose(crop, GOLDEN["image"][8:16, 10:18], atol=1e-6)


def test_beyond_the_image_lies_the_mean_as_it_was_before_preprocessing(detect: Any) -> None:
    detector = detect(mean=GOLDEN["mean"], context_pad=2, **PREPARED)
    crop = detector.crop(GOLDEN["image"], np.array([0, 0, 7, 7]))
    mean = GOLDEN["mean"][::-1] / PREPARED["raw_scale"]
    np.testing.assert_allclose(crop[0, 0], mean)
    assert not np.isclose(crop[4, 4], mean).any()


def test_without_a_mean_zeros_lie_beyond_the_image(detect: Any) -> None:
    assert detect(context_pad=2).crop(GOLDEN["image"], np.array([0, 0, 7, 7]))[0, 0].tolist() == [0, 0, 0]


def test_a_window_outside_of_the_image_is_refused(detect: Any) -> None:
    with pytest.raises(InvalidArgument, match="lies outside of the image"):
        detect(context_pad=2).crop(GOLDEN["image"], np.array([-40, -40, -30, -30]))


def test_selective_search_is_asked_for_windows_in_absolute_files(detect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def get_windows(names: list[str], cmd: str) -> list[Any]:
        asked.extend([names, cmd])
        return [GOLDEN["windows"][:1] for _ in names]

    monkeypatch.setitem(
        sys.modules,
        "selective_search_ijcv_with_python",
        SimpleNamespace(get_windows=get_windows),  # type: ignore[arg-type]
    )
    found = detect().detect_selective_search(["a.jpg"])
    assert asked == [[str(Path("a.jpg").absolute())], "selective_search_rcnn"]
    assert [each["filename"] for each in found] == asked[0]


def test_selective_search_that_is_not_installed(detect: Any) -> None:
    with pytest.raises(ImportError, match="call detect_windows"):
        detect().detect_selective_search(["a.jpg"])
