"""The Caffe executor in training, beside what the goldens of real Caffe show: diffs, sharing, chance, bad input."""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import InvalidArgument, InvalidModel
from avec.formats.caffe.message import message_class
from avec.protocol.caffe import (
    Backward,
    BlobRef,
    ClearDiffs,
    Forward,
    LoadNet,
    NetDescription,
    Read,
    Reseed,
    ShareWith,
)
from destination.caffe_net import Floats, Net, input_layer, layer, told

DENSE = 'inner_product_param { num_output: 2 weight_filler { type: "gaussian" } }'
CHAIN = (
    "force_backward: true "
    + input_layer(1, 3)
    + input_layer(1, 2, name="target")
    + layer("InnerProduct", "data", "a", DENSE)
    + layer("EuclideanLoss", "a target", "loss")
)

Make = Callable[..., Net]


@pytest.fixture(scope="module")
def executor() -> CaffeExecutor:
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


@pytest.fixture
def make(executor: CaffeExecutor) -> Make:
    return functools.partial(Net, executor)


def diff(net: Net, blob: str) -> BlobRef:
    return BlobRef(net.blobs.index(blob), diff=True)


def parameter_diff(net: Net, name: str, index: int = 0) -> BlobRef:
    return BlobRef(index, net.layers.index(name), diff=True)


def given(net: Net, **values: object) -> dict[BlobRef, Floats]:
    return {net.data(name): np.asarray(value, np.float32) for name, value in values.items()}


def chain(make: Make) -> Net:
    net = make(CHAIN)
    net.forward(given(net, data=[[1, 2, 3]], target=[[1, 1]]))
    return net


class TestDiffs:
    def test_of_parameters_add_up_until_they_are_cleared(self, make: Make) -> None:
        net = chain(make)
        net.run(Backward())
        (once,) = net.read(parameter_diff(net, "a"))
        net.run(Backward())
        (twice,) = net.read(parameter_diff(net, "a"))
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
        net.run(ClearDiffs())
        (cleared,) = net.read(parameter_diff(net, "a"))
        assert np.abs(once).max() > 0 and not cleared.any()

    def test_of_blobs_are_replaced(self, make: Make) -> None:
        net = chain(make)
        net.run(Backward())
        (once,) = net.read(diff(net, "data"))
        net.run(Backward())
        np.testing.assert_array_equal(net.read(diff(net, "data"))[0], once)

    def test_of_a_loss_is_its_weight_from_the_beginning(self, make: Make) -> None:
        net = make(CHAIN.replace('top: "loss"', 'top: "loss" loss_weight: 0.25'))
        assert net.read(diff(net, "loss"))[0] == 0.25

    def test_written_by_the_application_stay_where_they_were_written(self, make: Make) -> None:
        text = "force_backward: true " + input_layer(1, 2) + input_layer(1, 2, name="b")
        net = make(text + layer("Eltwise", "data b", "sum"))
        ones = np.ones((1, 2), np.float32)
        net.forward(given(net, data=ones, b=ones))
        net.run(Backward(writes=(diff(net, "sum"),)), [ones])
        net.run(Read(writes=(diff(net, "data"),)), [5 * ones])
        np.testing.assert_array_equal(net.read(diff(net, "sum"), diff(net, "b")), [ones, ones])

    def test_of_a_part_of_the_net_leave_the_rest(self, make: Make) -> None:
        net = chain(make)
        net.run(Backward(end=net.layers.index("loss")))
        at_a, at_data = net.read(diff(net, "a"), diff(net, "data"))
        assert at_a.any() and not at_data.any()
        net.run(Backward(start=net.layers.index("a")))
        assert net.read(diff(net, "data"))[0].any()

    @pytest.mark.parametrize("request_", [Backward(start=4), Backward(start=2, end=-2), Backward(start=-3)])
    def test_of_layers_that_are_not_there_are_refused(self, make: Make, request_: Backward) -> None:
        net = chain(make)
        with pytest.raises(InvalidArgument, match="the net has layers 0 to 3"):
            net.run(request_)

    def test_of_a_shared_parameter_are_one(self, make: Make) -> None:
        dense = 'inner_product_param { num_output: 3 bias_term: false } param { name: "w" }'
        text = "force_backward: true " + input_layer(1, 3)
        net = make(text + layer("InnerProduct", "data", "a", dense) + layer("InnerProduct", "a", "b", dense))
        weight = np.diag([1, 2, 3]).astype(np.float32)
        net.forward({net.parameter("a"): weight, **given(net, data=[[1, 1, 1]])})
        net.run(Backward(writes=(diff(net, "b"),)), [np.ones((1, 3), np.float32)])
        first, second = net.read(parameter_diff(net, "a"), parameter_diff(net, "b"))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, np.outer([1, 1, 1], [1, 2, 3]) + np.outer([1, 2, 3], [1, 1, 1]))
        assert net.description.layers[2].parameters[0].owner == (1, 0)

    def test_a_frozen_parameter_gets_none(self, make: Make) -> None:
        net = make(CHAIN.replace("force_backward: true", "").replace('top: "a"', 'top: "a" param { lr_mult: 0 }'))
        net.forward(given(net, data=[[1, 2, 3]], target=[[1, 1]]))
        net.run(Backward())
        weight, bias = net.read(parameter_diff(net, "a", 0), parameter_diff(net, "a", 1))
        assert not weight.any() and bias.any()


class TestSharing:
    def test_another_nets_parameters_are_this_ones_from_then_on(self, make: Make) -> None:
        first, second = make(CHAIN), make(CHAIN)
        second.model.run(msgspec.msgpack.encode(ShareWith()), [], {}, [first.model])
        first.run(Read(writes=(first.parameter("a"),)), [np.full((2, 3), 7, np.float32)])
        np.testing.assert_array_equal(second.read(second.parameter("a"))[0], np.full((2, 3), 7))
        inputs = given(second, data=[[1, 2, 3]])
        np.testing.assert_array_equal(second.forward(inputs, [second.data("a")])[0], [[42, 42]])

    def test_diffs_are_not_shared(self, make: Make) -> None:
        first, second = chain(make), make(CHAIN)
        second.model.run(msgspec.msgpack.encode(ShareWith()), [], {}, [first.model])
        first.run(Backward())
        assert not second.read(parameter_diff(second, "a"))[0].any()

    def test_parameters_of_other_shapes_are_refused_with_both(self, make: Make) -> None:
        first, second = make(CHAIN), make(CHAIN.replace("dim: 1 dim: 3", "dim: 1 dim: 4"))
        with pytest.raises(InvalidArgument, match=r"layer 'a' .*\(2, 4\).*\(2, 3\)"):
            second.model.run(msgspec.msgpack.encode(ShareWith()), [], {}, [first.model])

    @pytest.mark.parametrize("place", [0, 3, -1])
    def test_a_net_that_is_not_there_is_refused(self, make: Make, place: int) -> None:
        first, second = make(CHAIN), make(CHAIN)
        others = [] if place == 0 else [first.model]
        with pytest.raises(InvalidArgument, match="another Caffe net's handle is needed"):
            second.model.run(msgspec.msgpack.encode(ShareWith(net=place)), [], {}, others)


DROPOUT = input_layer(4, 50) + layer("Dropout", "data", "out")
STOCHASTIC = input_layer(1, 2, 8, 8) + layer(
    "Pooling", "data", "out", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"
)


class TestChance:
    @pytest.mark.parametrize("text", [DROPOUT, STOCHASTIC], ids=["Dropout", "Pooling"])
    def test_repeats_with_the_seed_and_goes_on_without(self, make: Make, text: str) -> None:
        def two_passes(seed: int) -> list[Floats]:
            net = make(text, phase="TRAIN", seed=seed)
            shape = net.description.blobs[0].shape
            values = np.random.default_rng(0).uniform(0.5, 1.5, shape)
            return [net.forward(given(net, data=values), [net.data("out")])[0] for _ in range(2)]

        first, second = two_passes(5)
        again, _ = two_passes(5)
        other, _ = two_passes(6)
        np.testing.assert_array_equal(first, again)
        assert (first != second).any() and (first != other).any()

    def test_of_dummy_data_begins_anew_when_asked(self, make: Make) -> None:
        more = 'dummy_data_param { shape { dim: 3 } data_filler { type: "gaussian" } }'
        net = make(layer("DummyData", "", "noise", more))
        passes = []
        for _ in range(2):
            net.run(Reseed(seed=3))
            passes.append(net.forward({}, [net.data("noise")])[0])
        np.testing.assert_array_equal(*passes)

    def test_begins_anew_when_asked(self, make: Make) -> None:
        net = make(DROPOUT, phase="TRAIN")
        ones = np.ones((4, 50))
        passes = []
        for _ in range(2):
            net.run(Reseed(seed=3))
            passes.append(net.forward(given(net, data=ones), [net.data("out")])[0])
        np.testing.assert_array_equal(*passes)

    def test_dropout_drops_the_same_in_both_directions(self, make: Make) -> None:
        net = make("force_backward: true " + DROPOUT, phase="TRAIN")
        ones = np.ones((4, 50), np.float32)
        (out,) = net.forward(given(net, data=ones), [net.data("out")])
        net.run(Backward(writes=(diff(net, "out"),)), [ones])
        np.testing.assert_array_equal(net.read(diff(net, "data"))[0], out)
        assert set(np.unique(out)) == {0.0, 2.0}

    def test_stochastic_pooling_takes_values_of_the_window_and_their_mean_in_tests(self, make: Make) -> None:
        values = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
        text = STOCHASTIC.replace("dim: 2 dim: 8 dim: 8", "dim: 1 dim: 2 dim: 2")
        net = make(text, phase="TRAIN")
        drawn = {float(net.forward(given(net, data=values), [net.data("out")])[0].item()) for _ in range(60)}
        assert drawn <= {1.0, 2.0, 3.0, 4.0} and len(drawn) > 1
        (mean,) = (tested := make(text)).forward(given(tested, data=values), [tested.data("out")])
        assert mean.item() == pytest.approx(30 / 10)

    def test_dummy_data_draws_anew_and_keeps_constants(self, make: Make) -> None:
        more = (
            'dummy_data_param { shape { dim: 3 } data_filler { type: "gaussian" } '
            'data_filler { type: "constant" value: 2 } }'
        )
        net = make(layer("DummyData", "", "noise two", more))
        wanted = [net.data("noise"), net.data("two")]
        (noise, two), (later, still) = net.forward({}, wanted), net.forward({}, wanted)
        assert (noise != later).any()
        np.testing.assert_array_equal([two, still], np.full((2, 3), 2))


class TestStates:
    def test_a_recurrent_layer_goes_on_where_the_sequence_does(self, make: Make) -> None:
        setting = 'recurrent_param { num_output: 2 weight_filler { type: "gaussian" } }'
        whole, half = (
            make(input_layer(n, 1, 3) + input_layer(n, 1, name="cont") + layer("LSTM", "data cont", "out", setting))
            for n in (4, 2)
        )
        values = np.random.default_rng(1).standard_normal((4, 1, 3))
        (at_once,) = whole.forward(given(whole, data=values, cont=[[0], [1], [1], [1]]), [whole.data("out")])
        parts = [
            half.forward(given(half, data=values[start : start + 2], cont=cont), [half.data("out")])[0]
            for start, cont in ((0, [[0], [1]]), (2, [[1], [1]]))
        ]
        np.testing.assert_allclose(np.concatenate(parts), at_once, rtol=1e-5, atol=1e-7)

    def test_a_filter_tells_the_shapes_that_came_out(self, make: Make) -> None:
        net = make(input_layer(3, 2) + input_layer(3, name="chosen") + layer("Filter", "data chosen", "out"))
        inputs = given(net, data=[[1, 2], [3, 4], [5, 6]], chosen=[1, 0, 1])
        answer = net.run(Forward(writes=tuple(inputs), wanted=(net.data("out"),)), [*inputs.values()])
        assert told(answer)[-1] == (2, 2)
        np.testing.assert_array_equal(answer.arrays[0], [[1, 2], [5, 6]])


class TestBadInput:
    def test_a_label_out_of_range_makes_the_loss_no_number(self, make: Make) -> None:
        net = make(input_layer(2, 3) + input_layer(2, name="label") + layer("SoftmaxWithLoss", "data label", "loss"))
        scores = np.zeros((2, 3))
        for label in (3, -1):
            (loss,) = net.forward(given(net, data=scores, label=[0, label]), [net.data("loss")])
            assert np.isnan(loss)
        (loss,) = net.forward(given(net, data=scores, label=[0, 2]), [net.data("loss")])
        assert loss == pytest.approx(np.log(3))

    def test_an_index_out_of_range_is_refused_with_the_range(self, make: Make) -> None:
        net = make(input_layer(2) + layer("Embed", "data", "out", "embed_param { num_output: 2 input_dim: 5 }"))
        with pytest.raises(InvalidArgument, match=r"layer 'out' \(Embed\): .*from 1 to 5; 0 to 4 is allowed"):
            net.forward(given(net, data=[1, 5]))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (layer("Accuracy", "data label", "acc"), r"layer 'acc' \(Accuracy\): it cannot run backwards"),
            (layer("ArgMax", "data", "max") + layer("Silence", "label", "", name="s"), "it cannot run backwards"),
            (
                layer("SoftmaxWithLoss", "data label", "loss", "propagate_down: true propagate_down: true"),
                r"layer 'loss' \(SoftmaxWithLoss\): no diff can reach bottom 1",
            ),
        ],
    )
    def test_where_real_caffe_aborts_in_backward_a_typed_error_names_the_layer(
        self, make: Make, text: str, message: str
    ) -> None:
        net = make("force_backward: true " + input_layer(2, 3) + input_layer(2, name="label") + text)
        net.forward(given(net, label=[0, 1]))
        with pytest.raises(InvalidArgument, match=message):
            net.run(Backward())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (layer("ReLU", "data", "a", "loss_weight: 1 loss_weight: 2"), "2 loss weights for 1 tops"),
            (layer("ReLU", "data", "a", "propagate_down: true propagate_down: true"), "propagate_down is given 2"),
            (layer("EuclideanLoss", "data label", "a"), r"\(2, 3\) and \(3,\)"),
            (layer("SoftmaxWithLoss", "data label", "a"), r"need 2 labels .* not shape \(3,\)"),
            (layer("Dropout", "data", "a", "dropout_param { dropout_ratio: 1 }"), "dropout_ratio must be between"),
            (layer("Tile", "data", "a"), "tiles must be positive"),
            (layer("ArgMax", "data", "a", "argmax_param { top_k: 4 }"), "top_k must be 1 to 3, not 4"),
            (layer("Exp", "data", "a", "exp_param { base: -2 }"), "base must be positive"),
            (layer("LSTM", "data label", "a", "recurrent_param { num_output: 2 }"), "indicators of shape"),
            (layer("BatchNorm", "data", "a", "param { lr_mult: 1 }"), "lr_mult of its statistics must be 0"),
            (layer("InfogainLoss", "data label", "a", 'infogain_loss_param { source: "h" }'), "labels"),
        ],
    )
    def test_a_net_that_cannot_be_is_refused_with_layer_and_shapes(self, make: Make, text: str, message: str) -> None:
        with pytest.raises(InvalidModel, match=rf"layer 'a' .*{message}"):
            make(input_layer(2, 3) + input_layer(3, name="label") + text)


def test_a_loss_without_a_top_is_one_all_the_same(make: Make) -> None:
    net = make(input_layer(1, 2) + input_layer(1, 2, name="b") + layer("EuclideanLoss", "data b", "", name="loss"))
    assert net.blobs[-1] == "(automatic)"
    assert net.description.outputs == ()


INFOGAIN = (
    input_layer(2, 3)
    + input_layer(2, name="label")
    + layer("InfogainLoss", "data label", "loss", 'infogain_loss_param { source: "h.binaryproto" }')
)


class TestInfogainFiles:
    def load(self, executor: CaffeExecutor, *contents: bytes, named: tuple[str, ...] = ("h.binaryproto",)) -> Net:
        request = LoadNet("net.prototxt", files=named)
        parts = [np.frombuffer(part, np.uint8) for part in (INFOGAIN.encode(), *contents)]
        net = Net.__new__(Net)
        net.model, answer = executor.load(msgspec.msgpack.encode(request), parts, {})
        net.description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=NetDescription)
        net.blobs = [blob.name for blob in net.description.blobs]
        return net

    def matrix(self, *shape: int) -> bytes:
        values = 2 * np.eye(*shape[-2:], dtype=np.float32).ravel()
        blob: bytes = message_class("BlobProto")(shape={"dim": list(shape)}, data=values).SerializeToString()
        return blob

    def test_a_matrix_in_a_file_weighs_the_loss(self, executor: CaffeExecutor) -> None:
        net = self.load(executor, self.matrix(1, 1, 3, 3))
        (loss,) = net.forward(given(net, data=np.zeros((2, 3)), label=[0, 2]), [net.data("loss")])
        assert loss == pytest.approx(2 * np.log(3))

    def test_a_matrix_of_another_size_is_refused(self, executor: CaffeExecutor) -> None:
        with pytest.raises(InvalidModel, match=r"infogain matrix has shape \(2, 2\); 3 × 3 values are needed"):
            self.load(executor, self.matrix(2, 2))

    def test_a_damaged_file_is_refused(self, executor: CaffeExecutor) -> None:
        with pytest.raises(InvalidModel, match=r"h\.binaryproto"):
            self.load(executor, self.matrix(3, 3)[:-5])

    def test_a_file_that_did_not_come_is_refused(self, executor: CaffeExecutor) -> None:
        with pytest.raises(InvalidModel, match=r"'h\.binaryproto' of the infogain matrix did not come"):
            self.load(executor, named=())
