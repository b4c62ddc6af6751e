"""Small ONNX models with seeded weights, each with the inputs and outputs of a kind of model that OpenCV uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
IR_VERSION = 8  # OpenCV 4.14 reads it too

Shape = Sequence[int]


class Graph:
    """Collects nodes and weights of one model."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        """Seeded weights; gives their name."""
        return self.constant((self._random.normal(size=shape) * scale).astype(np.float32))

    def constant(self, values: np.ndarray) -> str:
        """Given values; gives their name."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Add a node; gives its output's name."""
        name = output or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{name}", **attributes))
        return name

    def unnamed(self, kind: str, *inputs: str, output: str, **attributes: object) -> None:
        """Add a node without a name; OpenCV calls it by its output."""
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))

    def convolution(
        self, data: str, channels: int, outputs: int, size: int, output: str = "", **attributes: object
    ) -> str:
        """A convolution with a bias; OpenCV 4.10 wants to be told the kernel's shape."""
        attributes.setdefault("kernel_shape", [size, size])
        weights = self.weight(outputs, channels, size, size, scale=(channels * size * size) ** -0.5)
        return self.node("Conv", data, weights, self.weight(outputs), output=output, **attributes)

    def save(self, path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> Path:
        """Write the model."""
        graph = helper.make_graph(self._nodes, path.stem, _values(inputs), _values(outputs), self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def _values(shapes: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def classification(path: Path) -> Path:
    """3×16×16 → five scores."""
    g = Graph(1)
    g.node("Relu", g.convolution("image", 3, 8, 3, pads=[1, 1, 1, 1]), output="features")
    g.node("Flatten", g.node("GlobalAveragePool", "features"), output="flat")
    g.node("Gemm", "flat", g.weight(5, 8), g.weight(5), output="scores", transB=1)
    return g.save(path, {"image": (1, 3, 16, 16)}, {"scores": (1, 5)})


def two_outputs(path: Path) -> Path:
    """3×8×8 → a vector and a map."""
    g = Graph(2)
    g.node("Relu", g.convolution("image", 3, 4, 3, pads=[1, 1, 1, 1]), output="features")
    g.node("Gemm", g.node("Flatten", "features"), g.weight(5, 256, scale=0.05), output="vector", transB=1)
    g.node("Sigmoid", "features", output="map")
    return g.save(path, {"image": (1, 3, 8, 8)}, {"vector": (1, 5), "map": (1, 4, 8, 8)})


def two_inputs(path: Path) -> Path:
    """Two maps of 2×4×4 → their weighted sum."""
    g = Graph(3)
    g.node("Add", g.convolution("left", 2, 3, 1), g.convolution("right", 2, 3, 1), output="sum")
    return g.save(path, {"left": (1, 2, 4, 4), "right": (1, 2, 4, 4)}, {"sum": (1, 3, 4, 4)})


def maps(path: Path) -> Path:
    """3×32×32 → six maps of 16×16, as segmentation and keypoints have them."""
    g = Graph(4)
    g.convolution("image", 3, 6, 5, pads=[2, 2, 2, 2], strides=[2, 2], output="maps")
    return g.save(path, {"image": (1, 3, 32, 32)}, {"maps": (1, 6, 16, 16)})


def text_boxes(path: Path) -> Path:
    """3×64×64 → geometry and scores of 16×16, as EAST gives them."""
    g = Graph(5)
    features = g.node("Relu", g.convolution("image", 3, 8, 4, strides=[4, 4]))
    distances = g.node("Mul", g.node("Sigmoid", g.convolution(features, 8, 4, 1)), g.constant(np.float32([24.0])))
    angles = g.node("Tanh", g.convolution(features, 8, 1, 1))
    g.node("Concat", distances, angles, output="geometry", axis=1)
    g.node("Sigmoid", g.convolution(features, 8, 1, 1), output="scores")
    return g.save(path, {"image": (1, 3, 64, 64)}, {"geometry": (1, 5, 16, 16), "scores": (1, 1, 16, 16)})


def text_map(path: Path) -> Path:
    """3×64×64 → a map of probabilities of the same size, as DB gives it."""
    g = Graph(6)
    smooth = g.node(
        "AveragePool", g.convolution("image", 3, 1, 3, pads=[1, 1, 1, 1]), kernel_shape=[9, 9], pads=[4] * 4
    )
    probabilities = g.node("Sigmoid", g.node("Mul", smooth, g.constant(np.float32([40.0]))))
    g.node("Reshape", probabilities, g.constant(np.int64([64, 64])), output="probabilities")
    return g.save(path, {"image": (1, 3, 64, 64)}, {"probabilities": (64, 64)})


def text_line(path: Path) -> Path:
    """1×8×40 → ten steps of seven symbols, as CRNN gives them."""
    g = Graph(7)
    steps = g.node("Conv", "image", g.weight(7, 1, 8, 4), g.weight(7), kernel_shape=[8, 4], strides=[8, 4])
    flat = g.node("Reshape", steps, g.constant(np.int64([1, 7, 10])))
    g.node("Transpose", flat, output="symbols", perm=[2, 0, 1])
    return g.save(path, {"image": (1, 1, 8, 40)}, {"symbols": (10, 1, 7)})


def faces(path: Path, size: int = 64) -> Path:
    """An image → what YuNet gives: classes, objects, boxes and five points at three strides."""
    g = Graph(8)
    channels = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    outputs: dict[str, Shape] = {}
    for name, count in channels.items():
        for stride in (8, 16, 32):
            output = f"{name}_{stride}"
            raw = g.convolution("input", 3, count, stride, strides=[stride, stride])
            raw = g.node("Mul", raw, g.constant(np.float32([0.02])))
            raw = g.node("Sigmoid", raw) if name in ("cls", "obj") else raw
            cells = (size // stride) ** 2
            last = g.node("Transpose", raw, perm=[0, 2, 3, 1])
            g.node("Reshape", last, g.constant(np.int64([1, cells, count])), output=output)
            outputs[output] = (1, cells, count)
    return g.save(path, {"input": (1, 3, size, size)}, outputs)


def face_features(path: Path) -> Path:
    """3×112×112 → 128 features, as SFace gives them."""
    g = Graph(9)
    flat = g.node("Flatten", g.convolution("data", 3, 8, 16, strides=[16, 16]))
    g.node("Gemm", flat, g.weight(128, 392, scale=0.05), output="fc1", transB=1)
    return g.save(path, {"data": (1, 3, 112, 112)}, {"fc1": (1, 128)})


def vit_tracker(path: Path) -> Path:
    """A template of 128² and a search area of 256² → scores, sizes and offsets of 16×16."""
    g = Graph(10)
    template = g.node("GlobalAveragePool", g.convolution("template", 3, 4, 16, strides=[16, 16]))
    features = g.node("Mul", g.node("Tanh", g.convolution("search", 3, 4, 16, strides=[16, 16])), template)
    g.node("Sigmoid", g.convolution(features, 4, 1, 1), output="output1")
    g.node("Sigmoid", g.convolution(features, 4, 2, 1), output="output2")
    g.node("Tanh", g.convolution(features, 4, 2, 1), output="output3")
    shapes = {"output1": (1, 1, 16, 16), "output2": (1, 2, 16, 16), "output3": (1, 2, 16, 16)}
    return g.save(path, {"template": (1, 3, 128, 128), "search": (1, 3, 256, 256)}, shapes)


def nano_backbone(path: Path) -> Path:
    """An image of any size → features, at a sixteenth of it."""
    g = Graph(11)
    g.convolution("input", 3, 4, 16, strides=[16, 16], pads=[8, 8, 8, 8], output="output")
    return g.save(path, {"input": (1, 3, 255, 255)}, {"output": (1, 4, 16, 16)})


def nano_head(path: Path) -> Path:
    """Features of a template and of a search area → scores and boxes of 16×16."""
    g = Graph(12)
    features = g.node("Mul", g.node("Tanh", "input2"), g.node("GlobalAveragePool", "input1"))
    g.convolution(features, 4, 2, 1, output="output1")
    g.node("Exp", g.node("Tanh", g.convolution(features, 4, 4, 1)), output="output2")
    shapes = {"output1": (1, 2, 16, 16), "output2": (1, 4, 16, 16)}
    return g.save(path, {"input1": (1, 4, 8, 8), "input2": (1, 4, 16, 16)}, shapes)


def siamese(path: Path) -> Path:
    """An image of 127² or 271² → what DaSiamRPN's net gives; it sets the weights of two convolutions anew."""
    g = Graph(13)
    kernels = [g.weight(256, 3, 19, 19, scale=0.0005), g.weight(20, 256, 4, 4, scale=0.02)]
    kernels += [g.weight(20, 20, 1, 1, scale=0.01), g.weight(10, 256, 4, 4, scale=0.02)]
    for place, data, output in ((0, "data", "63"), (1, "63", "65"), (2, "65", "66"), (3, "63", "68")):
        size = (19, 4, 1, 4)[place]
        g.unnamed(
            "Conv", data, kernels[place], output=output, kernel_shape=[size] * 2, strides=[(12, 1)[place > 0]] * 2
        )
    return g.save(path, {"data": (1, 3, 271, 271)}, {"66": (1, 20, 19, 19), "68": (1, 10, 19, 19)})


def siamese_kernel(path: Path, outputs: int) -> Path:
    """Features of the template → the weights of a convolution with so many outputs."""
    g = Graph(outputs)
    pooled = g.node("AveragePool", "features", kernel_shape=[4, 4], strides=[2, 2])
    weights = g.weight(256 * outputs, 1, 1, 1, scale=0.02)
    g.node("Conv", pooled, weights, output="weights", kernel_shape=[1, 1], group=256)
    return g.save(path, {"features": (1, 256, 10, 10)}, {"weights": (1, 256 * outputs, 4, 4)})


ALL = {
    "classification": classification, "two_outputs": two_outputs, "two_inputs": two_inputs, "maps": maps,
    "text_boxes": text_boxes, "text_map": text_map, "text_line": text_line, "faces": faces,
    "face_features": face_features, "vit_tracker": vit_tracker, "nano_backbone": nano_backbone, "nano_head": nano_head,
    "siamese": siamese, "siamese_cls1": lambda path: siamese_kernel(path, 10),
    "siamese_r1": lambda path: siamese_kernel(path, 20),
}  # fmt: skip


def write_all(folder: Path) -> None:
    """Write every model as NAME.onnx."""
    for name, make in ALL.items():
        make(folder / f"{name}.onnx")
