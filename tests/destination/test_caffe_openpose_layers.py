"""OpenPose's ImResize and Nms at the Caffe executor, beside a plain reading of what they are to compute."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import InvalidModel
from destination.caffe_net import Floats, Net, input_layer, layer

Make = Callable[..., Net]


@pytest.fixture(scope="module")
def make() -> Make:
    return functools.partial(Net, CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256)))


def run(net: Net, values: Floats) -> Floats:
    return net.forward({net.data("data"): values}, [net.data("out")])[0]


def cubic(v: list[float], d: float) -> float:
    """Catmull and Rom's cubic through four values, between the second and the third."""
    a = -0.5 * v[0] + 1.5 * v[1] - 1.5 * v[2] + 0.5 * v[3]
    b = v[0] - 2.5 * v[1] + 2 * v[2] - 0.5 * v[3]
    return ((a * d + b) * d + (-0.5 * v[0] + 0.5 * v[2])) * d + v[1]


def enlarged(image: Floats, height: int, width: int, y: int, x: int) -> float:
    """One pixel of an image enlarged to height × width, its borders repeated."""

    def around(place: int, target: int, source: int) -> tuple[list[int], float]:
        at = (place - (target / source / 2 - 0.5)) * (source / target)
        second = max(int(at + 1e-5), 0)
        third = min(second + 1, source - 1)
        return [max(second - 1, 0), second, third, min(third + 1, source - 1)], at - second

    rows, dy = around(y, height, image.shape[0])
    columns, dx = around(x, width, image.shape[1])
    return cubic([cubic([float(image[row, column]) for column in columns], dx) for row in rows], dy)


def test_imresize_enlarges_by_its_factor(make: Make) -> None:
    net = make(input_layer(1, 2, 4, 5) + layer("ImResize", "data", "out", "imresize_param { factor: 3 }"))
    values = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)
    expected = [[[enlarged(image, 12, 15, y, x) for x in range(15)] for y in range(12)] for image in values[0]]
    np.testing.assert_allclose(run(net, values)[0], expected, atol=1e-5)


def test_imresize_takes_a_target_size(make: Make) -> None:
    more = "imresize_param { target_spatial_width: 7 target_spatial_height: 9 }"
    net = make(input_layer(1, 1, 3, 3) + layer("ImResize", "data", "out", more))
    assert net.description.blobs[1].shape == (1, 1, 9, 7)
    np.testing.assert_allclose(run(net, np.full((1, 1, 3, 3), 2.5, np.float32)), 2.5, rtol=1e-6)


def test_imresize_averages_scales_whose_margins_it_cuts(make: Make) -> None:
    more = "imresize_param { factor: 2 start_scale: 1 scale_gap: 0.25 }"
    net = make(input_layer(2, 1, 8, 8) + layer("ImResize", "data", "out", more))
    values = np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)
    margin = math.floor(8 // 2 * 0.25)
    inner = values[1, 0, margin:-margin, margin:-margin]
    expected = [
        [(enlarged(values[0, 0], 16, 16, y, x) + enlarged(inner, 16, 16, y, x)) / 2 for x in range(16)]
        for y in range(16)
    ]
    out = run(net, values)
    assert out.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(out[0, 0], expected, atol=1e-5)


def test_imresize_refuses_scales_of_which_nothing_is_left(make: Make) -> None:
    more = "imresize_param { factor: 2 scale_gap: 0.6 }"
    with pytest.raises(InvalidModel, match=r"layer 'out' \(ImResize\).*scale_gap 0.6 leave nothing of 3 scales"):
        make(input_layer(3, 1, 8, 8) + layer("ImResize", "data", "out", more))


def bumps(height: int, width: int, *places: tuple[int, int, float]) -> Floats:
    """A map with a symmetric peak of each height at each (y, x)."""
    y, x = np.mgrid[:height, :width]
    peaks = [top * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2.0) for cy, cx, top in places]
    return np.max([np.zeros((height, width)), *peaks], 0).astype(np.float32)


def test_nms_lists_peaks_in_reading_order_with_their_scores(make: Make) -> None:
    more = "nms_param { threshold: 0.2 max_peaks: 4 num_parts: 2 }"
    net = make(input_layer(1, 3, 20, 30) + layer("Nms", "data", "out", more))
    maps = np.stack([bumps(20, 30, (12, 6, 0.9), (6, 20, 0.5)), bumps(20, 30, (10, 15, 0.1)), bumps(20, 30)])
    joints = run(net, maps[np.newaxis])
    assert joints.shape == (1, 2, 5, 3)
    assert joints[0, 0, 0, 0] == 2
    np.testing.assert_allclose(joints[0, 0, 1:3], [[20, 6, 0.5], [6, 12, 0.9]], atol=1e-4)
    np.testing.assert_array_equal(joints[0, 0, 3:], 0)
    np.testing.assert_array_equal(joints[0, 1], 0)  # under the threshold


def test_nms_counts_all_peaks_and_lists_the_first(make: Make) -> None:
    more = "nms_param { threshold: 0.2 max_peaks: 2 num_parts: 1 }"
    net = make(input_layer(1, 1, 40, 12) + layer("Nms", "data", "out", more))
    joints = run(net, bumps(40, 12, *((y, 6, 0.8) for y in (5, 15, 25, 35)))[np.newaxis, np.newaxis])
    assert joints[0, 0, 0, 0] == 4
    np.testing.assert_allclose(joints[0, 0, 1:, 1], [5, 15], atol=1e-4)


def test_nms_finds_no_peak_on_a_border_or_a_plateau(make: Make) -> None:
    net = make(input_layer(1, 1, 6, 6) + layer("Nms", "data", "out", "nms_param { threshold: 0.1 num_parts: 1 }"))
    maps = np.zeros((1, 1, 6, 6), np.float32)
    maps[0, 0, 0, 3] = 1  # on the border
    maps[0, 0, 3, 2:4] = 1  # two equal ones
    np.testing.assert_array_equal(run(net, maps), 0)


def test_nms_refuses_fewer_maps_than_parts(make: Make) -> None:
    with pytest.raises(InvalidModel, match=r"layer 'out' \(Nms\).*18 maps, not shape \(1, 3, 8, 8\)"):
        make(input_layer(1, 3, 8, 8) + layer("Nms", "data", "out", "nms_param { num_parts: 18 }"))
