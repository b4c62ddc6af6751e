"""Makes the classifier: a bank of oriented filters, designed and not trained, as an ONNX file.

A picture's stripes answer the filter of their own direction most. The graph: grey → two filters a quarter wave apart
for each direction and width of stripes → their energy → its mean over the picture → shares of the directions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

CLASSES = ("horizontal", "rising", "vertical", "falling")  # stripes; their normals are 45° apart
NORMALS = (90, 135, 0, 45)  # degrees, with y growing downwards
WAVELENGTHS = (8.0, 16.0)  # pixels
SIZE = 31  # of a filter
SHARPNESS = 6.0  # how much the strongest direction takes


def write(path: Path) -> Path:
    """Write the model: input `image` (batch, height, width, 3) uint8, output `shares` (batch, 4) float32."""
    filters = np.stack([each for wavelength in WAVELENGTHS for each in bank(wavelength)])
    by_class = np.zeros((len(CLASSES), len(filters), 1, 1), np.float32)
    for index in range(len(filters)):
        by_class[index // 2 % len(CLASSES), index] = 1.0
    weights = {
        "luminance": np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 1, 1, 3) / 255,
        "filters": filters,
        "by_class": by_class,
        "little": np.array(1e-6, np.float32),
        "sharpness": np.array(SHARPNESS, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "luminance"], ["coloured"]),
        helper.make_node("ReduceSum", ["coloured", "last"], ["hw"], keepdims=0),
        helper.make_node("Unsqueeze", ["hw", "channel"], ["grey"]),
        helper.make_node("Conv", ["grey", "filters"], ["waves"], pads=[SIZE // 2] * 4),
        helper.make_node("Mul", ["waves", "waves"], ["energies"]),
        helper.make_node("Conv", ["energies", "by_class"], ["energy"]),
        helper.make_node("GlobalAveragePool", ["energy"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["strength"]),
        helper.make_node("ReduceMax", ["strength"], ["strongest"], axes=[1], keepdims=1),
        helper.make_node("Add", ["strongest", "little"], ["scale"]),
        helper.make_node("Div", ["strength", "scale"], ["relative"]),
        helper.make_node("Mul", ["relative", "sharpness"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
    ]
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    initializers += [numpy_helper.from_array(np.array([axis]), name) for name, axis in (("last", 3), ("channel", 1))]
    graph = helper.make_graph(
        nodes,
        "stripes",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"classes": ",".join(CLASSES)})
    save(model, path)
    return path


def bank(wavelength: float) -> list[np.ndarray]:
    """Gabor filters of each direction, even and odd, without a mean."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    window = np.exp(-(x**2 + y**2) / (2 * (SIZE / 5) ** 2))
    filters = []
    for degrees in NORMALS:
        phase = (x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))) * 2 * np.pi / wavelength
        for wave in (np.cos(phase), np.sin(phase)):
            filtered = window * wave
            filtered -= window * filtered.sum() / window.sum()
            filters.append((filtered / np.abs(filtered).sum()).astype(np.float32)[None])
    return filters
