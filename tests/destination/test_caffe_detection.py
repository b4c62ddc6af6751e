"""SSD's layers at the Caffe executor. Real Caffe has none of them: expected values are worked out here.

(Priors and detections were also compared with OpenCV 4.10's importer: equal to 1.2e-7.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import InvalidModel, UnsupportedOperation
from avec.protocol.caffe import Backward, BlobRef
from destination.caffe_net import Floats, Net, input_layer, layer

Make = Callable[..., Net]


@pytest.fixture(scope="module")
def make() -> Make:
    return functools.partial(Net, CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256)))


def run(net: Net, out: str, **inputs: object) -> Floats:
    values = {net.data(name): np.asarray(value, np.float32) for name, value in inputs.items()}
    return net.forward(values, [net.data(out)])[0]


def test_permute_moves_axes_there_and_back(make: Make) -> None:
    more = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
    net = make("force_backward: true " + input_layer(2, 3, 4, 5) + layer("Permute", "data", "out", more))
    values = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    out = run(net, "out", data=values)
    np.testing.assert_array_equal(out, values.transpose(0, 2, 3, 1))
    net.run(Backward(writes=(BlobRef(1, diff=True),)), [out])
    np.testing.assert_array_equal(net.read(BlobRef(0, diff=True))[0], values)


def test_permute_lets_unnamed_axes_follow(make: Make) -> None:
    net = make(input_layer(2, 3, 4) + layer("Permute", "data", "out", "permute_param { order: 2 }"))
    assert net.description.blobs[1].shape == (4, 2, 3)


@pytest.mark.parametrize(("across", "axes"), [("true", (1, 2, 3)), ("false", 1)])
def test_normalize_divides_by_the_norm_and_scales(make: Make, across: str, axes: int | tuple[int, ...]) -> None:
    more = (
        f'norm_param {{ across_spatial: {across} channel_shared: false scale_filler {{ type: "constant" value: 20 }} }}'
    )
    net = make(input_layer(2, 3, 2, 2) + layer("Normalize", "data", "out", more))
    values = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32)
    expected = 20 * values / np.sqrt((values**2).sum(axes, keepdims=True) + 1e-10)
    np.testing.assert_allclose(run(net, "out", data=values), expected, rtol=1e-5)
    assert net.description.layers[1].parameters[0].shape == (3,)


PRIORS = (
    "min_size: 4 max_size: 9 aspect_ratio: 4 aspect_ratio: 1 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.3"
)


def prior_net(make: Make, more: str) -> Net:
    text = input_layer(1, 3, 10, 20, name="image") + input_layer(1, 8, 1, 2)
    return make(text + layer("PriorBox", "data image", "out", f"prior_box_param {{ {more} }}"))


def test_priors_lie_around_the_middle_of_each_cell(make: Make) -> None:
    boxes, variances = run(prior_net(make, PRIORS), "out").reshape(2, 2, 4, 4)
    sizes = np.array([(4, 4), (6, 6), (8, 2), (2, 8)])
    for cell, centre in enumerate([(5, 5), (15, 5)]):
        expected = np.concatenate([centre - sizes / 2, centre + sizes / 2], 1) / [20, 10, 20, 10]
        np.testing.assert_allclose(boxes[cell], expected, rtol=1e-6)
    np.testing.assert_allclose(variances, np.broadcast_to([0.1, 0.1, 0.2, 0.3], (2, 4, 4)), rtol=1e-6)


def test_priors_are_clipped_and_placed_as_asked(make: Make) -> None:
    net = prior_net(make, "min_size: 30 clip: true step: 2 offset: 0 img_size: 40")
    boxes = run(net, "out").reshape(2, 2, 4)[0]
    np.testing.assert_allclose(boxes, [[0, 0, 15 / 40, 15 / 40], [0, 0, 17 / 40, 15 / 40]], rtol=1e-6)


BOXES = [[0.1, 0.1, 0.3, 0.3], [0.12, 0.1, 0.32, 0.3], [0.6, 0.6, 0.9, 0.9]]
OUTPUT = "num_classes: 3 confidence_threshold: 0.2 code_type: %s nms_param { nms_threshold: 0.5 } "


def detect(make: Make, scores: list[list[float]], more: str = "", shifts: object = None) -> Floats:
    code = "CORNER" if shifts is None else "CENTER_SIZE"
    text = input_layer(1, 12, name="loc") + input_layer(1, 9, name="conf") + input_layer(1, 2, 12, name="prior")
    net = make(
        text + layer("DetectionOutput", "loc conf prior", "out", f"detection_output_param {{ {OUTPUT % code} {more} }}")
    )
    prior = np.stack([np.ravel(BOXES), np.full(12, 0.1)])[np.newaxis]
    moved = np.zeros((1, 12)) if shifts is None else np.reshape(shifts, (1, 12))
    return run(net, "out", loc=moved, conf=np.reshape(scores, (1, 9)), prior=prior)[0, 0]


SCORES = [[0.1, 0.8, 0.1], [0.0, 0.9, 0.1], [0.1, 0.3, 0.6]]


def test_detections_are_the_best_of_those_that_overlap(make: Make) -> None:
    expected = [[0, 1, 0.9, *BOXES[1]], [0, 1, 0.3, *BOXES[2]], [0, 2, 0.6, *BOXES[2]]]
    np.testing.assert_allclose(detect(make, SCORES), expected, rtol=1e-6)


def test_detections_are_the_best_of_an_image(make: Make) -> None:
    expected = [[0, 1, 0.9, *BOXES[1]], [0, 2, 0.6, *BOXES[2]]]
    np.testing.assert_allclose(detect(make, SCORES, "keep_top_k: 2"), expected, rtol=1e-6)


def test_no_detection_is_a_row_of_minus_one_for_each_image(make: Make) -> None:
    np.testing.assert_array_equal(detect(make, [[1, 0, 0]] * 3), [[0, -1, -1, -1, -1, -1, -1]])


def test_boxes_are_decoded_by_centre_and_size(make: Make) -> None:
    shifts = [[0, 0, 0, 0], [0, 0, 0, 0], [1, -1, 10 * np.log(2), 0]]
    found = detect(make, [[1, 0, 0], [1, 0, 0], [0, 0, 1]], shifts=shifts)
    centre = np.array([0.75 + 0.1 * 0.3, 0.75 - 0.1 * 0.3])
    np.testing.assert_allclose(found[0, 3:], [*(centre - [0.3, 0.15]), *(centre + [0.3, 0.15])], rtol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (layer("Permute", "a", "out", "permute_param { order: 1 order: 1 }"), "each once"),
        (layer("Permute", "a", "out", "permute_param { order: 7 }"), "each once"),
        (layer("PriorBox", "a a2", "out"), "min_size must be given"),
        (layer("PriorBox", "a a2", "out", "prior_box_param { min_size: 5 max_size: 4 }"), "be greater"),
        (layer("PriorBox", "a a2", "out", "prior_box_param { min_size: 5 variance: 1 variance: 2 }"), "1 or 4"),
        (layer("PriorBox", "a a2", "out", "prior_box_param { min_size: 5 step: 1 step_h: 2 }"), "keep one way"),
        (
            layer("DetectionOutput", "a a2 a3", "out", "detection_output_param { num_classes: 2 }"),
            "60 locations .* for 1 priors; 4 are needed",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_layer(make: Make, more: str, message: str) -> None:
    text = "".join(input_layer(1, 3, 4, 5, name=name) for name in ("a", "a2", "a3"))
    with pytest.raises(InvalidModel, match=rf"layer 'out' .*({message})"):
        make(text + more)


def test_saving_detections_is_refused(make: Make) -> None:
    with pytest.raises(UnsupportedOperation, match=r"layer 'out' \(DetectionOutput\): saving detections"):
        detect(make, SCORES, 'save_output_param { output_directory: "results" }')
