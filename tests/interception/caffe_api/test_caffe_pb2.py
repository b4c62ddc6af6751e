"""caffe_pb2: what programs do with Caffe's messages, with protobuf's classes and with AVEC's own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.formats.caffe import own_classes, protobuf_classes
from avec.formats.caffe.message import message_class
from avec.formats.caffe.schema import ENUMS, MESSAGES, Plain
from formats.caffe_messages import plains
from launching import AVEC, NOWHERE, execute

PROTOBUF: Mapping[str, Any] = protobuf_classes.names() or {}
NET = """name: "n"
layer { name: "c" type: "Convolution" bottom: "a" top: "b" include { phase: TEST }
  convolution_param { kernel_size: 3 weight_filler { std: 0.1 } } }
layer { name: "p" type: "Pooling" pooling_param { pool: AVE } }
"""


@pytest.fixture
def net(pb2: ModuleType) -> Any:
    net = pb2.NetParameter(name="n")
    conv = net.layer.add(name="c", type="Convolution", bottom=["a"], top=["b"])
    conv.include.add(phase=pb2.TEST)
    conv.convolution_param.kernel_size.append(3)
    conv.convolution_param.weight_filler.std = 0.1
    net.layer.add(name="p", type="Pooling").pooling_param.pool = pb2.PoolingParameter.AVE
    return net


class TestModule:
    def test_messages_and_enums_are_attributes(self, pb2: ModuleType) -> None:
        assert {"NetParameter", "V1LayerParameter", "SolverState", "Datum", "TRAIN", "Phase"} <= set(dir(pb2))
        assert (pb2.TRAIN, pb2.TEST) == (0, 1)

    def test_a_star_import_brings_them(self, pb2: ModuleType) -> None:
        names: dict[str, Any] = {}
        exec(f"from {pb2.__name__} import *", names)
        assert names["NetParameter"] is pb2.NetParameter
        assert names["TEST"] == 1

    def test_another_name_is_an_attribute_error(self, pb2: ModuleType) -> None:
        with pytest.raises(AttributeError, match="NoSuchParameter"):
            _ = pb2.NoSuchParameter

    def test_both_kinds_define_the_same_names(self) -> None:
        assert set(own_classes.names()) == set(PROTOBUF)

    def test_names_of_descriptors_are_those_of_generated_code(self, pb2: ModuleType) -> None:
        values = pb2._V1LAYERPARAMETER_LAYERTYPE.values_by_number
        assert values[4].name == "CONVOLUTION"
        assert pb2._NETPARAMETER.name == "NetParameter"
        assert "LayerParameter" in pb2.DESCRIPTOR.message_types_by_name


class TestEnums:
    def test_values_are_attributes_of_the_message(self, pb2: ModuleType) -> None:
        assert (pb2.PoolingParameter.AVE, pb2.V1LayerParameter.CONVOLUTION, pb2.EltwiseParameter.MAX) == (1, 4, 2)

    def test_wrappers_translate_both_ways(self, pb2: ModuleType) -> None:
        method = pb2.PoolingParameter.PoolMethod
        assert (method.Name(1), method.Value("STOCHASTIC"), method.MAX) == ("AVE", 2, 0)
        assert (method.keys(), method.values()) == (["MAX", "AVE", "STOCHASTIC"], [0, 1, 2])
        assert method.items() == [("MAX", 0), ("AVE", 1), ("STOCHASTIC", 2)]
        assert pb2.Phase.Name(pb2.TEST) == "TEST"

    def test_wrappers_refuse_what_is_no_value(self, pb2: ModuleType) -> None:
        with pytest.raises(ValueError, match="MINIMUM"):
            pb2.PoolingParameter.PoolMethod.Value("MINIMUM")
        with pytest.raises(ValueError, match="9"):
            pb2.Phase.Name(9)

    def test_descriptors_list_the_values(self, pb2: ModuleType) -> None:
        descriptor = pb2.PoolingParameter.PoolMethod.DESCRIPTOR
        assert {name: value.number for name, value in descriptor.values_by_name.items()}["AVE"] == 1


class TestDescriptors:
    def test_every_field_is_described_as_protobuf_does(self) -> None:
        for name in MESSAGES:
            ours, theirs = (names[name].DESCRIPTOR.fields for names in (own_classes.names(), PROTOBUF))
            assert [_described(field) for field in ours] == [_described(field) for field in theirs]

    def test_every_enum_is_described_as_protobuf_does(self) -> None:
        for name in ENUMS:
            ours, theirs = (_enum(names, name) for names in (own_classes.names(), PROTOBUF))
            assert (ours.items(), ours.DESCRIPTOR.full_name) == (theirs.items(), theirs.DESCRIPTOR.full_name)

    def test_fields_are_found_by_name_and_number(self, pb2: ModuleType) -> None:
        descriptor = pb2.LayerParameter.DESCRIPTOR
        field = descriptor.fields_by_name["convolution_param"]
        assert (field.number, field.message_type.name) == (106, "ConvolutionParameter")
        assert descriptor.fields_by_number[106].name == "convolution_param"
        assert pb2.LayerParameter.CONVOLUTION_PARAM_FIELD_NUMBER == 106
        assert pb2.PoolingParameter.DESCRIPTOR.fields_by_name["pool"].enum_type.name == "PoolMethod"

    def test_list_fields_gives_what_is_set_in_order(self, net: Any) -> None:
        assert [field.name for field, _ in net.layer[0].ListFields()] == [
            "name", "type", "bottom", "top", "include", "convolution_param",
        ]  # fmt: skip
        field, value = net.layer[1].pooling_param.ListFields()[0]
        assert (field.name, field.enum_type.values_by_number[value].name) == ("pool", "AVE")


def _enum(names: Mapping[str, Any], name: str) -> Any:
    message, _, enum = name.rpartition(".")
    return getattr(names[message], enum) if message else names[enum]


def _described(field: Any) -> tuple[Any, ...]:
    inner = field.message_type and field.message_type.full_name
    enum = field.enum_type and field.enum_type.full_name
    default = None if inner and not field.is_repeated else field.default_value
    return (field.name, field.full_name, field.number, field.type, field.cpp_type, field.is_repeated, field.is_required,
            field.containing_type.full_name, inner, enum, default)  # fmt: skip


class TestFields:
    def test_presence(self, pb2: ModuleType) -> None:
        layer = pb2.LayerParameter()
        assert layer.lrn_param.local_size == 5
        assert not layer.HasField("lrn_param")
        layer.lrn_param.local_size = 5
        assert layer.HasField("lrn_param")
        layer.ClearField("lrn_param")
        assert not layer.HasField("lrn_param")

    def test_there_is_no_oneof(self, pb2: ModuleType) -> None:
        with pytest.raises(ValueError, match="kind"):
            pb2.LayerParameter().WhichOneof("kind")

    @pytest.mark.parametrize("name", ["no_such", "Name"])
    def test_unknown_fields(self, pb2: ModuleType, name: str) -> None:
        layer = pb2.LayerParameter()
        with pytest.raises(AttributeError):
            getattr(layer, name)
        with pytest.raises(AttributeError):
            setattr(layer, name, 1)
        with pytest.raises(ValueError):
            layer.HasField(name)
        with pytest.raises(ValueError):
            pb2.LayerParameter(**{name: 1})

    def test_values_of_a_wrong_type(self, pb2: ModuleType) -> None:
        with pytest.raises(TypeError):
            pb2.LayerParameter().name = 3
        with pytest.raises(TypeError):
            pb2.InnerProductParameter().num_output = "3"
        with pytest.raises(ValueError):
            pb2.InnerProductParameter().num_output = -1

    def test_numpy_values_are_taken(self, pb2: ModuleType) -> None:
        param = pb2.ConvolutionParameter(num_output=np.int64(3), kernel_size=np.array([1, 2]))
        filler = pb2.FillerParameter(std=np.float32(0.1))
        assert (param.num_output, list(param.kernel_size), filler.std) == (3, [1, 2], float(np.float32(0.1)))

    def test_required_fields(self, pb2: ModuleType) -> None:
        net = pb2.NetParameter()
        net.layer.add().clip_param.min = 0
        assert not net.IsInitialized()
        assert net.FindInitializationErrors() == ["layer[0].clip_param.max"]
        with pytest.raises(Exception, match=r"layer\[0\]\.clip_param\.max"):
            net.SerializeToString()
        net.layer[0].clip_param.max = 1
        assert net.IsInitialized()


class TestRepeated:
    def test_as_a_list(self, pb2: ModuleType) -> None:
        names = pb2.LayerParameter().bottom
        names.extend(["a", "b", "c", "d"])
        names.append("e")
        names.remove("b")
        names.insert(0, "z")
        assert (names.pop(), names[-1], names[1:3], len(names)) == ("e", "d", ["a", "c"], 4)
        names.sort()
        names.reverse()
        assert list(names) == ["z", "d", "c", "a"]
        del names[1:]
        assert names == ["z"]

    def test_of_messages(self, pb2: ModuleType) -> None:
        layers = pb2.NetParameter().layer
        layers.extend([pb2.LayerParameter(name=name) for name in "cab"])
        layers.add(name="d")
        layers.sort(key=lambda layer: str(layer.name))
        layers.reverse()
        assert [layer.name for layer in layers] == list("dcba")
        layers.remove(layers[0])
        assert layers.pop().name == "a"
        assert [layer.name for layer in layers] == ["c", "b"]

    def test_equality(self, pb2: ModuleType) -> None:
        layer = pb2.LayerParameter(bottom=["x"], top=["x"])
        assert layer.bottom == layer.top == ["x"]

    def test_arrays_go_in_and_out(self, pb2: ModuleType) -> None:
        blob = pb2.BlobProto()
        values = np.arange(6, dtype=np.float32) / 7
        blob.data.extend(values.astype(float).flat)
        np.testing.assert_array_equal(np.array(blob.data, np.float32), values)


class TestWholes:
    def test_copies_are_equal_and_apart(self, pb2: ModuleType, net: Any) -> None:
        other = pb2.NetParameter()
        other.CopyFrom(net)
        copied, pickled = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        assert net == other == copied == pickled
        copied.layer[0].name = other.layer[0].name = "x"
        assert net.layer[0].name == "c"
        assert net != other

    def test_merging_appends(self, pb2: ModuleType, net: Any) -> None:
        net.MergeFrom(pb2.NetParameter(name="m", layer=[pb2.LayerParameter(name="z")]))
        assert (net.name, len(net.layer)) == ("m", 3)

    def test_binary_there_and_back(self, pb2: ModuleType, net: Any) -> None:
        data = net.SerializeToString()
        assert pb2.NetParameter.FromString(data) == net
        other = pb2.NetParameter(name="old")
        other.ParseFromString(data)
        assert other == net
        assert net.ByteSize() == len(data)

    def test_damaged_bytes_are_refused(self, pb2: ModuleType, net: Any) -> None:
        with pytest.raises(Exception, match=r"(?i)pars|bytes|data end"):
            pb2.NetParameter.FromString(net.SerializeToString()[:-1])

    def test_text_reads_as_prototxt(self, net: Any) -> None:
        kind = PROTOBUF["NetParameter"]
        assert text_format.Parse(str(net), kind()) == text_format.Parse(NET, kind())


class TestProtobuf:
    """With protobuf's classes its other modules work."""

    def test_text_format(self, caffe: ModuleType, tmp_path: Path) -> None:
        pb2 = caffe.proto.caffe_pb2
        (tmp_path / "net.prototxt").write_text(NET)
        net = pb2.NetParameter()
        with open(tmp_path / "net.prototxt") as file:
            text_format.Merge(file.read(), net)
        assert net.layer[0].convolution_param.weight_filler.std == float(np.float32(0.1))
        assert text_format.Parse(text_format.MessageToString(net), pb2.NetParameter()) == net

    def test_classes_are_named_as_generated_ones(self, caffe: ModuleType) -> None:
        kind = caffe.proto.caffe_pb2.NetParameter
        assert (kind.__module__, kind.DESCRIPTOR.full_name) == ("caffe.proto.caffe_pb2", "caffe.NetParameter")

    def test_an_application_may_bring_its_own_caffe_proto(self, caffe: ModuleType) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool

        file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
        file.message_type.add(name="NetParameter")
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        assert caffe.proto.caffe_pb2.NetParameter().layer is not None


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", ["NetParameter", "SolverParameter", "BlobProto", "V1LayerParameter", "Datum"])
def test_both_kinds_write_and_read_the_same(name: str, data: st.DataObject) -> None:
    plain: Plain = data.draw(plains(MESSAGES[name]))
    ours = message_class(name)()
    ours.update_from_plain(plain)
    theirs = PROTOBUF[name].FromString(ours.SerializePartialToString())
    assert theirs.SerializePartialToString(deterministic=True) == ours.SerializePartialToString()
    assert str(message_class(name).from_text(str(theirs), "theirs")) == str(ours)
    assert text_format.Parse(str(ours), type(theirs)()).SerializePartialToString() == ours.SerializePartialToString()


WITHOUT = """import sys
sys.modules["google.protobuf"] = None
import caffe
from caffe.proto import caffe_pb2
net = caffe_pb2.NetParameter()
net.layer.add(name="a")
print(caffe_pb2.NetParameter.FromString(net.SerializeToString()) == net, caffe_pb2.NetParameter.__module__)
n = caffe.NetSpec()
n.a = caffe.layers.Input()
print(str(n.to_proto()).split())
"""


def test_a_host_without_protobuf(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(WITHOUT)
    status, out, err = execute(*AVEC, "run", *NOWHERE, str(tmp_path / "app.py"))
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "True avec.formats.caffe.message",
        "['layer', '{', 'name:', '\"a\"', 'type:', '\"Input\"', 'top:', '\"a\"', '}']",
    ]


def test_importing_caffe_imports_no_protobuf(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import caffe, sys; print('google.protobuf' in sys.modules)")
    assert execute(*AVEC, "run", *NOWHERE, str(tmp_path / "app.py")) == (0, "False\n", "")
