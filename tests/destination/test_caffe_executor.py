"""What the Caffe executor does beside numbers: loading, weights, shared memory, shapes, partial passes, refusals.

Numbers are compared with real Caffe in test_caffe_goldens.py.
"""

from __future__ import annotations

import resource
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import (
    AcceleratorOutOfMemory,
    AvecError,
    InvalidArgument,
    InvalidModel,
    UnsupportedOperation,
)
from avec.protocol import caffe as protocol
from avec.protocol.caffe import BlobRef, CopyFrom, Forward, Read, Reshape, Reshaped
from destination.caffe_net import Net, caffemodel, input_layer, layer, told

TWO_LAYERS = (
    input_layer(2, 3)
    + layer("InnerProduct", "data", "fc", "inner_product_param { num_output: 4 }")
    + layer("ReLU", "fc", "fc", name="act")
)
CHAIN = input_layer(1, 2) + "".join(
    layer("Scale", a, b, "scale_param { filler { value: 2 } }") for a, b in (("data", "a"), ("a", "b"), ("b", "c"))
)


def ones(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


@pytest.fixture(scope="module")
def executor() -> CaffeExecutor:
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


@pytest.fixture
def make(executor: CaffeExecutor) -> Callable[..., Net]:
    return partial(Net, executor)


class TestLoading:
    def test_the_description_names_layers_blobs_inputs_and_outputs(self, make: Callable[..., Net]) -> None:
        found = make('name: "small"\n' + TWO_LAYERS).description
        assert found.name == "small"
        assert [(each.name, each.type, each.bottoms, each.tops) for each in found.layers] == [
            ("data", "Input", (), (0,)),
            ("fc", "InnerProduct", (0,), (1,)),
            ("act", "ReLU", (1,), (1,)),
        ]
        assert [each.shape for each in found.layers[1].parameters] == [(4, 3), (4,)]
        assert [(blob.name, blob.shape) for blob in found.blobs] == [("data", (2, 3)), ("fc", (2, 4))]
        assert (found.inputs, found.outputs) == ((0,), (1,))

    def test_outputs_are_in_the_order_of_their_names(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(1, 2) + layer("ReLU", "data", "z") + layer("ReLU", "data", "a"))
        assert [net.blobs[place] for place in net.description.outputs] == ["a", "z"]

    def test_phase_level_and_stages_choose_layers(self, make: Callable[..., Net]) -> None:
        text = input_layer(1, 2) + layer("ReLU", "data", "a", 'include { stage: "deploy" min_level: 1 phase: TRAIN }')
        assert make(text).layers == ["data"]
        assert make(text, phase="TRAIN", level=1, stages=("deploy",)).layers == ["data", "a"]

    def test_an_unsupported_layer_is_refused_by_name_with_what_is_supported(self, make: Callable[..., Net]) -> None:
        with pytest.raises(UnsupportedOperation, match=r"net\.prototxt: .* Mystery \(layer 'memory'\).*Convolution"):
            make(input_layer(1, 2) + layer("Mystery", "data", "memory"))

    @pytest.mark.parametrize(
        ("body", "arrays"),
        [
            (b"\xc1", [np.zeros(1, np.uint8)]),
            (msgspec.msgpack.encode(["net", "source", "", "NEITHER"]), [np.zeros(1, np.uint8)]),
            (msgspec.msgpack.encode(protocol.LoadNet("net")), []),
            (msgspec.msgpack.encode(protocol.LoadNet("net")), [np.zeros(1, np.float32)]),
        ],
    )
    def test_a_malformed_request_is_refused(self, executor: CaffeExecutor, body: bytes, arrays: list[Any]) -> None:
        with pytest.raises(InvalidArgument):
            executor.load(body, arrays, {})

    def test_a_net_that_is_not_text_is_refused(self, executor: CaffeExecutor) -> None:
        body = msgspec.msgpack.encode(protocol.LoadNet("net.bin"))
        with pytest.raises(InvalidModel, match=r"net\.bin: byte 0 is not UTF-8"):
            executor.load(body, [np.array([255, 254], np.uint8)], {})

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "no layers"),
            (input_layer(1, 2) + layer("ReLU", "data", "a b"), r"layer 'a' \(ReLU\) has 2 tops; 1 are needed"),
            (input_layer(1, -2), "negative dimension"),
            (input_layer(1 << 20, 1 << 20), "the limit is 2147483647"),
            (input_layer(*[1] * 33), "33 axes; the limit is 32"),
            (
                input_layer(1, 2) + layer("Scale", "data", "a", "param { } param { }"),
                "2 param entries for 1 learnable",
            ),
            (
                input_layer(1, 2) + layer("Scale", "data", "a", 'scale_param { filler { type: "odd" } }'),
                r"layer 'a' \(Scale\): filler 'odd'.*bilinear",
            ),
            (
                input_layer(1, 2, 4, 4) + layer("Pooling", "data", "data", "pooling_param { kernel_size: 2 }"),
                r"works in place, but would change shape \(1, 2, 4, 4\) to \(1, 2, 3, 3\)",
            ),
            (
                input_layer(1, 2, 0, 4) + layer("LRN", "data", "a"),
                r"a bottom of shape \(1, 2, 0, 4\) holds nothing",
            ),
            (
                input_layer(1, 2, 3) + layer("Convolution", "data", "a", "convolution_param { num_output: 1 }"),
                "kernel_size is given 0 times",
            ),
            (
                input_layer(1, 2, 3, 3)
                + layer("Convolution", "data", "a", "convolution_param { num_output: 1 kernel_size: 5 }"),
                r"kernel \(5, 5\) with pad \(0, 0\) leaves nothing of a bottom of shape \(1, 2, 3, 3\)",
            ),
        ],
    )
    def test_a_net_that_does_not_fit_together_is_refused(
        self, make: Callable[..., Net], text: str, reason: str
    ) -> None:
        with pytest.raises(InvalidModel, match=rf"^net\.prototxt: .*{reason}"):
            make(text)

    def test_parameters_in_the_prototxt_are_used(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(1, 2) + layer("Scale", "data", "a", "blobs { shape { dim: 2 } data: [3, 4] }"))
        assert net.forward({net.data("data"): ones(1, 2)}, [net.data("a")])[0].tolist() == [[3, 4]]


class TestWeights:
    def test_are_copied_by_layer_name(self, make: Callable[..., Net], tmp_path: Path) -> None:
        weights = caffemodel(
            tmp_path / "w",
            {
                "elsewhere": [{"shape": {"dim": [1]}, "data": [9]}],
                "fc": [
                    {"shape": {"dim": [4, 3]}, "data": np.arange(12, dtype=np.float32)},
                    {"shape": {"dim": [4]}, "data": [0, 0, 0, -100]},
                ],
            },
        )
        net = make(TWO_LAYERS, weights)
        result = net.forward({net.data("data"): ones(2, 3)}, [net.data("fc")])[0]
        assert result.tolist() == [[3, 12, 21, 0]] * 2

    def test_old_shapes_of_four_axes_are_accepted(self, make: Callable[..., Net], tmp_path: Path) -> None:
        old = {"num": 1, "channels": 1, "height": 4, "width": 3, "data": np.arange(12, dtype=np.float32)}
        bias = {"num": 1, "channels": 1, "height": 1, "width": 4, "data": ones(4)}
        net = make(TWO_LAYERS, caffemodel(tmp_path / "w", {"fc": [old, bias]}))
        np.testing.assert_array_equal(net.read(net.parameter("fc"))[0], np.arange(12).reshape(4, 3))

    def test_double_data_is_converted(self, make: Callable[..., Net], tmp_path: Path) -> None:
        blobs = [
            {"shape": {"dim": [4, 3]}, "double_data": np.full(12, 0.1)},
            {"shape": {"dim": [4]}, "double_data": np.zeros(4)},
        ]
        net = make(TWO_LAYERS, caffemodel(tmp_path / "w", {"fc": blobs}))
        assert (net.read(net.parameter("fc"))[0] == np.float32(0.1)).all()

    @pytest.mark.parametrize(
        ("blobs", "reason"),
        [
            ([], r"has 0 parameters in this file, but 2 in the net"),
            ([{"shape": {"dim": [3, 4]}}, {}], r"parameter 0 .* has shape \(3, 4\) in this file, but \(4, 3\)"),
            ([{"num": 4, "channels": 3, "height": 1, "width": 1}, {}], r"has shape \(4, 3, 1, 1\) in this file"),
            ([{"shape": {"dim": [4, 3]}, "data": [1, 2]}, {}], r"has shape \(4, 3\) but 2 values"),
            (
                [{"shape": {"dim": [4, 3]}, "data": np.zeros(12)}, {"shape": {"dim": [5]}}],
                r"parameter 1 of layer 'fc' \(InnerProduct\) has shape \(5,\) in this file, but \(4,\) in the net",
            ),
        ],
    )
    def test_that_do_not_fit_are_refused(
        self, make: Callable[..., Net], tmp_path: Path, blobs: list[Any], reason: str
    ) -> None:
        with pytest.raises(InvalidModel, match=r"^net\.caffemodel: .*" + reason):
            make(TWO_LAYERS, caffemodel(tmp_path / "w", {"fc": blobs}))

    def test_of_another_net_leave_this_one_as_it_was(self, make: Callable[..., Net], tmp_path: Path) -> None:
        net = make(CHAIN)
        bad = caffemodel(tmp_path / "w", {"a": [{"shape": {"dim": [2]}, "data": [7, 7]}], "c": []})
        with pytest.raises(InvalidModel, match="'c'"):
            net.run(CopyFrom(source="w"), files={protocol.WEIGHTS: bad})
        assert net.forward({net.data("data"): ones(1, 2)}, [net.data("c")])[0].tolist() == [[8, 8]]

    def test_are_copied_into_a_living_net(self, make: Callable[..., Net], tmp_path: Path) -> None:
        net = make(CHAIN)
        good = caffemodel(tmp_path / "w", {"b": [{"shape": {"dim": [2]}, "data": [3, 5]}]})
        net.run(CopyFrom(source="w"), files={protocol.WEIGHTS: good})
        assert net.forward({net.data("data"): ones(1, 2)}, [net.data("c")])[0].tolist() == [[12, 20]]

    def test_are_missing_from_the_request(self, make: Callable[..., Net]) -> None:
        with pytest.raises(InvalidArgument, match="names no weights file"):
            make(CHAIN).run(CopyFrom(source="w"))

    @pytest.mark.parametrize(
        ("content", "error"),
        [(b"", InvalidModel), (b"\x89HDF\r\n\x1a\n", UnsupportedOperation), (b"\xa2\x06\x7f", InvalidModel)],
    )
    def test_files_of_other_kinds(
        self, make: Callable[..., Net], tmp_path: Path, content: bytes, error: type[AvecError]
    ) -> None:
        path = tmp_path / "w"
        path.write_bytes(content)
        with pytest.raises(error, match=r"^net\.caffemodel: "):
            make(CHAIN, path)

    def test_shared_by_name_are_one_memory(self, make: Callable[..., Net]) -> None:
        shared = 'param { name: "s" }'
        net = make(input_layer(1, 2) + layer("Scale", "data", "a", shared) + layer("Scale", "a", "b", shared))
        result = net.forward({net.data("data"): ones(1, 2), net.parameter("a"): np.float32([3, 5])}, [net.data("b")])
        assert result[0].tolist() == [[9, 25]]
        assert net.read(net.parameter("b"))[0].tolist() == [3, 5]

    def test_shared_by_name_must_have_one_shape(self, make: Callable[..., Net]) -> None:
        dense = 'inner_product_param { num_output: %d bias_term: false } param { name: "s" }'
        text = input_layer(1, 2) + layer("InnerProduct", "data", "a", dense % 3)
        with pytest.raises(InvalidModel, match=r"shares parameter 's' with layer 'a', but needs shape \(2, 3\)"):
            make(text + layer("InnerProduct", "a", "b", dense % 2))

    def test_shared_permissively_need_only_as_many_values(self, make: Callable[..., Net]) -> None:
        dense = 'inner_product_param { num_output: %d bias_term: false } param { name: "s" share_mode: PERMISSIVE }'
        text = input_layer(1, 2) + layer("InnerProduct", "data", "a", dense % 3)
        net = make(text + layer("InnerProduct", "a", "b", dense % 2))
        net.run(Read(writes=(net.parameter("b"),)), [np.arange(6, dtype=np.float32).reshape(2, 3)])
        assert net.read(net.parameter("a"))[0].tolist() == [[0, 1], [2, 3], [4, 5]]


class TestFillers:
    def filled(self, make: Callable[..., Net], filler: str, outputs: int = 50, inputs: int = 80) -> Any:
        dense = f"inner_product_param {{ num_output: {outputs} bias_term: false weight_filler {{ {filler} }} }}"
        net = make(input_layer(1, inputs) + layer("InnerProduct", "data", "fc", dense))
        return net.read(net.parameter("fc"))[0]

    def test_give_the_same_values_each_time(self, make: Callable[..., Net]) -> None:
        first, second = (self.filled(make, 'type: "gaussian"') for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_a_seed_of_the_application_changes_them(self, make: Callable[..., Net]) -> None:
        default = self.filled(make, 'type: "gaussian"')
        seeded = [self.filled(partial(make, seed=seed), 'type: "gaussian"') for seed in (3, 3, 4)]
        np.testing.assert_array_equal(seeded[0], seeded[1])
        assert len({float(values[0, 0]) for values in [default, *seeded[1:]]}) == 3

    def test_constant(self, make: Callable[..., Net]) -> None:
        assert (self.filled(make, "value: 3") == 3).all()

    def test_uniform(self, make: Callable[..., Net]) -> None:
        values = self.filled(make, 'type: "uniform" min: 2 max: 4')
        assert 2 <= values.min() < 2.1 and 3.9 < values.max() <= 4

    def test_gaussian(self, make: Callable[..., Net]) -> None:
        values = self.filled(make, 'type: "gaussian" mean: 5 std: 2')
        assert abs(values.mean() - 5) < 0.15 and abs(values.std() - 2) < 0.1

    def test_sparse_gaussian(self, make: Callable[..., Net]) -> None:
        values = self.filled(make, 'type: "gaussian" sparse: 5')
        assert 0.08 < (values != 0).mean() < 0.12  # 5 of 50 outputs for each input

    @pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 80), ("FAN_OUT", 50), ("AVERAGE", 65)])
    def test_xavier(self, make: Callable[..., Net], norm: str, fan: int) -> None:
        values = self.filled(make, f'type: "xavier" variance_norm: {norm}')
        reach = np.sqrt(3 / fan)
        assert 0.98 * reach < np.abs(values).max() <= reach

    def test_msra(self, make: Callable[..., Net]) -> None:
        assert abs(self.filled(make, 'type: "msra"').std() - np.sqrt(2 / 80)) < 0.01

    def test_positive_unitball(self, make: Callable[..., Net]) -> None:
        values = self.filled(make, 'type: "positive_unitball"')
        assert values.min() >= 0
        np.testing.assert_allclose(values.sum(1), 1, rtol=1e-5)

    def test_bilinear_upsamples(self, make: Callable[..., Net]) -> None:
        deconvolution = (
            "convolution_param { num_output: 1 kernel_size: 4 stride: 2 pad: 1 bias_term: false "
            'weight_filler { type: "bilinear" } }'
        )
        net = make(input_layer(1, 1, 3, 3) + layer("Deconvolution", "data", "up", deconvolution))
        kernel = net.read(net.parameter("up"))[0][0, 0]
        np.testing.assert_allclose(kernel, np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25]))


class TestForward:
    def test_all_blobs_can_be_read_afterwards(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        net.forward({net.data("data"): ones(1, 2)})
        read = net.read(*(net.data(blob) for blob in net.blobs))
        assert [values.tolist() for values in read] == [[[1, 1]], [[2, 2]], [[4, 4]], [[8, 8]]]

    def test_blobs_begin_with_zeros(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        assert net.read(net.data("b"))[0].tolist() == [[0, 0]]
        assert net.read(BlobRef(1, diff=True))[0].tolist() == [[0, 0]]

    def test_diffs_keep_what_is_written(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        ref = BlobRef(0, layer=1, diff=True)
        net.run(Read(writes=(ref,)), [np.float32([1, 2])])
        assert net.read(ref, net.parameter("a"))[0].tolist() == [1, 2]

    def test_from_a_layer_takes_what_is_in_its_bottom(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        result = net.forward({net.data("b"): np.float32([[5, 6]])}, [net.data("c")], start=3)
        assert result[0].tolist() == [[10, 12]]

    def test_up_to_a_layer_leaves_the_rest_alone(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        net.forward({net.data("data"): ones(1, 2)})
        result = net.forward({net.data("data"): ones(1, 2) * 3}, [net.data("b"), net.data("c")], end=2)
        assert [values.tolist() for values in result] == [[[12, 12]], [[8, 8]]]

    def test_over_no_layers_does_nothing(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        assert net.forward({net.data("b"): ones(1, 2)}, [net.data("c")], start=3, end=2)[0].tolist() == [[0, 0]]

    def test_a_write_is_copied(self, make: Callable[..., Net]) -> None:
        net, given = make(CHAIN), ones(1, 2)
        net.run(Read(writes=(net.data("data"),)), [given])
        given[...] = 100
        assert net.forward(wanted=[net.data("c")])[0].tolist() == [[8, 8]]

    def test_read_only_parts_are_taken(self, make: Callable[..., Net]) -> None:
        net, given = make(CHAIN), ones(1, 2)
        given.flags.writeable = False
        assert net.forward({net.data("data"): given}, [net.data("c")])[0].tolist() == [[8, 8]]

    def test_operators_are_counted_and_views_are_not(self, make: Callable[..., Net]) -> None:
        text = TWO_LAYERS + layer("Flatten", "fc", "flat") + layer("Sigmoid", "flat", "out")
        net = make(text)
        first, second = (net.run(Forward()).kernels for _ in range(2))
        assert first == second == 3  # the matrix product with its bias, ReLU, Sigmoid

    def test_batch_norm_sees_new_statistics(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(1, 1, 1, 2) + layer("BatchNorm", "data", "out", "batch_norm_param { eps: 0 }"))
        statistics = {net.parameter("out", 1): ones(1), net.parameter("out", 2): ones(1)}
        data = {net.data("data"): np.float32([[[[2, 4]]]])}
        assert net.forward(statistics | data, [net.data("out")])[0].ravel().tolist() == [2, 4]
        assert net.forward({net.parameter("out"): ones(1)}, [net.data("out")])[0].ravel().tolist() == [1, 3]

    def test_dropout_in_training_keeps_the_mean(self, make: Callable[..., Net]) -> None:
        net = make(
            input_layer(1, 10000) + layer("Dropout", "data", "out", "dropout_param { dropout_ratio: 0.25 }"),
            phase="TRAIN",
        )
        result = net.forward({net.data("data"): ones(1, 10000)}, [net.data("out")])[0]
        np.testing.assert_allclose(np.unique(result), [0, 1 / 0.75], rtol=1e-6)
        assert 0.22 < (result == 0).mean() < 0.28

    def test_the_mask_of_maximum_pooling(self, make: Callable[..., Net]) -> None:
        net = make(
            input_layer(1, 1, 3, 3) + layer("Pooling", "data", "top mask", "pooling_param { kernel_size: 2 stride: 2 }")
        )
        image = np.float32([[[[1, 9, 2], [3, 4, 5], [6, 7, 8]]]])
        top, mask = net.forward({net.data("data"): image}, [net.data("top"), net.data("mask")])
        assert top.ravel().tolist() == [9, 5, 7, 8]
        assert mask.ravel().tolist() == [1, 5, 7, 8]

    def test_rounding_down_in_pooling(self, make: Callable[..., Net]) -> None:
        pooling = "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }"
        assert make(input_layer(1, 1, 5, 5) + layer("Pooling", "data", "p", pooling)).description.blobs[1].shape == (
            1, 1, 2, 2,
        )  # fmt: skip

    @pytest.mark.parametrize("shape", [(2, 4, 7), (2, 4, 5, 4, 3), (2, 3, 4, 5, 5)])
    def test_convolution_over_other_numbers_of_axes(self, make: Callable[..., Net], shape: tuple[int, ...]) -> None:
        axis = 2 if shape[1] == 3 else 1  # the last case has its channels on axis 2
        setting = f"num_output: 6 kernel_size: 3 pad: 1 axis: {axis} group: 2"
        more = f'convolution_param {{ {setting} weight_filler {{ type: "xavier" }} }}'
        net = make(input_layer(*shape) + layer("Convolution", "data", "out", more))
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        result = net.forward({net.data("data"): x}, [net.data("out")])[0]
        weight = torch.from_numpy(net.read(net.parameter("out"))[0])
        flat = torch.from_numpy(x.reshape(-1, *shape[axis:]))
        convolve = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[flat.ndim]
        expected = convolve(flat, weight, padding=1, groups=2).numpy().reshape(*shape[:axis], 6, *shape[axis + 1 :])
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


class TestSharedMemory:
    def test_in_place_layers_share_their_blob(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(1, 2) + layer("ReLU", "data", "data", name="act"))
        result = net.forward({net.data("data"): np.float32([[-1, 1]])}, [net.data("data")])
        assert result[0].tolist() == [[0, 1]]

    def test_split_blobs_are_one_memory(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN + layer("ReLU", "data", "x"))
        net.forward({net.data("data"): ones(1, 2)})
        net.run(Read(writes=(net.data("data_data_0_split_1"),)), [np.float32([[5, 6]])])
        assert net.read(net.data("data"))[0].tolist() == [[5, 6]]

    @pytest.mark.parametrize(
        ("kind", "more", "shared"),
        [
            ("Flatten", "", True),
            ("Reshape", "reshape_param { shape { dim: 2 dim: -1 } }", True),
            ("Concat", "", True),
            ("Slice", "", True),
            ("Split", "", True),
            ("Dropout", "", False),
            ("Scale", "", False),
        ],
    )
    @pytest.mark.parametrize("after", ["ReLU", "PReLU", "Dropout", "Scale"])
    def test_in_place_work_on_shared_memory_reaches_the_source(
        self, make: Callable[..., Net], kind: str, more: str, shared: bool, after: str
    ) -> None:
        zero = {"PReLU": "prelu_param { filler { value: 0 } }", "Scale": "scale_param { filler { value: -1 } }"}
        text = input_layer(1, 2) + layer(kind, "data", "view", more)
        net = make(text + layer(after, "view", "view", zero.get(after, ""), name="after"))
        source, view = net.forward({net.data("data"): np.float32([[-1, 1]])}, [net.data("data"), net.data("view")])
        assert (source.ravel() == view.ravel()).all() == (shared or after == "Dropout")

    def test_slices_are_copies(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(1, 2) + layer("Slice", "data", "a b") + layer("ReLU", "a", "a", name="act"))
        result = net.forward({net.data("data"): np.float32([[-1, -1]])}, [net.data("data"), net.data("a")])
        assert [values.tolist() for values in result] == [[[-1, -1]], [[0]]]


class TestShapes:
    def test_a_reshaped_blob_changes_alone(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        answer = net.run(Read(reshaped=(net.reshape("data", 3, 2),)))
        assert told(answer) == ((3, 2), (1, 2), (1, 2), (1, 2))

    def test_the_rest_follows_at_reshape(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        assert told(net.run(Reshape(reshaped=(net.reshape("data", 3, 2),)))) == ((3, 2),) * 4

    def test_the_rest_follows_at_forward(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        data = net.data("data")
        answer = net.run(
            Forward(writes=(data,), reshaped=(net.reshape("data", 3, 2),), wanted=(net.data("c"),)), [ones(3, 2)]
        )
        assert told(answer) == ((3, 2),) * 4
        assert answer.arrays[0].tolist() == [[8, 8]] * 3

    def test_a_partial_forward_reshapes_only_its_layers(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        answer = net.run(Forward(reshaped=(net.reshape("data", 3, 2),), end=1))
        assert told(answer) == ((3, 2), (3, 2), (1, 2), (1, 2))
        assert told(net.run(Forward(start=2))) == ((3, 2),) * 4

    def test_are_told_once(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        request = Reshape(reshaped=(net.reshape("data", 3, 2),))
        assert told(net.run(request)) != ()
        assert told(net.run(request)) == ()
        assert told(net.run(Forward())) == ()

    def test_changing_there_and_back(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        for rows in (4, 2, 4, 1):
            reshaped = (net.reshape("data", rows, 2),)
            result = net.forward({net.data("data"): ones(rows, 2)}, [net.data("c")], reshaped=reshaped)
            assert result[0].tolist() == [[8, 8]] * rows

    def test_a_smaller_shape_keeps_the_memory_and_a_larger_one_is_new(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(2, 2) + layer("ReLU", "data", "out"))
        given = np.float32([[1, 2], [3, 4]])
        net.forward({net.data("data"): given})
        smaller = net.run(Read(reshaped=(net.reshape("data", 3),), wanted=(net.data("data"),)))
        assert smaller.arrays[0].tolist() == [1, 2, 3]
        larger = net.run(Read(reshaped=(net.reshape("data", 5),), wanted=(net.data("data"),)))
        assert larger.arrays[0].tolist() == [0] * 5

    def test_a_partial_reshape_stops_at_its_end(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        assert told(net.run(Reshape(reshaped=(net.reshape("data", 3, 2),), end=1))) == ((3, 2), (3, 2), (1, 2), (1, 2))

    def test_a_produced_blob_takes_its_producer_s_shape_again(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        answer = net.run(Forward(reshaped=(net.reshape("b", 7),)))
        assert told(answer) == ()
        assert net.read(net.data("b"))[0].shape == (1, 2)

    def test_that_a_layer_cannot_take_are_refused_and_the_net_goes_on(self, make: Callable[..., Net]) -> None:
        net = make(TWO_LAYERS)
        with pytest.raises(InvalidArgument, match=r"layer 'fc' \(InnerProduct\): .*\(2, 5\) gives 5 .* are for 3"):
            net.run(Reshape(reshaped=(net.reshape("data", 2, 5),)))
        net.forward({net.data("data"): ones(1, 3)}, [net.data("fc")], reshaped=(net.reshape("data", 1, 3),))
        assert net.read(net.data("fc"))[0].shape == (1, 4)


BAD_REQUESTS: dict[str, tuple[Any, list[Any], str]] = {
    "no msgpack": (b"\xc1", [], "cannot be understood"),
    "unknown kind": (msgspec.msgpack.encode(["sideways"]), [], "cannot be understood"),
    "wrong type": (msgspec.msgpack.encode(["forward", [], [], "0"]), [], "cannot be understood"),
    "start beyond the net": (Forward(start=4), [], "from layer 4 to 3: the net has layers 0 to 3"),
    "negative start": (Forward(start=-1), [], "from layer -1"),
    "reshape beyond the net": (Reshape(end=4), [], "reshape from layer 0 to 4: the net has layers 0 to 3"),
    "end beyond the net": (Forward(end=4), [], "to 4"),
    "negative end": (Forward(end=-2), [], "to -2"),
    "wanted blob": (Read(wanted=(BlobRef(4),)), [], "no blob 4: they are numbered 0 to 3"),
    "negative blob": (Read(wanted=(BlobRef(-1),)), [], "no blob -1"),
    "wanted layer": (Read(wanted=(BlobRef(0, 9),)), [], "no layer 9"),
    "negative layer": (Read(wanted=(BlobRef(0, -2),)), [], "no layer -2"),
    "wanted parameter": (Read(wanted=(BlobRef(1, 1),)), [], "no parameter of layer 'a' 1"),
    "parameter of a layer without": (Read(wanted=(BlobRef(0, 0),)), [], "layer 'data'"),
    "reshaped blob": (Read(reshaped=(Reshaped(4, (1,)),)), [], "no blob 4"),
    "negative dimension": (Read(reshaped=(Reshaped(0, (-1,)),)), [], "negative dimension"),
    "too many axes": (Read(reshaped=(Reshaped(0, (1,) * 33),)), [], "the limit is 32"),
    "too many values": (Read(reshaped=(Reshaped(0, (1 << 31,)),)), [], "the limit is 2147483647"),
    "product beyond 64 bits": (Read(reshaped=(Reshaped(0, (1 << 40, 1 << 40)),)), [], "the limit is 2147483647"),
    "a write without its part": (Read(writes=(BlobRef(0),)), [], "1 writes came with 0 parts"),
    "a part without its write": (Read(), [ones(1, 2)], "0 writes came with 1 parts"),
    "a write too large": (Read(writes=(BlobRef(0),)), [ones(1, 3)], "written with 3 values .* 2 values of float32"),
    "a write too small": (Read(writes=(BlobRef(0),)), [ones(1)], "data of blob 'data' of shape"),
    "a write of doubles": (Read(writes=(BlobRef(0),)), [np.ones((1, 2))], "of float64; 2 values of float32"),
    "a write of a parameter": (Read(writes=(BlobRef(0, 1),)), [ones(3)], "parameter 0 of layer 'a'"),
    "a write into the unknown": (Read(writes=(BlobRef(9),)), [ones(1)], "no blob 9"),
}


class TestBadRequests:
    @pytest.mark.parametrize(("request_", "arrays", "reason"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
    def test_is_refused_and_the_net_goes_on(
        self, make: Callable[..., Net], request_: Any, arrays: list[Any], reason: str
    ) -> None:
        net = make(CHAIN)
        body = request_ if isinstance(request_, bytes) else msgspec.msgpack.encode(request_)
        with pytest.raises(InvalidArgument, match=reason):
            net.model.run(body, arrays, {})
        assert net.forward({net.data("data"): ones(1, 2)}, [net.data("c")])[0].tolist() == [[8, 8]]


@contextmanager
def address_space_left(nbytes: int) -> Iterator[None]:
    """Let this process allocate only so much more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
class TestMemory:
    def test_a_layer_without_room_is_named(self, make: Callable[..., Net]) -> None:
        net = make(input_layer(1, 1) + layer("Concat", "data data data data", "wide"))
        net.forward({net.data("data"): ones(1, 1)})
        reshaped = (net.reshape("data", 8192, 8192),)
        net.run(Read(reshaped=reshaped, wanted=(net.data("data"),)))
        with address_space_left(300 << 20), pytest.raises(AcceleratorOutOfMemory) as caught:
            net.run(Forward())
        assert "layer 'wide' (Concat)" in str(caught.value)
        assert "(8192, 32768)" in str(caught.value)
        small = (net.reshape("data", 1, 1),)
        assert net.forward({net.data("data"): ones(1, 1)}, [net.data("wide")], reshaped=small)[0].shape == (1, 4)

    def test_parameters_without_room(self, make: Callable[..., Net]) -> None:
        text = input_layer(1, 1 << 14) + layer(
            "InnerProduct", "data", "fc", "inner_product_param { num_output: 16384 }"
        )
        with address_space_left(300 << 20), pytest.raises(AcceleratorOutOfMemory, match=r"net\.prototxt"):
            make(text)

    def test_close_lets_go_of_blobs_and_parameters(self, make: Callable[..., Net]) -> None:
        net = make(CHAIN)
        net.forward({net.data("data"): ones(1, 2)})
        held = [net.model.layers[1].parameters[0], net.model.memory.blobs[-1]]
        gone = [weakref.ref(tensor) for tensor in held]
        held.clear()
        net.model.close()
        assert [reference() for reference in gone] == [None, None]
