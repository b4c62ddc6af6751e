"""The cases of the layer types that compute: a layer under each of its settings, on small blobs.

Hand-picked settings come first, then, where a type has many numbers, some drawn at random from a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from prototxt import FRAME, Case, Shape, input_layer, inputs, layer, one_layer


def layer_cases() -> list[Case]:
    generators = (
        _input, _convolution, _deconvolution, _pooling, _inner_product, _lrn, _activations, _dropout, _batch_norm,
        _scale, _eltwise, _softmax, _fillers,
    )  # fmt: skip
    return [case for generator in generators for case in generator()]


def _input() -> Iterator[Case]:
    nets = {
        "one": inputs(data=(2, 3)),
        "scalar": 'layer { name: "data" type: "Input" top: "data" input_param { shape { } } }\n',
        "two_layers": inputs(left=(1, 2, 3), right=(4,)) + layer("act", "ReLU", "left", "out"),
        "tops_share_a_shape": layer("in", "Input", "", "a b c", "input_param { shape { dim: 2 dim: 3 } }"),
        "tops_with_their_own_shapes": layer(
            "in", "Input", "", "a b", "input_param { shape { dim: 2 dim: 3 } shape { dim: 5 } }"
        ),
        "six_axes": inputs(data=(1, 2, 1, 2, 3, 2)) + layer("act", "ReLU", "data", "out"),
    }
    for place, (name, net) in enumerate(nets.items()):
        yield Case("Input", name, net, 100 + place)


def _convolution() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "plain": (FRAME, "num_output: 5 kernel_size: 3"),
        "pad_stride": (FRAME, "num_output: 3 kernel_size: 3 pad: 1 stride: 2"),
        "point": (FRAME, "num_output: 6 kernel_size: 1"),
        "group": (FRAME, "num_output: 6 kernel_size: 3 group: 2 pad: 1"),
        "depthwise": (FRAME, "num_output: 4 kernel_size: 3 group: 4 pad: 1 bias_term: false"),
        "dilation": (FRAME, "num_output: 3 kernel_size: 3 dilation: 2 pad: 2"),
        "no_bias": (FRAME, "num_output: 3 kernel_size: 2 bias_term: false"),
        "h_and_w": (FRAME, "num_output: 3 kernel_h: 1 kernel_w: 4 pad_h: 0 pad_w: 2 stride_h: 2 stride_w: 1"),
        "repeated": (
            FRAME,
            "num_output: 3 kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 1 pad: 0 dilation: 1 dilation: 3",
        ),
        "kernel_of_the_frame": (FRAME, "num_output: 7 kernel_h: 7 kernel_w: 9"),
        "one_space_axis": ((2, 3, 11), "num_output: 4 kernel_size: 3 stride: 2 pad: 1"),
        "three_space_axes": ((1, 2, 4, 5, 6), "num_output: 3 kernel_size: 3 kernel_size: 2 kernel_size: 1 pad: 1"),
        "axis_2": ((2, 2, 3, 5, 6), "num_output: 4 kernel_size: 3 axis: 2"),
    }
    rows = {name: (shape, f"convolution_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("Convolution", rows | _drawn_convolutions(6, 4000), 200)
    net = inputs(a=FRAME, b=FRAME) + layer(
        "tested", "Convolution", "a b", "out_a out_b", "convolution_param { num_output: 3 kernel_size: 3 }"
    )
    yield Case("Convolution", "two_bottoms", net, 250)


def _drawn_convolutions(count: int, seed: int) -> dict[str, tuple[Shape, str]]:
    draw = random.Random(seed)
    rows: dict[str, tuple[Shape, str]] = {}
    for number in range(count):
        group = draw.choice([1, 1, 2, 3])
        shape = (draw.choice([1, 2, 3]), group * draw.randint(1, 3), draw.randint(7, 12), draw.randint(7, 12))
        body = (
            f"num_output: {group * draw.randint(1, 3)} group: {group} kernel_h: {draw.randint(1, 3)} "
            f"kernel_w: {draw.randint(1, 3)} stride_h: {draw.randint(1, 3)} stride_w: {draw.randint(1, 3)} "
            f"pad_h: {draw.randint(0, 2)} pad_w: {draw.randint(0, 2)} dilation: {draw.randint(1, 3)}"
        )
        rows[f"drawn_{number}"] = (shape, f"convolution_param {{ {body} }}")
    return rows


def _deconvolution() -> Iterator[Case]:
    frame = (2, 4, 4, 5)
    table: dict[str, tuple[Shape, str]] = {
        "plain": (frame, "num_output: 3 kernel_size: 3"),
        "stride": (frame, "num_output: 3 kernel_size: 4 stride: 2"),
        "pad": (frame, "num_output: 3 kernel_size: 4 stride: 2 pad: 1"),
        "group": (frame, "num_output: 6 kernel_size: 3 stride: 2 group: 2"),
        "depthwise": (frame, "num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 bias_term: false"),
        "dilation": (frame, "num_output: 3 kernel_size: 3 dilation: 2 pad: 1"),
        "stride_and_dilation": (frame, "num_output: 2 kernel_size: 2 dilation: 3 stride: 2"),
        "h_and_w": (frame, "num_output: 3 kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 0"),
        "point": (frame, "num_output: 3 kernel_size: 1 bias_term: false"),
    }
    rows = {name: (shape, f"convolution_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("Deconvolution", rows | _drawn_deconvolutions(4, 4100), 300)


def _drawn_deconvolutions(count: int, seed: int) -> dict[str, tuple[Shape, str]]:
    draw = random.Random(seed)
    rows: dict[str, tuple[Shape, str]] = {}
    for number in range(count):
        group = draw.choice([1, 2])
        shape = (draw.choice([1, 2]), group * draw.randint(1, 2), draw.randint(3, 6), draw.randint(3, 6))
        body = (
            f"num_output: {group * draw.randint(1, 2)} group: {group} kernel_h: {draw.randint(2, 4)} "
            f"kernel_w: {draw.randint(2, 4)} stride_h: {draw.randint(1, 3)} stride_w: {draw.randint(1, 3)} "
            f"pad_h: {draw.randint(0, 1)} pad_w: {draw.randint(0, 1)} dilation: {draw.randint(1, 2)}"
        )
        rows[f"drawn_{number}"] = (shape, f"convolution_param {{ {body} }}")
    return rows


def _pooling() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "default_is_max": (FRAME, "kernel_size: 2 stride: 2"),
        "max_overlapping": (FRAME, "pool: MAX kernel_size: 3 stride: 2"),
        "max_ceil": ((1, 2, 8, 6), "pool: MAX kernel_size: 3 stride: 2"),
        "max_pad": (FRAME, "pool: MAX kernel_size: 3 stride: 2 pad: 1"),
        "max_clipped": ((1, 2, 6, 6), "pool: MAX kernel_size: 2 stride: 2 pad: 1"),
        "max_window_outside": ((1, 2, 5, 6), "pool: MAX kernel_size: 1 stride: 3"),
        "max_window_outside_rows": ((1, 2, 5, 8), "pool: MAX kernel_h: 1 kernel_w: 5 stride: 3"),
        "max_global": (FRAME, "pool: MAX global_pooling: true"),
        "ave": (FRAME, "pool: AVE kernel_size: 3 stride: 2"),
        "ave_pad": (FRAME, "pool: AVE kernel_size: 3 stride: 2 pad: 1"),
        "ave_pad_stride_1": (FRAME, "pool: AVE kernel_size: 5 stride: 1 pad: 2"),
        "ave_ceil": ((1, 2, 8, 6), "pool: AVE kernel_size: 3 stride: 2"),
        "ave_clipped": ((1, 2, 6, 6), "pool: AVE kernel_size: 2 stride: 2 pad: 1"),
        "ave_window_outside": ((1, 2, 5, 6), "pool: AVE kernel_size: 1 stride: 3"),
        "ave_window_outside_wide": ((1, 2, 6, 6), "pool: AVE kernel_size: 1 stride: 4"),
        "ave_global": (FRAME, "pool: AVE global_pooling: true"),
        "ave_whole_frame": ((1, 3, 7, 7), "pool: AVE kernel_size: 7 stride: 1"),
        "h_and_w": (FRAME, "pool: AVE kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1"),
        "floor": (FRAME, "pool: MAX kernel_size: 2 stride: 2 round_mode: FLOOR"),
        "stride_defaults_to_1": (FRAME, "pool: MAX kernel_size: 3"),
    }
    rows = {name: (shape, f"pooling_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("Pooling", rows | _drawn_poolings(8, 4200), 400)
    net = inputs(data=FRAME) + layer(
        "tested", "Pooling", "data", "out mask", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"
    )
    yield Case("Pooling", "max_with_mask", net, 450)


def _drawn_poolings(count: int, seed: int) -> dict[str, tuple[Shape, str]]:
    draw = random.Random(seed)
    rows: dict[str, tuple[Shape, str]] = {}
    for number in range(count):
        kernel = (draw.randint(2, 5), draw.randint(2, 5))
        shape = (draw.choice([1, 2]), draw.choice([1, 3]), draw.randint(5, 11), draw.randint(5, 11))
        body = (
            f"pool: {draw.choice(['MAX', 'AVE'])} kernel_h: {kernel[0]} kernel_w: {kernel[1]} "
            f"stride_h: {draw.randint(1, 4)} stride_w: {draw.randint(1, 4)} "
            f"pad_h: {draw.randint(0, kernel[0] - 1)} pad_w: {draw.randint(0, kernel[1] - 1)}"
        )
        rows[f"drawn_{number}"] = (shape, f"pooling_param {{ {body} }}")
    return rows


def _inner_product() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "plain": (FRAME, "num_output: 5"),
        "flat": ((3, 6), "num_output: 4"),
        "no_bias": (FRAME, "num_output: 5 bias_term: false"),
        "axis_2": (FRAME, "num_output: 5 axis: 2"),
        "axis_last": (FRAME, "num_output: 5 axis: -1"),
        "axis_0": ((2, 3, 4), "num_output: 5 axis: 0"),
        "transpose": (FRAME, "num_output: 5 transpose: true"),
        "transpose_axis_3": (FRAME, "num_output: 5 transpose: true axis: 3 bias_term: false"),
        "one_output": ((4, 3, 2), "num_output: 1"),
    }
    rows = {name: (shape, f"inner_product_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("InnerProduct", rows, 500)


def _lrn() -> Iterator[Case]:
    frame = (2, 7, 5, 6)
    table = {
        "defaults": "",
        "alexnet": "local_size: 5 alpha: 0.0001 beta: 0.75",
        "strong": "local_size: 3 alpha: 2 beta: 0.5",
        "k": "local_size: 5 alpha: 0.5 beta: 0.75 k: 2",
        "wider_than_channels": "local_size: 15 alpha: 1 k: 1.5",
        "size_1": "local_size: 1 alpha: 0.3 beta: 1.25",
        "within": "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.7 beta: 0.75",
        "within_5": "norm_region: WITHIN_CHANNEL local_size: 5 alpha: 1 beta: 0.5",
        "within_larger_than_frame": "norm_region: WITHIN_CHANNEL local_size: 7 alpha: 1",
        "within_ignores_k": "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 1 k: 2",
    }
    rows = {name: (frame, f"lrn_param {{ {body} }}") for name, body in table.items()}
    yield from one_layer("LRN", rows, 600, scale=2.0)


def _activations() -> Iterator[Case]:
    relu: dict[str, tuple[Shape, str]] = {
        "plain": (FRAME, ""),
        "flat": ((3, 5), ""),
        "negative_slope": (FRAME, "relu_param { negative_slope: 0.1 }"),
        "negative_slope_zero": (FRAME, "relu_param { negative_slope: 0 }"),
        "engine_named": (FRAME, "relu_param { engine: CAFFE }"),
    }
    prelu: dict[str, tuple[Shape, str]] = {
        "plain": (FRAME, ""),
        "shared": (FRAME, "prelu_param { channel_shared: true }"),
        "flat": ((3, 5), ""),
        "three_axes": ((2, 3, 4), ""),
        "with_filler": (FRAME, 'prelu_param { filler { type: "constant" value: 0.1 } }'),
    }
    smooth: dict[str, tuple[Shape, str]] = {"plain": (FRAME, ""), "flat": ((3, 5), ""), "one_axis": ((6,), "")}
    yield from one_layer("ReLU", relu, 700)
    yield from one_layer("PReLU", prelu, 720)
    yield from one_layer("Sigmoid", smooth, 740)
    yield from one_layer("TanH", smooth, 760)
    for place, kind in enumerate(("ReLU", "PReLU", "Sigmoid", "TanH")):
        extreme = inputs(data=(4, 10)) + layer("tested", kind, "data", "out")
        yield Case(kind, "extreme_values", extreme, 780 + place, input_scale=60.0)
        before = inputs(data=FRAME) + layer(
            "before", "Convolution", "data", "mid", "convolution_param { num_output: 3 kernel_size: 1 }"
        )
        yield Case(kind, "in_place", before + layer("tested", kind, "mid", "mid"), 785 + place)
        chain = before + layer("tested", kind, "mid", "mid") + layer("again", kind, "mid", "mid")
        yield Case(kind, "in_place_twice", chain, 790 + place)
    slope = before + layer("tested", "ReLU", "mid", "mid", "relu_param { negative_slope: 0.3 }")
    yield Case("ReLU", "in_place_negative_slope", slope, 795)


def _dropout() -> Iterator[Case]:
    rows: dict[str, tuple[Shape, str]] = {
        "defaults": (FRAME, ""),
        "ratio": (FRAME, "dropout_param { dropout_ratio: 0.3 }"),
        "flat": ((3, 5), "dropout_param { dropout_ratio: 0.9 }"),
    }
    yield from one_layer("Dropout", rows, 800)
    net = (
        inputs(data=(2, 6))
        + layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 4 }")
        + layer("relu", "ReLU", "fc", "fc")
        + layer("tested", "Dropout", "fc", "fc", "dropout_param { dropout_ratio: 0.5 }")
        + layer("last", "InnerProduct", "fc", "out", "inner_product_param { num_output: 3 }")
    )
    yield Case("Dropout", "in_place", net, 810)


def _batch_norm() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "defaults": (FRAME, ""),
        "global_stats": (FRAME, "use_global_stats: true"),
        "eps": (FRAME, "use_global_stats: true eps: 0.1"),
        "flat": ((3, 5), "use_global_stats: true"),
        "three_axes": ((2, 3, 4), ""),
        "batch_stats": (FRAME, "use_global_stats: false"),
        "batch_stats_fraction": (FRAME, "use_global_stats: false moving_average_fraction: 0.9 eps: 0.01"),
    }
    rows = {name: (shape, f"batch_norm_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("BatchNorm", rows, 900)
    yield Case("BatchNorm", "train_phase", inputs(data=FRAME) + layer("tested", "BatchNorm", "data", "out"), 920,
               phase="TRAIN")  # fmt: skip
    unfilled = inputs(data=FRAME) + layer("tested", "BatchNorm", "data", "out")
    yield Case("BatchNorm", "scale_factor_zero", unfilled, 921, fill=False)
    block = (
        inputs(data=FRAME)
        + layer("conv", "Convolution", "data", "conv",
                "convolution_param { num_output: 3 kernel_size: 3 bias_term: false }")
        + layer("norm", "BatchNorm", "conv", "conv")
        + layer("scale", "Scale", "conv", "conv", "scale_param { bias_term: true }")
        + layer("relu", "ReLU", "conv", "conv")
    )  # fmt: skip
    yield Case("BatchNorm", "in_place_block", block, 922)


def _scale() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "defaults": (FRAME, ""),
        "bias": (FRAME, "bias_term: true"),
        "flat": ((3, 5), "bias_term: true"),
        "axis_0": (FRAME, "axis: 0"),
        "axis_0_two_axes": (FRAME, "axis: 0 num_axes: 2 bias_term: true"),
        "axis_2_to_the_end": (FRAME, "axis: 2 num_axes: -1"),
        "axis_last": (FRAME, "axis: -1 bias_term: true"),
        "scalar": (FRAME, "num_axes: 0 bias_term: true"),
        "all_axes": ((2, 3, 4), "axis: 0 num_axes: -1"),
    }
    rows = {name: (shape, f"scale_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("Scale", rows, 1000)
    factors: dict[str, tuple[Shape, str]] = {
        "two_bottoms_channels": ((4,), ""),
        "two_bottoms_batch_and_channels": ((2, 4), "scale_param { axis: 0 }"),
        "two_bottoms_last_axes": ((7, 9), "scale_param { axis: 2 }"),
        "two_bottoms_bias": ((4, 7), "scale_param { axis: 1 bias_term: true }"),
        "two_bottoms_same_shape": (FRAME, "scale_param { axis: 0 }"),
    }
    for place, (name, (shape, body)) in enumerate(factors.items()):
        net = inputs(data=FRAME, factor=shape) + layer("tested", "Scale", "data factor", "out", body)
        yield Case("Scale", name, net, 1020 + place)
    net = inputs(data=FRAME) + layer("act", "ReLU", "data", "mid") + layer("tested", "Scale", "mid", "mid")
    yield Case("Scale", "in_place", net, 1030)


def _eltwise() -> Iterator[Case]:
    table = {
        "default_is_sum": ("a b", ""),
        "sum_of_three": ("a b c", "eltwise_param { operation: SUM }"),
        "coefficients": ("a b", "eltwise_param { operation: SUM coeff: 1 coeff: -1 }"),
        "coefficients_of_three": ("a b c", "eltwise_param { operation: SUM coeff: 0.5 coeff: 2 coeff: -3.25 }"),
        "product": ("a b", "eltwise_param { operation: PROD }"),
        "product_of_three": ("a b c", "eltwise_param { operation: PROD stable_prod_grad: false }"),
        "maximum": ("a b", "eltwise_param { operation: MAX }"),
        "maximum_of_three": ("a b c", "eltwise_param { operation: MAX }"),
        "same_bottom_twice": ("a a", "eltwise_param { operation: PROD }"),
    }
    for place, (name, (bottoms, body)) in enumerate(table.items()):
        blobs = {blob: FRAME for blob in sorted(set(bottoms.split()))}
        net = inputs(**blobs) + layer("tested", "Eltwise", bottoms, "out", body)
        yield Case("Eltwise", name, net, 1100 + place)
    # In place, real Caffe clears the top before it reads: a sum's first bottom counts as 0, a maximum's as -FLT_MAX.
    in_place = {"sum": "coeff: 2 coeff: 0.5", "product": "operation: PROD", "maximum": "operation: MAX"}
    for place, (name, body) in enumerate(in_place.items()):
        net = (
            inputs(a=(2, 3), b=(2, 3))
            + layer("act", "TanH", "a", "mid")
            + layer("tested", "Eltwise", "mid b", "mid", f"eltwise_param {{ {body} }}")
        )
        yield Case("Eltwise", f"in_place_{name}", net, 1120 + place)


def _softmax() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "defaults": (FRAME, ""),
        "flat": ((3, 5), ""),
        "axis_0": ((3, 5), "softmax_param { axis: 0 }"),
        "axis_2": (FRAME, "softmax_param { axis: 2 }"),
        "axis_last": (FRAME, "softmax_param { axis: -1 }"),
        "one_class": ((3, 1, 2), ""),
        "one_axis": ((6,), "softmax_param { axis: 0 }"),
    }
    yield from one_layer("Softmax", table, 1800)
    yield Case("Softmax", "large_values", inputs(data=(3, 5)) + layer("tested", "Softmax", "data", "out"), 1820,
               input_scale=80.0)  # fmt: skip
    net = inputs(data=(3, 5)) + layer("act", "TanH", "data", "mid") + layer("tested", "Softmax", "mid", "mid")
    yield Case("Softmax", "in_place", net, 1821)


def _fillers() -> Iterator[Case]:
    """Fillers that draw nothing at random: what the parameters hold when no weights are given."""
    net = input_layer("data", (1, 2, 4, 5))
    bodies = {
        "constant": ("Convolution", 'num_output: 2 kernel_size: 3 weight_filler { type: "constant" value: 0.25 } '
                     'bias_filler { type: "constant" value: -1 }'),
        "default_is_zero": ("Convolution", "num_output: 2 kernel_size: 3"),
        "bilinear_upsampling": ("Deconvolution", 'num_output: 2 group: 2 kernel_size: 4 stride: 2 pad: 1 '
                                'bias_term: false weight_filler { type: "bilinear" }'),
        "bilinear_odd": ("Deconvolution", 'num_output: 2 group: 2 kernel_size: 5 stride: 3 pad: 1 bias_term: false '
                         'weight_filler { type: "bilinear" }'),
    }  # fmt: skip
    for place, (name, (kind, body)) in enumerate(bodies.items()):
        case_net = net + layer("tested", kind, "data", "out", f"convolution_param {{ {body} }}")
        yield Case("fillers", name, case_net, 1900 + place, fill=False)
    scaled = net + layer("tested", "Scale", "data", "out", "scale_param { bias_term: true }")
    yield Case("fillers", "scale_is_one", scaled, 1910, fill=False)
    yield Case("fillers", "prelu_is_a_quarter", net + layer("tested", "PReLU", "data", "out"), 1911, fill=False)
