"""The Caffe executor's forward and backward passes in training against real Caffe, on the CPU, in strict fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.protocol import caffe as protocol
from destination.caffe_net import Floats, Net
from goldens.caffe_goldens import Golden
from goldens.training_goldens import Gradient, Statistics, gradients, statistics, training_goldens

FORWARD_TOLERANCE = 1e-5  # of a blob's largest magnitude
BACKWARD_TOLERANCE = 1e-4  # of a diff's largest magnitude

Given = dict[protocol.BlobRef, Floats]


@pytest.fixture(scope="module")
def executor() -> Iterator[CaffeExecutor]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for such small nets, more threads only wait for one another
    yield CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))
    torch.set_num_threads(before)


@pytest.fixture
def golden_net(executor: CaffeExecutor, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Net]:
    golden: Golden = request.param
    weights = None
    if golden.caffemodel is not None:
        weights = tmp_path / "weights.caffemodel"
        weights.write_bytes(golden.caffemodel)
    net = Net(executor, golden.prototxt, weights, phase=golden.phase, level=golden.level, stages=golden.stages)
    yield net
    net.model.close()


@pytest.fixture
def gradient_net(executor: CaffeExecutor, request: pytest.FixtureRequest) -> Iterator[Net]:
    gradient: Gradient = request.param
    net = Net(executor, gradient.prototxt, phase=gradient.phase)
    yield net
    net.model.close()


every_golden = pytest.mark.parametrize(
    ("golden", "golden_net"),
    [(each, each) for each in training_goldens()],
    indirect=["golden_net"],
    ids=[str(each) for each in training_goldens()],
)
every_gradient = pytest.mark.parametrize(
    ("gradient", "gradient_net"),
    [(each, each) for each in gradients()],
    indirect=["gradient_net"],
    ids=[str(each) for each in gradients()],
)


def _error(actual: Floats, wanted: Floats) -> float:
    """The worst difference relative to the largest magnitude wanted; inf where a shape or a NaN differs."""
    if actual.shape != wanted.shape or not np.array_equal(np.isnan(actual), np.isnan(wanted)):
        return float("inf")
    ordinary = ~np.isnan(wanted)
    largest = float(np.abs(wanted[ordinary]).max(initial=0.0))
    worst = float(np.abs(actual[ordinary].astype(np.float64) - wanted[ordinary]).max(initial=0.0))
    return worst / largest if largest else worst


@every_golden
def test_every_blob_holds_what_real_caffe_computes(golden: Golden, golden_net: Net) -> None:
    given = {golden_net.data(name): value for name, value in golden.inputs.items()}
    computed = golden_net.forward(given, [golden_net.data(name) for name in golden.blobs])
    errors = {name: expected.error(blob) for (name, expected), blob in zip(golden.blobs.items(), computed, strict=True)}
    assert {name: error for name, error in errors.items() if error > FORWARD_TOLERANCE} == {}


changing = [each for each in training_goldens() if each.changed_parameters]


@pytest.mark.parametrize(
    ("golden", "golden_net"),
    [(each, each) for each in changing],
    indirect=["golden_net"],
    ids=[str(each) for each in changing],
)
def test_a_forward_pass_changes_the_parameters_that_real_caffe_changes(golden: Golden, golden_net: Net) -> None:
    given = {golden_net.data(name): value for name, value in golden.inputs.items()}
    wanted = [protocol.BlobRef(each.index, each.layer) for each in golden.changed_parameters]
    computed = golden_net.forward(given, wanted)
    for change, actual in zip(golden.changed_parameters, computed, strict=True):
        assert _error(actual, change.values) <= FORWARD_TOLERANCE


@every_gradient
def test_every_diff_is_what_real_caffe_computes(gradient: Gradient, gradient_net: Net) -> None:
    net = gradient_net
    net.forward(_given(gradient, net))
    net.run(protocol.ClearDiffs())
    blobs = {name: _diff(net, name) for name in gradient.blobs}
    parameters = {place: protocol.BlobRef(place[1], place[0], diff=True) for place in gradient.parameters}
    tops = {_diff(net, name): value for name, value in gradient.given.items()}
    answer = net.run(
        protocol.Backward(writes=tuple(tops), wanted=(*blobs.values(), *parameters.values())), [*tops.values()]
    )
    wanted = {**gradient.blobs, **{_name(net, place): diff for place, diff in gradient.parameters.items()}}
    errors = {name: _error(actual, wanted[name]) for name, actual in zip(wanted, answer.arrays, strict=True)}
    assert {name: error for name, error in errors.items() if error > BACKWARD_TOLERANCE} == {}


def _given(gradient: Gradient, net: Net) -> Given:
    given = {net.data(name): value for name, value in gradient.inputs.items()}
    shapes = [(each.type, [parameter.shape for parameter in each.parameters]) for each in net.description.layers]
    for layer, values in enumerate(gradient.parameter_values(shapes) or []):
        given |= {protocol.BlobRef(index, layer): value for index, value in enumerate(values)}
    return given


def _diff(net: Net, blob: str) -> protocol.BlobRef:
    return protocol.BlobRef(net.blobs.index(blob), diff=True)


def _name(net: Net, place: tuple[int, int]) -> str:
    return f"parameter {place[1]} of {net.layers[place[0]]}"


@every_gradient
def test_losses_weigh_what_they_weigh_in_real_caffe(gradient: Gradient, gradient_net: Net) -> None:
    weights = dict.fromkeys(gradient_net.blobs, 0.0)
    for layer in gradient_net.description.layers:
        for top, weight in zip(layer.tops, layer.loss_weights, strict=False):
            weights[gradient_net.blobs[top]] = weight
    assert weights == pytest.approx(dict(gradient.loss_weights))


unforced = [each for each in gradients() if "force_backward" not in each.prototxt]


@pytest.mark.parametrize(
    ("gradient", "gradient_net"),
    [(each, each) for each in unforced],
    indirect=["gradient_net"],
    ids=[str(each) for each in unforced],
)
def test_a_backward_pass_runs_the_layers_that_real_caffe_names(gradient: Gradient, gradient_net: Net) -> None:
    running = {layer.name for layer in gradient_net.description.layers if layer.needs_backward}
    assert running == set(gradient.needs_backward)


def test_diffs_of_parameters_add_up_until_they_are_cleared(executor: CaffeExecutor) -> None:
    gradient = next(each for each in gradients() if each.name == "classic_lenet")
    net = Net(executor, gradient.prototxt, phase=gradient.phase)
    net.forward(_given(gradient, net))
    place = next(iter(gradient.parameters))
    ref = protocol.BlobRef(place[1], place[0], diff=True)
    net.run(protocol.Backward())
    net.run(protocol.Backward())
    (twice,) = net.read(ref)
    net.run(protocol.ClearDiffs())
    net.run(protocol.Backward())
    (once,) = net.read(ref)
    net.model.close()
    assert _error(twice, 2 * gradient.parameters[place]) <= BACKWARD_TOLERANCE
    assert _error(once, gradient.parameters[place]) <= BACKWARD_TOLERANCE


@pytest.mark.parametrize("expected", statistics(), ids=str)
def test_what_is_drawn_at_random_has_real_caffes_statistics(executor: CaffeExecutor, expected: Statistics) -> None:
    net = Net(executor, expected.prototxt, phase=expected.phase)
    ref = net.data(expected.blob) if expected.blob else net.parameter("tested")
    (first,) = net.forward(wanted=[ref])
    (second,) = net.forward(wanted=[ref])
    net.model.close()
    assert first.shape == expected.shape
    # Two samples of n values: means differ by some deviations / √n, deviations and extremes by a few percent.
    certain = expected.deviation / np.sqrt(first.size)
    assert first.mean() == pytest.approx(expected.mean, abs=6 * certain + 1e-6)
    assert first.std() == pytest.approx(expected.deviation, rel=0.05, abs=1e-6)
    assert (first == 0).mean() == pytest.approx(expected.zeros, abs=0.03)
    assert first.min() == pytest.approx(expected.minimum, abs=1.5 * expected.deviation + 1e-6)
    assert first.max() == pytest.approx(expected.maximum, abs=1.5 * expected.deviation + 1e-6)
    assert (not np.array_equal(first, second)) == expected.drawn_again


@pytest.mark.parametrize(
    "expected", [each for each in statistics() if each.name.endswith("positive_unitball")], ids=str
)
def test_weights_of_a_positive_unit_ball_add_up_to_one(executor: CaffeExecutor, expected: Statistics) -> None:
    net = Net(executor, expected.prototxt, phase=expected.phase)
    (weights,) = net.read(net.parameter("tested"))
    net.model.close()
    sums = weights.reshape(len(weights), -1).sum(axis=1)
    assert [sums.min(), sums.max()] == pytest.approx(expected.row_sums, abs=1e-5)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_dropouts_gradient_has_the_zeros_and_the_scale_of_its_forward_pass(
    executor: CaffeExecutor, ratio: float
) -> None:
    prototxt = (
        "force_backward: true\n"
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 40 dim: 50 } } }\n'
        'layer { name: "drop" type: "Dropout" bottom: "data" top: "out" dropout_param { dropout_ratio: %s } }\n'
    )
    net = Net(executor, prototxt % ratio, phase="TRAIN")
    ones = np.ones((40, 50), dtype=np.float32)
    (out,) = net.forward({net.data("data"): ones}, [net.data("out")])
    request = protocol.Backward(writes=(_diff(net, "out"),), wanted=(_diff(net, "data"),))
    (diff,) = [np.array(array) for array in net.run(request, [3 * ones]).arrays]
    net.model.close()
    np.testing.assert_allclose(diff, 3 * out, rtol=1e-6)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / (1 - ratio))}
