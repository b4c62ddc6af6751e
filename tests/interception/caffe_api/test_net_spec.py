"""NetSpec, layers, params and to_proto: the nets of real Caffe, and what its users rely on besides."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from avec.formats.caffe.message import message_class
from goldens import net_specs

GOLDENS = Path(net_specs.__file__).parent / "caffe_api"

pytestmark = pytest.mark.usefixtures("messages")


def with_short_numbers(text: str) -> str:
    """Text with numbers of 7 digits: each release of protobuf spells floats in its own way."""
    return re.sub(r": (-?\d[-+.e\d]*)$", lambda match: f": {float(match[1]):.7g}", text, flags=re.MULTILINE)


@pytest.fixture
def data(caffe: ModuleType) -> Any:
    return caffe.layers.Input(shape={"dim": [1, 2]})


@pytest.mark.parametrize("name", net_specs.SPECS)
def test_the_text_of_a_net_is_that_of_real_caffe(caffe: ModuleType, name: str) -> None:
    golden = (GOLDENS / f"{name}.prototxt").read_text()
    assert with_short_numbers(str(net_specs.SPECS[name](caffe))) == with_short_numbers(golden)


@pytest.mark.parametrize("name", net_specs.SPECS)
def test_the_text_of_a_net_reads_back_as_that_of_real_caffe(caffe: ModuleType, name: str) -> None:
    read = message_class("NetParameter").from_text
    golden = (GOLDENS / f"{name}.prototxt").read_text()
    assert read(str(net_specs.SPECS[name](caffe)), "ours") == read(golden, "golden")


def test_a_built_net_has_the_layers_of_its_spec(caffe: ModuleType, tmp_path: Path) -> None:
    n = caffe.NetSpec()
    n.data = caffe.layers.Input(shape={"dim": [2, 3, 4, 4]})
    n.conv = caffe.layers.Convolution(n.data, kernel_size=3, num_output=5)
    n.relu = caffe.layers.ReLU(n.conv, in_place=True)
    (tmp_path / "net.prototxt").write_text(str(n.to_proto()))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    assert list(net._layer_names) == ["data", "conv", "relu"]
    assert tuple(net.forward()["conv"].shape) == (2, 5, 2, 2)


def test_one_value_stands_for_a_list_of_it(caffe: ModuleType, data: Any) -> None:
    layer = caffe.layers.Convolution(data, kernel_size=3, param={"lr_mult": 2}).to_proto().layer[1]
    assert list(layer.convolution_param.kernel_size) == [3]
    assert layer.param[0].lr_mult == 2


def test_an_empty_list_sets_nothing(caffe: ModuleType, data: Any) -> None:
    assert len(caffe.layers.Convolution(data, kernel_size=[]).to_proto().layer[1].convolution_param.kernel_size) == 0


def test_several_tops_come_as_a_tuple_and_none_as_the_function(caffe: ModuleType, data: Any) -> None:
    assert [top.n for top in caffe.layers.Slice(data, ntop=2)] == [0, 1]
    assert isinstance(caffe.layers.Silence(data, ntop=0), caffe.net_spec.Function)


def test_a_layer_reads_only_tops(caffe: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        caffe.layers.Silence(caffe.layers.DummyData(ntop=2), ntop=0)


@pytest.mark.parametrize(
    "parameters", [{"no_such": 1}, {"weight_filler": {"typ": "xavier"}}, {"weight_filler": "xavier"}]
)
def test_a_parameter_that_a_layer_has_not_is_an_attribute_error(
    caffe: ModuleType, data: Any, parameters: dict[str, Any]
) -> None:
    with pytest.raises(AttributeError):
        caffe.layers.Convolution(data, **parameters).to_proto()


def test_a_layer_type_without_parameters_of_its_own_has_those_of_all_layers(caffe: ModuleType, data: Any) -> None:
    with pytest.raises(AttributeError):  # they are Convolution's: convolution_param=dict(…)
        caffe.layers.Deconvolution(data, num_output=3).to_proto()


def test_params_are_the_values_of_enums(caffe: ModuleType) -> None:
    assert (caffe.params.Pooling.MAX, caffe.params.Pooling.AVE, caffe.params.Eltwise.MAX) == (0, 1, 2)
    with pytest.raises(AttributeError):
        _ = caffe.params.Pooling.LEAST


def test_names_of_parameters_by_layer_type(caffe: ModuleType) -> None:
    names = caffe.net_spec.param_name_dict()
    assert (names["InnerProduct"], names["ReLU"], names["LRN"]) == ("inner_product", "relu", "lrn")
    assert "Deconvolution" not in names


def test_a_top_without_a_name_is_a_key_error_and_hasattr_says_no(caffe: ModuleType) -> None:
    n = caffe.NetSpec()
    with pytest.raises(KeyError):
        _ = n.conv
    with pytest.raises(KeyError):
        _ = n["conv"]
    assert not hasattr(n, "conv")


def test_tops_are_read_as_attributes_and_as_items(caffe: ModuleType, data: Any) -> None:
    n = caffe.NetSpec()
    n["a/b"] = n.c = data
    assert n["a/b"] is n.c is n.tops["c"] is data


def test_the_methods_of_ssd(caffe: ModuleType, data: Any) -> None:
    n = caffe.NetSpec()
    n.data = data
    n.pool = caffe.layers.Pooling(n.data, kernel_size=2)
    n.update("pool", {"stride": 3})
    assert (n.keys(), n.vals()) == (["data", "pool"], [data, n.pool])
    assert n.to_proto().layer[1].pooling_param.stride == 3


def test_tops_may_be_called_as_the_methods_of_ssd(caffe: ModuleType, data: Any) -> None:
    n = caffe.NetSpec()
    n.update = n.keys = data
    assert n.update is n.keys is data


def test_a_copy_has_its_own_tops(caffe: ModuleType, data: Any) -> None:
    n = caffe.NetSpec()
    n.data = data
    other = copy.deepcopy(n)
    other.more = data
    assert list(n.tops) == ["data"]


def test_a_net_may_be_deeper_than_python_recurses(caffe: ModuleType, data: Any) -> None:
    top = data
    for _ in range(1500):
        top = caffe.layers.ReLU(top)
    assert [layer.name for layer in top.to_proto().layer][-2:] == ["ReLU1499", "ReLU1500"]


def test_a_spec_can_be_turned_into_a_net_twice(caffe: ModuleType, data: Any) -> None:
    n = caffe.NetSpec()
    n.relu = caffe.layers.ReLU(data, in_place=True, negative_slope=0.5)
    assert n.to_proto() == n.to_proto()
