"""The protobuf-like surface of Caffe's messages."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.schema import ENUMS, MESSAGES

NetParameter = message_class("NetParameter")
LayerParameter = message_class("LayerParameter")
BlobProto = message_class("BlobProto")
PoolingParameter = message_class("PoolingParameter")


class TestSchema:
    def test_every_message_of_caffe_is_there(self) -> None:
        assert len(MESSAGES) == 63 + 6 + 2  # six that SSD adds, two that OpenPose adds
        assert len(ENUMS) == 26 + 1

    def test_no_number_or_name_is_used_twice_in_a_message(self) -> None:
        for message in MESSAGES.values():
            assert len(message.by_name) == len(message.by_number) == len(message.fields)

    def test_every_message_named_by_a_field_exists(self) -> None:
        named = {field.message for message in MESSAGES.values() for field in message.fields if field.message}
        assert named <= MESSAGES.keys()


class TestScalars:
    def test_unset_fields_read_as_defaults(self) -> None:
        layer = LayerParameter()
        assert layer.name == ""
        assert layer.lrn_param.local_size == 5
        assert layer.pooling_param.pool == PoolingParameter.MAX
        assert layer.batch_norm_param.eps == np.float32(1e-5)

    def test_reading_sets_nothing(self) -> None:
        layer = LayerParameter()
        assert layer.lrn_param.alpha == 1
        assert len(layer.bottom) == 0
        assert not layer.HasField("lrn_param")
        assert layer.ListFields() == []

    def test_writing_into_an_inner_message_sets_it(self) -> None:
        layer = LayerParameter()
        layer.convolution_param.weight_filler.std = 0.5
        assert layer.HasField("convolution_param")
        assert layer.convolution_param.HasField("weight_filler")

    def test_appending_inside_an_inner_message_sets_it(self) -> None:
        layer = LayerParameter()
        layer.convolution_param.pad.append(1)
        assert layer.HasField("convolution_param")

    def test_set_in_parent(self) -> None:
        layer = LayerParameter()
        layer.relu_param.SetInParent()
        assert str(layer) == "relu_param {\n}\n"

    def test_floats_are_float32(self) -> None:
        layer = LayerParameter()
        layer.lrn_param.alpha = 0.1
        assert layer.lrn_param.alpha == float(np.float32(0.1))

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("kernel_size", -1, ValueError),
            ("kernel_size", 1 << 32, ValueError),
            ("kernel_size", "3", TypeError),
            ("kernel_size", 2.0, TypeError),
            ("pool", 7, ValueError),
            ("pool", "MIN", ValueError),
            ("global_pooling", "true", TypeError),
            ("no_such_field", 1, AttributeError),
        ],
    )
    def test_wrong_values_are_refused(self, name: str, value: object, error: type[Exception]) -> None:
        with pytest.raises(error):
            setattr(PoolingParameter(), name, value)

    def test_any_integer_but_zero_is_true(self) -> None:
        assert PoolingParameter(global_pooling=2).global_pooling is True

    def test_enums_may_be_set_by_name(self) -> None:
        assert PoolingParameter(pool="AVE").pool == PoolingParameter.AVE

    def test_messages_and_lists_cannot_be_assigned(self) -> None:
        with pytest.raises(AttributeError):
            LayerParameter().lrn_param = message_class("LRNParameter")()
        with pytest.raises(AttributeError):
            LayerParameter().bottom = ["a"]

    def test_has_field_of_a_repeated_field_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="repeated"):
            LayerParameter().HasField("bottom")

    def test_clear_field(self) -> None:
        layer = LayerParameter(name="a", bottom=["b"])
        layer.ClearField("name")
        layer.ClearField("bottom")
        assert layer == LayerParameter()


class TestRepeated:
    def test_constructor(self) -> None:
        layer = LayerParameter(name="a", bottom=["x", "y"], convolution_param={"pad": [1]}, param=[{"lr_mult": 2}])
        assert list(layer.bottom) == ["x", "y"]
        assert list(layer.convolution_param.pad) == [1]
        assert layer.param[0].lr_mult == 2

    def test_list_methods(self) -> None:
        names = LayerParameter().bottom
        names.extend(["a", "b", "c"])
        names[0] = "z"
        names.remove("b")
        del names[1:]
        names.insert(0, "y")
        assert names == ["y", "z"]

    def test_add_gives_the_message_to_fill(self) -> None:
        net = NetParameter()
        net.layer.add(name="a").top.append("t")
        assert str(net) == 'layer {\n  name: "a"\n  top: "t"\n}\n'

    def test_what_is_appended_is_copied(self) -> None:
        net, layer = NetParameter(), LayerParameter(name="a")
        net.layer.append(layer)
        layer.name = "b"
        assert net.layer[0].name == "a"

    def test_only_messages_are_appended(self) -> None:
        with pytest.raises(TypeError):
            NetParameter().layer.append(3)

    def test_messages_are_not_replaced(self) -> None:
        net = NetParameter(layer=[{"name": "a"}])
        with pytest.raises(TypeError):
            net.layer[0] = LayerParameter()


class TestArrays:
    def test_an_array_goes_in_and_out_without_becoming_a_list(self) -> None:
        blob = BlobProto()
        blob.data.extend(np.arange(4, dtype=np.float32).reshape(2, 2))
        np.testing.assert_array_equal(np.asarray(blob.data), [0, 1, 2, 3])
        assert blob.data[2] == 2.0
        assert blob.data[1:3] == [1.0, 2.0]

    def test_a_change_leaves_the_file_alone(self) -> None:
        content = bytearray(BlobProto(data=[1, 2]).SerializeToString())
        before = bytes(content)
        blob = BlobProto.from_wire(content, "file")
        blob.data[0] = 5
        assert list(blob.data) == [5, 2]
        assert bytes(content) == before

    def test_a_message_does_not_wait_for_the_garbage_collector(self) -> None:
        gc.disable()  # a mapped caffemodel must go when its message goes
        try:
            net = NetParameter.from_wire(NetParameter(layer=[{"blobs": [{"data": [1.0]}]}]).SerializeToString(), "f")
            gone = weakref.ref(net.layer[0].blobs[0])
            del net
            assert gone() is None
        finally:
            gc.enable()


class TestWholes:
    def test_copy_from_and_equality(self) -> None:
        one = LayerParameter(name="a", lrn_param={"alpha": 2}, blobs=[{"data": [1, 2]}])
        two = LayerParameter(name="x", bottom=["y"])
        two.CopyFrom(one)
        assert two == one
        two.lrn_param.alpha = 3
        assert two != one

    def test_merge_from_appends_and_overwrites(self) -> None:
        one = LayerParameter(name="a", bottom=["x"], lrn_param={"alpha": 2})
        one.MergeFrom(LayerParameter(name="b", bottom=["y"], lrn_param={"beta": 3}))
        assert one == LayerParameter(name="b", bottom=["x", "y"], lrn_param={"alpha": 2, "beta": 3})

    def test_messages_of_different_types_do_not_merge(self) -> None:
        with pytest.raises(TypeError):
            LayerParameter().CopyFrom(NetParameter())

    @pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
    def test_copies_share_nothing(self, copier: Callable[[Message], Message]) -> None:
        one = LayerParameter(name="a", bottom=["x"])
        two = copier(one)
        two.bottom.append("y")
        assert list(one.bottom) == ["x"]

    def test_required_fields(self) -> None:
        clip = message_class("ClipParameter")(min=0)
        assert not clip.IsInitialized()
        clip.max = 1
        assert clip.IsInitialized()

    def test_parse_from_string_replaces(self) -> None:
        layer = LayerParameter(name="old", bottom=["b"])
        layer.ParseFromString(LayerParameter(name="new").SerializeToString())
        assert layer == LayerParameter(name="new")

    def test_byte_size(self) -> None:
        layer = LayerParameter(name="a", blobs=[{"data": [1, 2]}])
        assert layer.ByteSize() == len(layer.SerializeToString())
