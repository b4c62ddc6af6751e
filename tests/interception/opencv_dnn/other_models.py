"""Small models in the other formats that OpenCV reads, written byte by byte: no library of theirs is needed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import convert_model_to_external_data

DT_FLOAT = 1

YOLO = """
[net]
width=16
height=16
channels=3

[convolutional]
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=21
size=3
stride=2
pad=1
activation=linear

[yolo]
mask=0,1,2
anchors=4,4, 6,8, 8,6
classes=2
num=3
"""

# A Torch object in its text form: an nn.ReLU that has the field `inplace`, which is false.
RELU_OF_TORCH = "4\n1\n3\nV 1\n7\nnn.ReLU\n3\n2\n1\n2\n7\ninplace\n5\n0\n"


def write_all(folder: Path, classification: Path) -> None:
    """Write every model.

    Args:
        classification: an ONNX model, from which others are made.
    """
    (folder / "scores.pb").write_bytes(tensorflow_graph())
    (folder / "yolo.cfg").write_text(YOLO)
    (folder / "yolo.weights").write_bytes(yolo_weights())
    (folder / "relu.t7").write_text(RELU_OF_TORCH)
    (folder / "damaged.onnx").write_bytes(classification.read_bytes()[:300] + b"\xff" * 300)
    (folder / "unknown.xyz").write_bytes(classification.read_bytes())


def with_external_data(source: Path, target: Path, location: str) -> None:
    """The same model with its weights in a file beside it."""
    model = onnx.load(source)
    convert_model_to_external_data(model, location=location, size_threshold=0)
    onnx.save(model, target)


def yolo_weights() -> bytes:
    """The weights of YOLO: a header, and for each convolution its biases and its weights."""
    random = np.random.default_rng(30)
    sizes = (8, 8 * 3 * 9, 21, 21 * 8 * 9)
    values = [(random.normal(size=size) * 0.5).astype(np.float32).tobytes() for size in sizes]
    return struct.pack("<iiiq", 0, 2, 5, 0) + b"".join(values)


def tensorflow_graph() -> bytes:
    """A frozen GraphDef: a convolution and a ReLU over "image"."""
    weights = (np.random.default_rng(31).normal(size=(3, 3, 3, 4)) * 0.3).astype(np.float32)
    kind = _attribute("T", _varint(6, DT_FLOAT))
    strides = _attribute("strides", _bytes(1, _bytes(3, bytes([1, 1, 1, 1]))))
    nodes = (
        _node("image", "Placeholder", (), _attribute("dtype", _varint(6, DT_FLOAT))),
        _node("w", "Const", (), _attribute("dtype", _varint(6, DT_FLOAT)), _attribute("value", _tensor(weights))),
        _node("conv", "Conv2D", ("image", "w"), kind, strides, _attribute("padding", _bytes(2, b"SAME"))),
        _node("scores", "Relu", ("conv",), kind),
    )
    return b"".join(_bytes(1, node) for node in nodes)


def _node(name: str, kind: str, inputs: tuple[str, ...], *attributes: bytes) -> bytes:
    named = _bytes(1, name.encode()) + _bytes(2, kind.encode())
    return named + b"".join(_bytes(3, each.encode()) for each in inputs) + b"".join(attributes)


def _attribute(name: str, value: bytes) -> bytes:
    return _bytes(5, _bytes(1, name.encode()) + _bytes(2, value))


def _tensor(values: np.ndarray) -> bytes:
    dimensions = b"".join(_bytes(2, _varint(1, size)) for size in values.shape)
    return _bytes(8, _varint(1, DT_FLOAT) + _bytes(2, dimensions) + _bytes(4, values.tobytes()))


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
