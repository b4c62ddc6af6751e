"""The cases of whole networks: rules, legacy forms, in-place chains, the classic image classifiers, OpenPose."""

from __future__ import annotations

from collections.abc import Iterator

import topologies  # of examples/openpose; cases.py puts that folder on the path
from prototxt import Case, inputs, layer

SAMPLES = 128  # values kept of each blob of a large net


def net_cases() -> list[Case]:
    generators = (_rules, _legacy, _v1, _syntax, _chains, _classics, _openpose)
    return [case for generator in generators for case in generator()]


RULED = "".join(
    [
        inputs(data=(2, 3)),
        layer("always", "ReLU", "data", "always"),
        layer("test_only", "TanH", "data", "test_only", "include { phase: TEST }"),
        layer("train_only", "TanH", "data", "train_only", "include { phase: TRAIN }"),
        layer("not_in_train", "Sigmoid", "data", "not_in_train", "exclude { phase: TRAIN }"),
        layer("level_2_up", "ReLU", "data", "level_2_up", "include { min_level: 2 }"),
        layer("level_up_to_1", "ReLU", "data", "level_up_to_1", "include { max_level: 1 }"),
        layer("level_1_to_3", "ReLU", "data", "level_1_to_3", "include { min_level: 1 max_level: 3 }"),
        layer("deploy", "ReLU", "data", "deploy", 'include { stage: "deploy" }'),
        layer("deploy_and_fast", "ReLU", "data", "both", 'include { stage: "deploy" stage: "fast" }'),
        layer("deploy_or_fast", "ReLU", "data", "either", 'include { stage: "deploy" } include { stage: "fast" }'),
        layer("not_fast", "ReLU", "data", "not_fast", 'include { not_stage: "fast" }'),
        layer("no_fast_test", "ReLU", "data", "no_fast_test", 'exclude { phase: TEST stage: "fast" }'),
        layer("deploy_level_1", "ReLU", "data", "deploy_level_1", 'include { stage: "deploy" min_level: 1 }'),
    ]
)


def _rules() -> Iterator[Case]:
    states: dict[str, tuple[str, int, tuple[str, ...]]] = {
        "test": ("TEST", 0, ()),
        "train": ("TRAIN", 0, ()),
        "level_1": ("TEST", 1, ()),
        "level_2_train": ("TRAIN", 2, ()),
        "level_4": ("TEST", 4, ()),
        "deploy": ("TEST", 0, ("deploy",)),
        "fast": ("TEST", 0, ("fast",)),
        "deploy_fast_level_1": ("TEST", 1, ("deploy", "fast")),
        "unknown_stage": ("TRAIN", 0, ("other",)),
    }
    for place, (name, (phase, level, stages)) in enumerate(states.items()):
        yield Case("rules", name, RULED, 2000 + place, phase, level, stages)


def _legacy() -> Iterator[Case]:
    fc = layer("fc", "InnerProduct", "data", "out", "inner_product_param { num_output: 3 }")
    both = layer("sum", "Eltwise", "left right", "out")
    nets = {
        "input_dim": 'input: "data" input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 2\n' + fc,
        "input_shape": 'input: "data" input_shape { dim: 2 dim: 5 }\n' + fc,
        "two_input_dims": 'input: "left" input: "right"\n'
        + "input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 " * 2
        + "\n"
        + both,
        "two_input_shapes": 'input: "left" input_shape { dim: 2 dim: 3 } input: "right" input_shape { dim: 2 dim: 3 }\n'
        + both,
        "input_used_twice": 'input: "data" input_shape { dim: 2 dim: 3 }\n'
        + layer("a", "Sigmoid", "data", "a")
        + layer("b", "TanH", "data", "b"),
        "batch_norm_params": inputs(data=(2, 3, 2))
        + layer("norm", "BatchNorm", "data", "out", "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }"),
        "unused_input": 'input: "data" input_shape { dim: 2 } input: "spare" input_shape { dim: 3 }\n'
        + layer("a", "ReLU", "data", "a"),
    }
    for place, (name, net) in enumerate(nets.items()):
        yield Case("legacy", name, f'name: "{name}"\n{net}', 2100 + place)


def _old(name: str, kind: str, bottoms: str, tops: str, body: str = "") -> str:
    """Write one layer as V1 prototxt does: `layers`, an enumerated type, blobs_lr beside."""
    return layer(name, kind, bottoms, tops, body).replace("layer {", "layers {").replace(f'"{kind}"', kind)


def _v1() -> Iterator[Case]:
    head = 'input: "data" input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 5\n'
    conv = _old(
        "conv", "CONVOLUTION", "data", "conv",
        "blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 "
        "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }",
    )  # fmt: skip
    lenet = (
        head
        + conv
        + _old("pool", "POOLING", "conv", "pool", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
        + _old("fc", "INNER_PRODUCT", "pool", "fc", "inner_product_param { num_output: 5 }")
        + _old("relu", "RELU", "fc", "fc")
        + _old("drop", "DROPOUT", "fc", "fc", "dropout_param { dropout_ratio: 0.5 }")
        + _old("prob", "SOFTMAX", "fc", "prob")
    )
    branches = (
        head
        + _old("split", "SPLIT", "data", "x y")
        + _old("sigmoid", "SIGMOID", "x", "sigmoid")
        + _old("tanh", "TANH", "y", "tanh")
        + _old("concat", "CONCAT", "sigmoid tanh", "joined", "concat_param { concat_dim: 1 }")
        + _old("norm", "LRN", "joined", "norm", "lrn_param { local_size: 3 alpha: 0.1 }")
        + _old("cut", "SLICE", "norm", "left right", "slice_param { slice_dim: 1 slice_point: 4 }")
        + _old("sum", "ELTWISE", "left right", "sum", "eltwise_param { operation: SUM coeff: 1 coeff: -1 }")
        + _old("flat", "FLATTEN", "sum", "flat")
    )
    upsampling = head + _old(
        "up", "DECONVOLUTION", "data", "up",
        "convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 group: 2 }"
    )  # fmt: skip
    ruled = (
        head
        + conv
        + _old("test", "RELU", "conv", "conv", "include { phase: TEST }")
        + _old("train", "SIGMOID", "conv", "conv", "include { phase: TRAIN }")
    )
    shared = head + conv.replace("blobs_lr: 1", 'param: "shared_weight" param: "shared_bias" blobs_lr: 1')
    nets = {"lenet": lenet, "branches": branches, "upsampling": upsampling, "ruled": ruled, "named": shared}
    for place, (name, net) in enumerate(nets.items()):
        yield Case("v1", name, f'name: "{name}"\n{net}', 2200 + place)
    for place, (name, net) in enumerate(nets.items()):
        yield Case("v1", f"{name}_v1_weights", f'name: "{name}"\n{net}', 2220 + place, weights="v1")
    yield Case("v1", "ruled_train", f'name: "ruled"\n{ruled}', 2240, phase="TRAIN")


SYNTAX = """# a comment, and settings in every form that the text format allows
name: 'single quoted' "\\x20and \\"joined\\""
layer < name: "data", type: "Input"; top: "data" input_param: < shape: { dim: [2, 3] dim: 0x4 } > >
layer: { name: "ip"
  type: "InnerProduct" bottom: "data" top: "ip"  # trailing
  param { lr_mult: 1 decay_mult: 1. } param { lr_mult: 2e0 decay_mult: .0 }
  inner_product_param { num_output: 5 bias_term: true axis: 01
    weight_filler { type: "gaussian" std: 1e-2 mean: -0.5f } }
};
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" relu_param { negative_slope: 1E-1 engine: DEFAULT } }
"""


def _syntax() -> Iterator[Case]:
    yield Case("syntax", "all_forms", SYNTAX, 2300)
    yield Case("syntax", "empty_bodies", inputs(data=(2, 3)) + layer("a", "ReLU", "data", "a", "relu_param {}"), 2301)
    yield Case("syntax", "windows_lines", inputs(data=(2, 3)).replace("\n", "\r\n"), 2302)


def _chains() -> Iterator[Case]:
    start = inputs(data=(2, 3, 5, 6)) + layer(
        "conv", "Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"
    )
    named = 'param { name: "w" } param { name: "b" } inner_product_param { num_output: 3 }'
    nets = {
        "in_place_then_branches": start
        + layer("relu", "ReLU", "conv", "conv")
        + layer("drop", "Dropout", "conv", "conv")
        + layer("a", "TanH", "conv", "a")
        + layer("b", "Sigmoid", "conv", "b"),
        "branch_in_place": start
        + layer("a", "ReLU", "conv", "a")
        + layer("a_in_place", "TanH", "a", "a")
        + layer("sum", "Eltwise", "conv a", "sum"),
        "residual": start
        + layer("conv2", "Convolution", "conv", "conv2", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }")
        + layer("sum", "Eltwise", "conv conv2", "sum")
        + layer("relu", "ReLU", "sum", "sum"),
        "two_splits_in_line": start
        + layer("a", "ReLU", "conv", "a")
        + layer("b", "TanH", "conv", "b")
        + layer("sum", "Eltwise", "a b", "sum")
        + layer("c", "Sigmoid", "sum", "c")
        + layer("join", "Concat", "sum c a", "join"),
        "shared_parameters": inputs(data=(2, 3))
        + layer("one", "InnerProduct", "data", "one", named)
        + layer("two", "InnerProduct", "one", "two", named),
        "two_outputs_one_unused": start
        + layer("cut", "Slice", "conv", "x y")
        + layer("act", "ReLU", "x", "x"),
    }  # fmt: skip
    for place, (name, net) in enumerate(nets.items()):
        yield Case("chains", name, net, 2400 + place)


def _conv(name: str, bottom: str, settings: str) -> str:
    """A convolution and its in-place ReLU."""
    return layer(name, "Convolution", bottom, name, f"convolution_param {{ {settings} }}") + layer(
        f"{name}_relu", "ReLU", name, name
    )


def _dense(name: str, bottom: str, outputs: int) -> str:
    return layer(name, "InnerProduct", bottom, name, f"inner_product_param {{ num_output: {outputs} }}")


def _pool(name: str, bottom: str, settings: str) -> str:
    return layer(name, "Pooling", bottom, name, f"pooling_param {{ {settings} }}")


def _lrn(name: str, bottom: str) -> str:
    return layer(name, "LRN", bottom, name, "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")


def _classics() -> Iterator[Case]:
    yield Case("nets", "lenet", _lenet(), 2500, weights="seeded", samples=SAMPLES)
    yield Case("nets", "alexnet_like", _alexnet(), 2501, weights="seeded", samples=SAMPLES, input_scale=50.0)
    yield Case("nets", "googlenet_like", _googlenet(), 2502, weights="seeded", samples=SAMPLES, input_scale=50.0)
    yield Case("nets", "resnet_like", _resnet(), 2503, weights="seeded", samples=SAMPLES)
    yield Case("nets", "fully_convolutional", _fully_convolutional(), 2504, weights="seeded", samples=SAMPLES)


def _lenet() -> str:
    return "".join(
        [
            'name: "LeNet"\n' + inputs(data=(4, 1, 28, 28)),
            layer("conv1", "Convolution", "data", "conv1", "convolution_param { num_output: 20 kernel_size: 5 }"),
            _pool("pool1", "conv1", "pool: MAX kernel_size: 2 stride: 2"),
            layer("conv2", "Convolution", "pool1", "conv2", "convolution_param { num_output: 50 kernel_size: 5 }"),
            _pool("pool2", "conv2", "pool: MAX kernel_size: 2 stride: 2"),
            _dense("ip1", "pool2", 500),
            layer("relu1", "ReLU", "ip1", "ip1"),
            _dense("ip2", "ip1", 10),
            layer("prob", "Softmax", "ip2", "prob"),
        ]
    )


def _alexnet() -> str:
    """AlexNet's layers and settings at a quarter of its width and a smaller frame."""
    parts = ['name: "AlexNet-like"\n' + inputs(data=(2, 3, 99, 99))]
    parts.append(_conv("conv1", "data", "num_output: 24 kernel_size: 11 stride: 4"))
    parts.append(_lrn("norm1", "conv1") + _pool("pool1", "norm1", "pool: MAX kernel_size: 3 stride: 2"))
    parts.append(_conv("conv2", "pool1", "num_output: 64 pad: 2 kernel_size: 5 group: 2"))
    parts.append(_lrn("norm2", "conv2") + _pool("pool2", "norm2", "pool: MAX kernel_size: 3 stride: 2"))
    parts.append(_conv("conv3", "pool2", "num_output: 96 pad: 1 kernel_size: 3"))
    parts.append(_conv("conv4", "conv3", "num_output: 96 pad: 1 kernel_size: 3 group: 2"))
    parts.append(_conv("conv5", "conv4", "num_output: 64 pad: 1 kernel_size: 3 group: 2"))
    parts.append(_pool("pool5", "conv5", "pool: MAX kernel_size: 3 stride: 2"))
    for name, bottom in (("fc6", "pool5"), ("fc7", "fc6")):
        parts.append(_dense(name, bottom, 256) + layer(f"relu_{name}", "ReLU", name, name))
        parts.append(layer(f"drop_{name}", "Dropout", name, name, "dropout_param { dropout_ratio: 0.5 }"))
    parts.append(_dense("fc8", "fc7", 100) + layer("prob", "Softmax", "fc8", "prob"))
    return "".join(parts)


def _inception(name: str, bottom: str, widths: tuple[int, int, int, int, int, int]) -> str:
    """GoogLeNet's module: 1x1, 1x1 → 3x3, 1x1 → 5x5 and pooling → 1x1, joined."""
    ones, reduce3, threes, reduce5, fives, pooled = widths
    return "".join(
        [
            _conv(f"{name}/1x1", bottom, f"num_output: {ones} kernel_size: 1"),
            _conv(f"{name}/3x3_reduce", bottom, f"num_output: {reduce3} kernel_size: 1"),
            _conv(f"{name}/3x3", f"{name}/3x3_reduce", f"num_output: {threes} kernel_size: 3 pad: 1"),
            _conv(f"{name}/5x5_reduce", bottom, f"num_output: {reduce5} kernel_size: 1"),
            _conv(f"{name}/5x5", f"{name}/5x5_reduce", f"num_output: {fives} kernel_size: 5 pad: 2"),
            _pool(f"{name}/pool", bottom, "pool: MAX kernel_size: 3 stride: 1 pad: 1"),
            _conv(f"{name}/pool_proj", f"{name}/pool", f"num_output: {pooled} kernel_size: 1"),
            layer(
                f"{name}/output",
                "Concat",
                f"{name}/1x1 {name}/3x3 {name}/5x5 {name}/pool_proj",
                f"{name}/output",
            ),
        ]
    )


def _googlenet() -> str:
    """GoogLeNet's stem and three of its modules, at reduced width."""
    return "".join(
        [
            'name: "GoogLeNet-like"\n' + inputs(data=(1, 3, 112, 112)),
            _conv("conv1/7x7_s2", "data", "num_output: 16 kernel_size: 7 pad: 3 stride: 2"),
            _pool("pool1/3x3_s2", "conv1/7x7_s2", "pool: MAX kernel_size: 3 stride: 2"),
            _lrn("pool1/norm1", "pool1/3x3_s2"),
            _conv("conv2/3x3_reduce", "pool1/norm1", "num_output: 16 kernel_size: 1"),
            _conv("conv2/3x3", "conv2/3x3_reduce", "num_output: 48 kernel_size: 3 pad: 1"),
            _lrn("conv2/norm2", "conv2/3x3"),
            _pool("pool2/3x3_s2", "conv2/norm2", "pool: MAX kernel_size: 3 stride: 2"),
            _inception("inception_3a", "pool2/3x3_s2", (16, 24, 32, 4, 8, 8)),
            _inception("inception_3b", "inception_3a/output", (32, 32, 48, 8, 24, 16)),
            _pool("pool3/3x3_s2", "inception_3b/output", "pool: MAX kernel_size: 3 stride: 2"),
            _inception("inception_4a", "pool3/3x3_s2", (48, 24, 52, 4, 12, 16)),
            _pool("pool5/7x7_s1", "inception_4a/output", "pool: AVE kernel_size: 7 stride: 1"),
            layer("pool5/drop", "Dropout", "pool5/7x7_s1", "pool5/7x7_s1", "dropout_param { dropout_ratio: 0.4 }"),
            _dense("loss3/classifier", "pool5/7x7_s1", 50),
            layer("prob", "Softmax", "loss3/classifier", "prob"),
        ]
    )


def _normalised(name: str, bottom: str, settings: str) -> str:
    return (
        layer(name, "Convolution", bottom, name, f"convolution_param {{ bias_term: false {settings} }}")
        + layer(f"bn_{name}", "BatchNorm", name, name, "batch_norm_param { use_global_stats: true }")
        + layer(f"scale_{name}", "Scale", name, name, "scale_param { bias_term: true }")
    )


def _resnet() -> str:
    """ResNet's stem and two bottleneck blocks, at reduced width."""
    parts = ['name: "ResNet-like"\n' + inputs(data=(1, 3, 64, 64))]
    parts.append(_normalised("conv1", "data", "num_output: 16 kernel_size: 7 pad: 3 stride: 2"))
    parts.append(layer("conv1_relu", "ReLU", "conv1", "conv1"))
    parts.append(_pool("pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2"))
    bottom = "pool1"
    for block, project in (("res2a", True), ("res2b", False)):
        shortcut = f"{block}_branch1" if project else bottom
        if project:
            parts.append(_normalised(shortcut, bottom, "num_output: 32 kernel_size: 1"))
        parts.append(_normalised(f"{block}_branch2a", bottom, "num_output: 8 kernel_size: 1"))
        parts.append(layer(f"{block}_branch2a_relu", "ReLU", f"{block}_branch2a", f"{block}_branch2a"))
        parts.append(_normalised(f"{block}_branch2b", f"{block}_branch2a", "num_output: 8 kernel_size: 3 pad: 1"))
        parts.append(layer(f"{block}_branch2b_relu", "ReLU", f"{block}_branch2b", f"{block}_branch2b"))
        parts.append(_normalised(f"{block}_branch2c", f"{block}_branch2b", "num_output: 32 kernel_size: 1"))
        parts.append(layer(block, "Eltwise", f"{shortcut} {block}_branch2c", block))
        parts.append(layer(f"{block}_relu", "ReLU", block, block))
        bottom = block
    parts.append(_pool("pool5", bottom, "pool: AVE global_pooling: true"))
    parts.append(_dense("fc", "pool5", 20) + layer("prob", "Softmax", "fc", "prob"))
    return "".join(parts)


def _fully_convolutional() -> str:
    """FCN's tail: scores at two strides, upsampled, cropped onto each other and then onto the image."""
    score = "convolution_param { num_output: 5 kernel_size: 1 }"
    upsample = "convolution_param { num_output: 5 kernel_size: 4 stride: 2 bias_term: false }"
    return "".join(
        [
            'name: "FCN-like"\n' + inputs(data=(1, 3, 37, 45)),
            _conv("conv1", "data", "num_output: 8 kernel_size: 3 pad: 10"),
            _pool("pool1", "conv1", "pool: MAX kernel_size: 2 stride: 2"),
            _conv("conv2", "pool1", "num_output: 12 kernel_size: 3 pad: 1"),
            _pool("pool2", "conv2", "pool: MAX kernel_size: 2 stride: 2"),
            layer("score2", "Convolution", "pool2", "score2", score),
            layer("up2", "Deconvolution", "score2", "up2", upsample),
            layer("score1", "Convolution", "pool1", "score1", score),
            layer("up2c", "Crop", "up2 score1", "up2c", "crop_param { axis: 2 offset: 1 }"),
            layer("fuse", "Eltwise", "up2c score1", "fuse", "eltwise_param { operation: SUM }"),
            layer("up1", "Deconvolution", "fuse", "up1", upsample),
            layer("score", "Crop", "up1 data", "score", "crop_param { axis: 2 offset: 9 }"),
        ]
    )


def _openpose() -> Iterator[Case]:
    for place, name in enumerate(topologies.NAMES):
        net = topologies.prototxt(name, 48, 64)
        yield Case("openpose", name, net, 2600 + place, weights="seeded", samples=SAMPLES)
