"""Small Caffe nets with seeded weights, of layers that OpenCV's importer of Caffe nets takes as Caffe does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avec.formats.caffe.caffemodel import encode_weights

Floats = np.ndarray

# A branching net: layers in place, several outputs, a layer with three tops.
BRANCHES = """
name: "branches"
input: "data"
input_dim: 1 input_dim: 3 input_dim: 16 input_dim: 16
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" dropout_param { dropout_ratio: 0.5 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "thirds" type: "Slice" bottom: "pool" top: "first" top: "second" top: "third"
        slice_param { axis: 1 slice_point: 2 slice_point: 4 } }
layer { name: "sum" type: "Eltwise" bottom: "first" bottom: "third" top: "sum" }
layer { name: "scores" type: "InnerProduct" bottom: "pool" top: "scores" inner_product_param { num_output: 5 } }
layer { name: "probabilities" type: "Softmax" bottom: "scores" top: "probabilities" }
"""

TWO_INPUTS = """
layer { name: "left" type: "Input" top: "left" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "right" type: "Input" top: "right" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "sum" type: "Eltwise" bottom: "left" bottom: "right" top: "sum" eltwise_param { coeff: 2 coeff: -1 } }
"""

MAPS = """
input: "data"
input_dim: 1 input_dim: 3 input_dim: 32 input_dim: 32
layer { name: "maps" type: "Convolution" bottom: "data" top: "maps"
        convolution_param { num_output: 6 kernel_size: 5 pad: 2 stride: 2 } }
"""

# A single-shot detector of two classes and a background.
DETECTOR = """
input: "data"
input_dim: 1 input_dim: 3 input_dim: 32 input_dim: 32
layer { name: "features" type: "Convolution" bottom: "data" top: "features"
        convolution_param { num_output: 8 kernel_size: 4 stride: 4 } }
layer { name: "loc" type: "Convolution" bottom: "features" top: "loc"
        convolution_param { num_output: 12 kernel_size: 1 } }
layer { name: "loc_last" type: "Permute" bottom: "loc" top: "loc_last"
        permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_last" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "features" top: "conf"
        convolution_param { num_output: 9 kernel_size: 1 } }
layer { name: "conf_last" type: "Permute" bottom: "conf" top: "conf_last"
        permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_rows" type: "Reshape" bottom: "conf_last" top: "conf_rows"
        reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "conf_soft" type: "Softmax" bottom: "conf_rows" top: "conf_soft" softmax_param { axis: 2 } }
layer { name: "conf_flat" type: "Flatten" bottom: "conf_soft" top: "conf_flat" }
layer { name: "priors" type: "PriorBox" bottom: "features" bottom: "data" top: "priors"
        prior_box_param { min_size: 8 aspect_ratio: 2 flip: true clip: false
                          variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
layer { name: "found" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_flat" bottom: "priors" top: "found"
        detection_output_param { num_classes: 3 share_location: true background_label_id: 0 code_type: CENTER_SIZE
                                 nms_param { nms_threshold: 0.45 top_k: 50 } keep_top_k: 20
                                 confidence_threshold: 0.4 } }
"""

# What GOTURN is to OpenCV: a patch of the last frame and one of this → the corners of a box.
GOTURN = """
input: "data1"
input_dim: 1 input_dim: 3 input_dim: 227 input_dim: 227
input: "data2"
input_dim: 1 input_dim: 3 input_dim: 227 input_dim: 227
layer { name: "both" type: "Concat" bottom: "data1" bottom: "data2" top: "both" }
layer { name: "pool" type: "Pooling" bottom: "both" top: "pool"
        pooling_param { pool: AVE kernel_size: 57 stride: 57 } }
layer { name: "scale" type: "InnerProduct" bottom: "pool" top: "scale" inner_product_param { num_output: 4 } }
"""

# Mish is a layer of OpenCV's, not of Caffe's.
OPENCVS_LAYER = """
input: "data"
input_dim: 1 input_dim: 3 input_dim: 16 input_dim: 16
layer { name: "mish" type: "Mish" bottom: "data" top: "mish" }
"""

UNKNOWN_LAYER = """
input: "data"
input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layer { name: "odd" type: "NoSuchLayer" bottom: "data" top: "odd" }
"""

PYTHON_LAYER = """
input: "data"
input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layer { name: "mine" type: "Python" bottom: "data" top: "mine" python_param { module: "mine" layer: "Mine" } }
"""


def write_all(folder: Path) -> None:
    """Write every net as NAME.prototxt, and NAME.caffemodel if it has weights."""
    random = np.random.default_rng(40)

    def layer(outputs: int, *inputs: int) -> list[Floats]:
        scale = float(np.prod(inputs)) ** -0.5
        return [(random.normal(size=size) * scale).astype(np.float32) for size in ((outputs, *inputs), (outputs,))]

    weights: dict[str, dict[str, list[Floats]]] = {
        "branches": {"conv": layer(6, 3, 3, 3), "scores": layer(5, 6 * 8 * 8)},
        "caffe_maps": {"maps": layer(6, 3, 5, 5)},
        "detector": {"features": layer(8, 3, 4, 4), "loc": layer(12, 8, 1, 1), "conf": layer(9, 8, 1, 1)},
    }
    corners = np.array([57, 57, 170, 170], np.float32)
    weights["goturn"] = {"scale": [(random.normal(size=(4, 4 * 4 * 6)) * 0.01).astype(np.float32), corners]}
    texts = {
        "branches": BRANCHES, "caffe_two_inputs": TWO_INPUTS, "caffe_maps": MAPS, "detector": DETECTOR,
        "goturn": GOTURN, "opencvs_layer": OPENCVS_LAYER,
        "unknown_layer": UNKNOWN_LAYER, "python_layer": PYTHON_LAYER,
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.prototxt").write_text(text)
        if name in weights:
            (folder / f"{name}.caffemodel").write_bytes(b"".join(encode_weights(weights[name])))
    (folder / "damaged.caffemodel").write_bytes(b"no caffemodel at all " * 9)
