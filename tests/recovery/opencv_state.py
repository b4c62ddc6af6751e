"""Calls on nets and models whose settings, inputs and outputs stay there; prints what it saw.

`opencv_state.py ROUNDS`
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PROTOTXT = """name: "small" input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""


def onnx_net(path: Path) -> Path:
    """3×8×8 → four maps, after a layer whose output can be asked for."""
    stream = np.random.RandomState(1)
    weights = numpy_helper.from_array(stream.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["data", "w"], ["conv"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv"], ["out"], name="relu"),
    ]
    given = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 8, 8])
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 6, 6])
    graph = helper.make_graph(nodes, "g", [given], [made], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def main(folder: Path, rounds: int) -> None:
    """Run, and print a digest of all that was seen."""
    stream = np.random.RandomState(0)
    net = cv2.dnn.readNetFromONNX(str(onnx_net(folder / "net.onnx")))
    model = cv2.dnn.Model(cv2.dnn.readNetFromONNX(str(folder / "net.onnx")))
    seen = hashlib.sha256()
    for number in range(3 * rounds):  # each is quick
        if number % 30 == 0:
            print("at", number, flush=True)
        if number % 3 == 0:  # a forward without it computes on what was set before
            net.setInput(stream.normal(size=(1, 3, 8, 8)).astype(np.float32))
        if number % 7 == 0:
            model.setInputParams(float(stream.uniform(0.5, 2)), (8, 8), (1, 2, 3), False)
        if number % 11 == 0:
            model.setInputSwapRB(bool(stream.randint(2)))
        seen.update(net.forward().tobytes())
        frame = stream.randint(0, 255, size=(8, 8, 3)).astype(np.uint8)
        for output in model.predict(frame):
            seen.update(np.asarray(output).tobytes())
    print(seen.hexdigest())


with tempfile.TemporaryDirectory() as name:
    main(Path(name), int(sys.argv[1]))
