"""What happens to a net before it is built: upgrades of old files, include and exclude rules, splits."""

from __future__ import annotations

import numpy as np
import pytest

from avec.errors import InvalidModel, UnsupportedOperation
from avec.formats.caffe.filter import filter_net
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.splits import insert_splits
from avec.formats.caffe.upgrade import upgrade_net

NetParameter = message_class("NetParameter")


def net(text: str) -> Message:
    return NetParameter.from_text(text, "net.prototxt")


def upgraded(text: str) -> Message:
    found = net(text)
    upgrade_net(found, "net.prototxt")
    return found


class TestUpgrade:
    def test_input_dims_become_an_input_layer_at_the_front(self) -> None:
        found = upgraded('input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8] layer { name: "r" type: "ReLU" }')
        assert found == net(
            'layer { name: "input" type: "Input" top: "a" top: "b" input_param { shape { dim: [1, 2, 3, 4] } '
            'shape { dim: [5, 6, 7, 8] } } } layer { name: "r" type: "ReLU" }'
        )

    def test_input_shapes_may_have_any_rank(self) -> None:
        found = upgraded('input: "a" input_shape { dim: 2 dim: 3 }')
        assert list(found.layer[0].input_param.shape[0].dim) == [2, 3]

    def test_inputs_without_shapes_are_dropped(self) -> None:
        assert upgraded('input: "a" name: "n"') == net('name: "n"')

    @pytest.mark.parametrize("given", ["input_dim: [1, 2, 3]", 'input: "b" input_shape { dim: 1 }'])
    def test_inputs_with_too_few_shapes_are_refused(self, given: str) -> None:
        with pytest.raises(InvalidModel, match="net.prototxt: . inputs but shapes for"):
            upgraded(f'input: "a" {given}')

    def test_v1_layers(self) -> None:
        found = upgraded(
            'layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" blobs_lr: 1 blobs_lr: 2 weight_decay: 3 '
            "weight_decay: 0 loss_weight: 1 convolution_param { num_output: 4 } include { phase: TEST } "
            'param: "shared" blob_share_mode: PERMISSIVE }'
        )
        assert found == net(
            'layer { name: "c" type: "Convolution" bottom: "x" top: "y" loss_weight: 1 '
            'param { name: "shared" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 3 } '
            "param { lr_mult: 2 decay_mult: 0 } convolution_param { num_output: 4 } include { phase: TEST } }"
        )

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("INNER_PRODUCT", "InnerProduct"),
            ("LRN", "LRN"),
            ("RELU", "ReLU"),
            ("TANH", "TanH"),
            ("SOFTMAX_LOSS", "SoftmaxWithLoss"),
            ("SIGMOID_CROSS_ENTROPY_LOSS", "SigmoidCrossEntropyLoss"),
            ("HDF5_OUTPUT", "HDF5Output"),
            ("IM2COL", "Im2col"),
            ("ABSVAL", "AbsVal"),
            ("ARGMAX", "ArgMax"),
            ("DUMMY_DATA", "DummyData"),
            ("MVN", "MVN"),
            ("BNLL", "BNLL"),
            ("NONE", ""),
        ],
    )
    def test_v1_type_names(self, old: str, new: str) -> None:
        assert upgraded(f"layers {{ type: {old} }}").layer[0].type == new

    def test_v1_weights_keep_their_arrays(self) -> None:
        old = NetParameter(layers=[{"name": "c", "blobs": [{"num": 1, "data": np.arange(3.0)}]}])
        found = NetParameter.from_wire(old.SerializeToString(), "old.caffemodel")
        upgrade_net(found, "old.caffemodel")
        assert list(found.layer[0].blobs[0].data) == [0, 1, 2]
        assert found.layer[0].blobs[0].HasField("num")

    def test_a_net_with_both_kinds_of_layers_is_refused(self) -> None:
        with pytest.raises(InvalidModel, match="both 'layer' and 'layers'"):
            upgraded('layer { name: "a" } layers { name: "b" }')

    def test_v0_is_refused_with_the_tool_that_helps(self) -> None:
        with pytest.raises(UnsupportedOperation, match="upgrade_net_proto_text"):
            upgraded('layers { layer { name: "a" type: "conv" } bottom: "x" top: "y" }')

    def test_transformations_of_old_data_layers_move(self) -> None:
        found = upgraded("layers { type: DATA data_param { scale: 0.5 mirror: true crop_size: 7 batch_size: 2 } }")
        assert found == net(
            'layer { type: "Data" data_param { batch_size: 2 } '
            "transform_param { scale: 0.5 mirror: true crop_size: 7 } }"
        )

    def test_old_batch_norm_params_are_fixed(self) -> None:
        found = upgraded('layer { type: "BatchNorm" param { lr_mult: 1 } param { } param { decay_mult: 2 } }')
        assert found == net(
            'layer { type: "BatchNorm" ' + "param { lr_mult: 0 decay_mult: 0 } " * 3 + "}",
        )


class TestFilter:
    @pytest.mark.parametrize(
        ("rules", "stays"),
        [
            ("", True),
            ("include { phase: TEST }", True),
            ("include { phase: TRAIN }", False),
            ("include { phase: TRAIN } include { min_level: 2 }", True),
            ("include { min_level: 3 }", False),
            ("include { max_level: 2 }", True),
            ("include { max_level: 1 }", False),
            ('include { stage: "a" }', True),
            ('include { stage: "a" stage: "c" }', False),
            ('include { not_stage: "a" }', False),
            ('include { not_stage: "c" }', True),
            ('include { phase: TEST stage: "b" not_stage: "c" }', True),
            ("exclude { phase: TEST }", False),
            ("exclude { phase: TRAIN }", True),
            ('exclude { phase: TRAIN } exclude { stage: "b" }', False),
            ('exclude { stage: "a" stage: "c" }', True),
        ],
    )
    def test_rules(self, rules: str, stays: bool) -> None:
        found = net(f'state {{ phase: TEST level: 2 stage: "a" stage: "b" }} layer {{ name: "x" {rules} }}')
        filter_net(found, "net.prototxt")
        assert (len(found.layer) == 1) is stays

    def test_both_kinds_of_rules_are_refused(self) -> None:
        with pytest.raises(InvalidModel, match="layer 'x' has include and exclude rules"):
            filter_net(net('layer { name: "x" include { } exclude { } }'), "net.prototxt")


def layer(name: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    lists = "".join(f' bottom: "{blob}"' for blob in bottoms.split())
    lists += "".join(f' top: "{blob}"' for blob in tops.split())
    return f'layer {{ name: "{name}"{lists} {more} }} '


class TestSplits:
    def test_one_reader_needs_none(self) -> None:
        found = net(layer("in", "", "a") + layer("r", "a", "a") + layer("s", "a", "b"))
        assert insert_splits(found, "net") == found

    def test_two_readers_get_a_copy_each(self) -> None:
        found = insert_splits(net(layer("in", "", "z a") + layer("r", "a", "b") + layer("s", "a", "c")), "net")
        split = layer("a_in_1_split", "a", "a_in_1_split_0 a_in_1_split_1", 'type: "Split"')
        assert found == net(
            layer("in", "", "z a") + split + layer("r", "a_in_1_split_0", "b") + layer("s", "a_in_1_split_1", "c")
        )

    def test_a_blob_changed_in_place_is_split_after_its_last_writer(self) -> None:
        text = layer("in", "", "a") + layer("relu", "a", "a") + layer("r", "a", "b") + layer("s", "a", "c")
        names = [each.name for each in insert_splits(net(text), "net").layer]
        assert names == ["in", "relu", "a_relu_0_split", "r", "s"]

    def test_one_layer_that_reads_a_blob_twice(self) -> None:
        found = insert_splits(net(layer("in", "", "a") + layer("sum", "a a", "b")), "net")
        assert list(found.layer[2].bottom) == ["a_in_0_split_0", "a_in_0_split_1"]

    def test_a_loss_counts_as_a_reader_and_takes_the_first_copy(self) -> None:
        found = insert_splits(net(layer("l", "", "a", "loss_weight: 2") + layer("r", "a", "b")), "net")
        assert found == net(
            layer("l", "", "a")
            + layer("a_l_0_split", "a", "a_l_0_split_0 a_l_0_split_1", 'type: "Split" loss_weight: 2 loss_weight: 0')
            + layer("r", "a_l_0_split_1", "b")
        )

    def test_a_loss_weight_of_zero_does_not_count(self) -> None:
        found = net(layer("l", "", "a", "loss_weight: 0") + layer("r", "a", "b"))
        assert insert_splits(found, "net") == found

    def test_an_unknown_bottom_is_refused(self) -> None:
        with pytest.raises(InvalidModel, match="layer 'r' reads blob 'a'"):
            insert_splits(net(layer("r", "a", "b") + layer("in", "", "a")), "net")
