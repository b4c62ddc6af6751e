"""The side files of an ONNX model are found wherever a tensor may be, and damage is told from their absence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avec.formats.onnx import NotProtobuf, external_data

onnx = pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from onnx_models import FLOAT, doubling, linear, model, node, tensor, with_side_file  # noqa: E402


def elsewhere(location: str) -> onnx.TensorProto:
    """A tensor in a side file."""
    made = TensorProto(name="t", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=location)
    made.external_data.add(key="offset", value="0")
    return made


def test_a_model_without_side_files_has_none() -> None:
    assert external_data(linear(np.ones((3, 4), np.float32)).SerializeToString()) == []


def test_each_side_file_is_named_once_in_the_order_of_the_model() -> None:
    made = model(
        [node("Add", ["x", "a"], ["y"])],
        [tensor("x", FLOAT, [1])],
        [tensor("y", FLOAT, [1])],
        [elsewhere("b.bin"), elsewhere("ä/c.bin"), elsewhere("b.bin")],
    )
    assert external_data(made.SerializeToString()) == ["b.bin", "ä/c.bin"]


def test_tensors_in_attributes_subgraphs_functions_and_sparse_tensors_are_found() -> None:
    made = doubling()
    inner = helper.make_graph([node("Constant", [], ["c"], value=elsewhere("subgraph.bin"))], "inner", [], [])
    made.graph.node.append(node("Loop", ["x"], ["z"], body=inner))
    made.graph.node.append(node("Constant", [], ["d"], value=elsewhere("attribute.bin")))
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(elsewhere("values.bin"))
    sparse.indices.CopyFrom(elsewhere("indices.bin"))
    function = made.functions.add(name="f", domain="mine")
    function.node.append(node("Constant", [], ["e"], value=elsewhere("function.bin")))
    assert sorted(external_data(made.SerializeToString())) == [
        "attribute.bin", "function.bin", "indices.bin", "subgraph.bin", "values.bin"
    ]  # fmt: skip


def test_a_saved_model_names_what_onnx_wrote(tmp_path: Path) -> None:
    path = with_side_file(tmp_path, np.ones((3, 4), np.float32), "parts/w.bin")
    assert external_data(path.read_bytes()) == ["parts/w.bin"]


def test_every_cut_is_damage_or_a_model_with_fewer_fields() -> None:
    whole = linear(np.ones((3, 4), np.float32)).SerializeToString()
    damaged = 0
    for length in range(len(whole)):
        try:
            assert external_data(whole[:length]) == []
        except NotProtobuf:
            damaged += 1
    assert damaged > len(whole) // 2


@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x0f", b"rubbish, and more of it"])
def test_rubbish_is_no_model(data: bytes) -> None:
    with pytest.raises(NotProtobuf):
        external_data(data)


def test_graphs_within_graphs_have_a_bound() -> None:
    data = b""
    for _ in range(200):  # attribute.g within node.attribute within graph.node
        data = b"\x32" + varint(len(data)) + data  # AttributeProto.g
        data = b"\x2a" + varint(len(data)) + data  # NodeProto.attribute
        data = b"\x0a" + varint(len(data)) + data  # GraphProto.node
    with pytest.raises(NotProtobuf, match="deep"):
        external_data(b"\x3a" + varint(len(data)) + data)


def varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def test_numpy_helper_agrees_that_inline_tensors_are_no_side_files() -> None:
    made = linear(np.ones((3, 4), np.float32))
    assert not any(each.external_data for each in made.graph.initializer)
    assert numpy_helper.to_array(made.graph.initializer[0]).shape == (3, 4)
