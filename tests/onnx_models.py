"""Small ONNX models for the tests, made with the onnx package; none of them is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSETS = (("", 17), ("ai.onnx.ml", 3), ("com.microsoft", 1))
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
tensor = helper.make_tensor_value_info
node = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A model of ir_version 9, which the oldest tested ONNX Runtime reads."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="avec-tests")


def doubling() -> onnx.ModelProto:
    """y = x + x, for x of shape (n, 3)."""
    return model([node("Add", ["x", "x"], ["y"])], [tensor("x", FLOAT, ["n", 3])], [tensor("y", FLOAT, ["n", 3])])


def linear(weights: np.ndarray) -> onnx.ModelProto:
    """y = x · w, for x of shape (n, weights.shape[0])."""
    rows, columns = weights.shape
    return model(
        [node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", FLOAT, ["n", rows])],
        [tensor("y", FLOAT, ["n", columns])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )


def cache_step() -> onnx.ModelProto:
    """One step of a decoder's loop: present = past + new along axis 0, and its sum."""
    return model(
        [node("Concat", ["past", "new"], ["present"], axis=0), node("ReduceSum", ["present"], ["total"], keepdims=0)],
        [tensor("past", FLOAT, ["t", 4]), tensor("new", FLOAT, [1, 4])],
        [tensor("present", FLOAT, ["u", 4]), tensor("total", FLOAT, [])],
    )


def with_side_file(folder: Path, weights: np.ndarray, location: str = "weights.bin", note: str = "") -> Path:
    """Save `linear` with its weights in a side file; give the model's path."""
    made = linear(weights)
    made.doc_string = note
    path = folder / "model.onnx"
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.external_data_helper.convert_model_to_external_data(made, location=location, size_threshold=0)
    for each in made.graph.initializer:
        each.raw_data = weights.tobytes()
    onnx.save(made, path)
    return path
