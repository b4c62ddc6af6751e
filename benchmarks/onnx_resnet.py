"""ResNet-50 as an ONNX file, with random weights: the topology of He et al., "Deep Residual Learning", in code.

Its weights keep the activations' scale, so that every layer computes with ordinary numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
EXPANSION = 4
CLASSES = 1000


class Builder:
    """Collects nodes and weights."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[object] = []
        self.weights: list[object] = []

    def weight(self, *shape: int, scale: float) -> str:
        name = f"w{len(self.weights)}"
        values = self._random.standard_normal(shape, np.float32) * np.float32(scale)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def convolution(self, x: str, channels: int, width: int, size: int, stride: int, gain: float = 2.0) -> str:
        """A convolution with a bias, as batch normalisation leaves it in a model for inference."""
        scale = float(np.sqrt(gain / (channels * size * size)))
        weights = self.weight(width, channels, size, size, scale=scale)
        attributes = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [size // 2] * 4}
        return self.add("Conv", x, weights, self.weight(width, scale=0.01), **attributes)

    def bottleneck(self, x: str, channels: int, width: int, stride: int) -> str:
        y = self.add("Relu", self.convolution(x, channels, width, 1, 1))
        y = self.add("Relu", self.convolution(y, width, width, 3, stride))
        y = self.convolution(y, width, EXPANSION * width, 1, 1, gain=0.2)
        if stride != 1 or channels != EXPANSION * width:
            x = self.convolution(x, channels, EXPANSION * width, 1, stride, gain=1.0)
        return self.add("Relu", self.add("Add", x, y))


def write(path: Path, seed: int = 0) -> Path:
    """Write the model: input `image` (batch, 3, height, width), output `logits` (batch, 1000)."""
    builder = Builder(seed)
    x = builder.add("Relu", builder.convolution("image", 3, 64, 7, 2))
    x = builder.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, stride in STAGES:
        for block in range(blocks):
            x = builder.bottleneck(x, channels, width, stride if block == 0 else 1)
            channels = EXPANSION * width
    x = builder.add("Flatten", builder.add("GlobalAveragePool", x))
    weights, bias = builder.weight(channels, CLASSES, scale=channels**-0.5), builder.weight(CLASSES, scale=0.01)
    builder.nodes.append(helper.make_node("Gemm", [x, weights, bias], ["logits"]))
    graph = helper.make_graph(
        builder.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        builder.weights,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_small(path: Path) -> Path:
    """Write a model that hardly computes: the mean of each channel. What is left is what a call costs."""
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["logits"])]
    shape = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 1, 1])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
