"""Nets with layers that the host runs: how they are built, fed and driven at the Caffe executor."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import InvalidArgument, InvalidModel
from avec.protocol.caffe import (
    Backward,
    BlobRef,
    Forward,
    NetDescription,
    Read,
    Reshape,
    SetUpLayer,
)
from destination.caffe_net import Floats, Net, caffemodel, input_layer, layer

FED = (
    layer("Data", "", "data label", 'data_param { source: "train.lmdb" batch_size: 2 }', name="fed")
    + layer("InnerProduct", "data", "score", "inner_product_param { num_output: 3 }")
    + layer("SoftmaxWithLoss", "score label", "loss")
)
OWN = (
    "force_backward: true "
    + input_layer(1, 3)
    + layer("Power", "data", "a", "power_param { scale: 2 }")
    + layer("Python", "a", "b", 'python_param { module: "m" layer: "Own" }', name="own")
    + layer("Power", "b", "c", "power_param { scale: 3 }")
)


@pytest.fixture(scope="module")
def executor() -> CaffeExecutor:
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


def set_up(net: Net, *tops: tuple[int, ...], parameters: tuple[tuple[int, ...], ...] = ()) -> NetDescription:
    answer = net.run(SetUpLayer(tops=tops, parameters=parameters))
    net.description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=NetDescription)
    net.layers = [each.name for each in net.description.layers]
    return net.description


def test_a_net_awaits_its_data_layer_and_goes_on_with_its_shapes(executor: CaffeExecutor) -> None:
    net = Net(executor, FED)
    assert net.description.awaiting == 0
    assert [each.name for each in net.description.layers] == ["fed"]
    description = set_up(net, (2, 4), (2,))
    assert description.awaiting == -1
    assert [each.external for each in description.layers] == [True, False, False]
    assert {blob.name: blob.shape for blob in description.blobs} == {
        "data": (2, 4),
        "label": (2,),
        "score": (2, 3),
        "loss": (),
    }


def test_a_fed_net_runs_in_one_pass_over_what_was_written(executor: CaffeExecutor) -> None:
    net = Net(executor, FED)
    set_up(net, (2, 4), (2,))
    weight = np.zeros((3, 4), np.float32)
    values = {net.parameter("score"): weight, net.data("data"): np.ones((2, 4), np.float32)}
    (loss,) = net.forward({**values, net.data("label"): np.float32([0, 2])}, [net.data("loss")])
    assert loss == pytest.approx(np.log(3))
    net.run(Backward())
    (bias,) = net.read(BlobRef(1, net.layers.index("score"), diff=True))
    np.testing.assert_allclose(bias, [1 / 3 - 0.5, 1 / 3, 1 / 3 - 0.5], rtol=1e-6)


def test_an_own_layer_in_the_middle_is_run_between_two_ranges(executor: CaffeExecutor) -> None:
    net = Net(executor, OWN)
    assert net.description.awaiting == 2
    assert net.description.blobs[net.description.layers[2].bottoms[0]].shape == (1, 3)
    description = set_up(net, (1, 3))
    assert all(each.needs_backward for each in description.layers)
    (a,) = net.forward({net.data("data"): np.float32([[1, 2, 3]])}, [net.data("a")], end=1)
    (c,) = net.forward({net.data("b"): a + 10}, [net.data("c")], start=3)
    np.testing.assert_array_equal(c, 3 * (2 * np.float32([[1, 2, 3]]) + 10))
    top = BlobRef(net.blobs.index("c"), diff=True)
    answer = net.run(Backward(writes=(top,), end=3, wanted=(_diff(net, "b"),)), [np.ones((1, 3), np.float32)])
    passed_on: Floats = np.array(answer.arrays[0])
    answer = net.run(Backward(writes=(_diff(net, "a"),), start=1, wanted=(_diff(net, "data"),)), [passed_on])
    np.testing.assert_array_equal(answer.arrays[0], np.full((1, 3), 6))


def _diff(net: Net, blob: str) -> BlobRef:
    return BlobRef(net.blobs.index(blob), diff=True)


def test_an_own_layers_new_shape_reaches_what_comes_after_it(executor: CaffeExecutor) -> None:
    net = Net(executor, OWN)
    set_up(net, (1, 3))
    change = net.reshape("b", 2, 5)
    (c,) = net.forward({net.data("b"): np.ones((2, 5), np.float32)}, [net.data("c")], start=3, reshaped=(change,))
    np.testing.assert_array_equal(c, np.full((2, 5), 3))
    net.run(Reshape(reshaped=(net.reshape("data", 4, 3),), end=1))
    assert net.read(net.data("a"))[0].shape == (4, 3)


def test_an_own_layers_parameters_live_here(executor: CaffeExecutor) -> None:
    net = Net(executor, OWN)
    description = set_up(net, (1, 3), parameters=((2, 2), (5,)))
    assert [each.shape for each in description.layers[2].parameters] == [(2, 2), (5,)]
    ref = BlobRef(1, 2)
    assert not net.read(ref)[0].any()
    net.run(Read(writes=(ref,)), [np.arange(5, dtype=np.float32)])
    np.testing.assert_array_equal(net.read(ref)[0], np.arange(5))


def test_weights_reach_layers_that_were_built_after_the_wait(executor: CaffeExecutor, tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32)
    blobs = [{"shape": {"dim": [3, 4]}, "data": values}, {"shape": {"dim": [3]}, "data": values[:3]}]
    net = Net(executor, FED, caffemodel(tmp_path / "w.caffemodel", {"score": blobs}))
    set_up(net, (2, 4), (2,))
    np.testing.assert_array_equal(net.read(net.parameter("score"))[0].ravel(), values)


def test_other_requests_are_refused_while_a_layer_is_awaited(executor: CaffeExecutor) -> None:
    net = Net(executor, FED)
    for request in (Forward(), Read(), Backward()):
        with pytest.raises(InvalidArgument, match="the net is not complete"):
            net.run(request)


def test_a_layer_set_up_wrongly_is_refused(executor: CaffeExecutor) -> None:
    net = Net(executor, FED)
    with pytest.raises(InvalidArgument, match=r"layer 'fed' \(Data\): set up with 1 tops; it has 2"):
        net.run(SetUpLayer(tops=((2, 4),)))
    with pytest.raises(InvalidArgument, match="negative dimension"):
        net.run(SetUpLayer(tops=((2, 4), (-1,))))
    with pytest.raises(InvalidModel, match=r"layer 'loss' .* need 2 labels"):
        net.run(SetUpLayer(tops=((2, 4), (7,))))


def test_a_complete_net_awaits_nothing(executor: CaffeExecutor) -> None:
    net = Net(executor, input_layer(1, 2))
    with pytest.raises(InvalidArgument, match="awaits no layer"):
        net.run(SetUpLayer())
