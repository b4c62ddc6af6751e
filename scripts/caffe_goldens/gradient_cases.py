"""The drawn cases of gradients: each layer type under settings drawn at random from a fixed seed, small blobs.

`training_cases.py` holds the hand-picked ones, `backward_cases.py` those where several layers play together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from prototxt import Case, Shape, dims, inputs, layer, named_seed

Draw = Callable[[Random], tuple[Shape, str]]  # the shape of the layer's bottom, and its settings


def gradient_cases() -> list[Case]:
    generators = (_sliding, _dense, _normalising, _elementwise, _two_bottoms, _joining, _shaping, _tied, _recurrent)
    cases = [case for generator in generators for case in generator()]
    return [named_seed(case) for case in cases]


def _drawn(kind: str, count: int, draw: Draw, scale: float = 1.0, phase: str = "TEST") -> Iterator[Case]:
    """One net per number: an input, and the layer."""
    stream = Random(f"{kind} {phase}")
    for number in range(count):
        shape, body = draw(stream)
        net = inputs(data=shape) + layer("tested", kind, "data", "out", body)
        suffix = "_train" if phase == "TRAIN" else ""
        yield Case("drawn", f"{kind.lower()}_{number}{suffix}", net, 0, phase=phase, input_scale=scale)


def _frame(draw: Random, low: int = 3, high: int = 7) -> Shape:
    return draw.randint(1, 3), draw.randint(1, 4), draw.randint(low, high), draw.randint(low, high)


def _any_shape(draw: Random) -> Shape:
    return tuple(draw.randint(2, 4) for _ in range(draw.randint(2, 4)))


def _bool(draw: Random) -> str:
    return draw.choice(["true", "false"])


def _sliding() -> Iterator[Case]:
    def convolution(draw: Random) -> tuple[Shape, str]:
        group = draw.choice([1, 1, 2])
        shape = (draw.randint(1, 2), group * draw.randint(1, 2), draw.randint(5, 8), draw.randint(5, 8))
        body = (
            f"num_output: {group * draw.randint(1, 3)} group: {group} kernel_h: {draw.randint(1, 3)} "
            f"kernel_w: {draw.randint(1, 3)} stride_h: {draw.randint(1, 3)} stride_w: {draw.randint(1, 2)} "
            f"pad_h: {draw.randint(0, 2)} pad_w: {draw.randint(0, 2)} dilation: {draw.randint(1, 2)} "
            f"bias_term: {_bool(draw)}"
        )
        return shape, f"convolution_param {{ {body} }}"

    def pooling(draw: Random) -> tuple[Shape, str]:
        kernel = (draw.randint(2, 4), draw.randint(2, 4))
        body = (
            f"pool: {draw.choice(['MAX', 'AVE'])} kernel_h: {kernel[0]} kernel_w: {kernel[1]} "
            f"stride_h: {draw.randint(1, kernel[0])} stride_w: {draw.randint(1, kernel[1])} "
            f"pad_h: {draw.randint(0, kernel[0] - 1)} pad_w: {draw.randint(0, kernel[1] - 1)} "
            f"round_mode: {draw.choice(['CEIL', 'FLOOR'])}"
        )
        return _frame(draw, 5, 8), f"pooling_param {{ {body} }}"

    def pyramid(draw: Random) -> tuple[Shape, str]:
        # AVE is not implemented there, and height 1 is a shortcut of its own.
        return _frame(draw, 6, 9), f"spp_param {{ pyramid_height: {draw.randint(1, 3)} pool: MAX }}"

    def im2col(draw: Random) -> tuple[Shape, str]:
        body = (
            f"kernel_h: {draw.randint(1, 3)} kernel_w: {draw.randint(1, 3)} stride: {draw.randint(1, 2)} "
            f"pad: {draw.randint(0, 1)} dilation: {draw.randint(1, 2)}"
        )
        return _frame(draw, 5, 6), f"convolution_param {{ {body} }}"

    yield from _drawn("Convolution", 8, convolution)
    yield from _drawn("Deconvolution", 8, convolution)
    yield from _drawn("Pooling", 12, pooling)
    yield from _drawn("SPP", 4, pyramid)
    yield from _drawn("Im2col", 4, im2col)


def _dense() -> Iterator[Case]:
    def product(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        body = (
            f"num_output: {draw.randint(1, 5)} axis: {draw.randint(1, len(shape) - 1)} "
            f"transpose: {_bool(draw)} bias_term: {_bool(draw)}"
        )
        return shape, f"inner_product_param {{ {body} }}"

    yield from _drawn("InnerProduct", 6, product)
    stream = Random("Embed")
    for number in range(4):
        words = stream.randint(3, 6)
        net = inputs(label=tuple(stream.randint(2, 4) for _ in range(number % 3 + 1))) + layer(
            "tested",
            "Embed",
            "label",
            "out",
            f"loss_weight: {stream.choice([0.5, 1.5])} embed_param {{ num_output: {stream.randint(1, 4)} "
            f"input_dim: {words} bias_term: {_bool(stream)} }}",
        )
        yield Case("drawn", f"embed_{number}", net, 0, classes=words, forced=False)


def _normalising() -> Iterator[Case]:
    def lrn(draw: Random) -> tuple[Shape, str]:
        region = draw.choice(["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
        body = (
            f"norm_region: {region} local_size: {draw.choice([3, 5])} alpha: {draw.choice([0.01, 0.5, 2])} "
            f"beta: {draw.choice([0.5, 0.75, 1.5])}"
        )
        across = f" k: {draw.choice([1, 2, 0.5])}" if region == "ACROSS_CHANNELS" else ""
        return (2, draw.randint(3, 7), draw.randint(3, 5), draw.randint(3, 5)), f"lrn_param {{ {body}{across} }}"

    def batch_norm(draw: Random) -> tuple[Shape, str]:
        body = f"eps: {draw.choice([1e-5, 0.01])} moving_average_fraction: {draw.choice([0.999, 0.9, 0.5])}"
        statistics = draw.choice(["", " use_global_stats: true", " use_global_stats: false"])
        return (4, *_any_shape(draw)), f"batch_norm_param {{ {body}{statistics} }}"

    def mvn(draw: Random) -> tuple[Shape, str]:
        body = f"normalize_variance: {_bool(draw)} across_channels: {_bool(draw)} eps: {draw.choice([1e-9, 1e-3])}"
        return _frame(draw), f"mvn_param {{ {body} }}"

    def softmax(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        return shape, f"softmax_param {{ axis: {draw.randint(-len(shape), len(shape) - 1)} }}"

    yield from _drawn("LRN", 8, lrn, scale=1.5)
    yield from _drawn("BatchNorm", 8, batch_norm, phase="TRAIN")
    yield from _drawn("BatchNorm", 3, batch_norm)
    yield from _drawn("MVN", 6, mvn)
    yield from _drawn("Softmax", 4, softmax, scale=2.0)


def _number(draw: Random, low: float, high: float) -> float:
    return round(draw.uniform(low, high), 2)


def _elementwise() -> Iterator[Case]:
    def under(parameter: str, *settings: str) -> Draw:
        """Draw settings written as `name low high`."""

        def draw_settings(draw: Random) -> tuple[Shape, str]:
            words = [setting.split() for setting in settings]
            body = " ".join(f"{name}: {_number(draw, float(low), float(high))}" for name, low, high in words)
            return _any_shape(draw), f"{parameter} {{ {body} }}"

        return draw_settings

    def prelu(draw: Random) -> tuple[Shape, str]:
        return _any_shape(draw), f"prelu_param {{ channel_shared: {_bool(draw)} }}"

    def scale(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        axis = draw.randint(0, len(shape) - 1)
        count = draw.choice([-1, *range(len(shape) - axis + 1)])
        return shape, f"scale_param {{ axis: {axis} num_axes: {count} bias_term: {_bool(draw)} }}"

    def bias(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        axis = draw.randint(0, len(shape) - 1)
        return shape, f"bias_param {{ axis: {axis} num_axes: {draw.choice([-1, *range(len(shape) - axis + 1)])} }}"

    yield from _drawn("ReLU", 2, under("relu_param", "negative_slope -0.5 1.5"))
    yield from _drawn("ELU", 3, under("elu_param", "alpha 0.1 2"))
    yield from _drawn("Swish", 3, under("swish_param", "beta -1 2"), scale=2.0)
    yield from _drawn("Clip", 2, under("clip_param", "min -1 -0.1", "max 0.1 1"))
    yield from _drawn("Exp", 4, under("exp_param", "base 0.5 3", "scale -1 1", "shift -1 1"))
    yield from _drawn("Log", 4, under("log_param", "base 2 9", "scale 0.2 0.6", "shift 2 4"), scale=0.5)
    yield from _drawn("Power", 4, under("power_param", "power -2 3", "scale 0.2 0.6", "shift 2 4"), scale=0.5)
    yield from _drawn("PReLU", 3, prelu)
    yield from _drawn("Scale", 6, scale)
    yield from _drawn("Bias", 5, bias)
    # In place, for the types whose gradient can do without the bottom, and for some whose gradient then is another.
    bodies = {
        "ELU": "elu_param { alpha: 0.7 }", "Exp": "exp_param { scale: 0.5 }", "BNLL": "",
        "Clip": "clip_param { min: -0.5 max: 0.5 }", "Power": "power_param { power: 1 scale: 2 shift: 1 }",
        "BatchNorm": "batch_norm_param { use_global_stats: false }", "Bias": "", "Scale": "scale_param { axis: 0 }",
        "PReLU": "", "MVN": "", "Swish": "",
    }  # fmt: skip
    for kind, body in bodies.items():
        net = inputs(data=(3, 4)) if kind != "MVN" else inputs(data=(3, 4, 2, 3))
        net += layer("before", "TanH", "data", "mid") + layer("tested", kind, "mid", "mid", body)
        yield Case("drawn", f"{kind.lower()}_in_place", net, 0)


def _two_bottoms() -> Iterator[Case]:
    for kind in ("Scale", "Bias"):
        stream = Random(f"{kind} of two bottoms")
        for number in range(5):
            shape = _any_shape(stream)
            axis = stream.randint(0, len(shape) - 1)
            end = stream.randint(axis, len(shape))
            extra = f" bias_term: {_bool(stream)}" if kind == "Scale" else ""
            body = f"{kind.lower()}_param {{ axis: {axis}{extra} }}"
            net = inputs(data=shape, other=shape[axis:end]) if end > axis else inputs(data=shape, other=())
            yield Case("drawn", f"{kind.lower()}_two_bottoms_{number}", net
                       + layer("tested", kind, "data other", "out", body), 0)  # fmt: skip
    stream = Random("Eltwise")
    for number in range(9):
        operation = ("SUM", "PROD", "MAX")[number % 3]
        count = stream.randint(2, 4)
        coefficients = " ".join(f"coeff: {_number(stream, -2, 2)}" for _ in range(count)) if operation == "SUM" else ""
        stable = f" stable_prod_grad: {_bool(stream)}" if operation == "PROD" else ""
        shape = _any_shape(stream)
        bottoms = [f"in{place}" for place in range(count)]
        body = f"eltwise_param {{ operation: {operation} {coefficients}{stable} }}"
        net = inputs(**dict.fromkeys(bottoms, shape)) + layer("tested", "Eltwise", " ".join(bottoms), "out", body)
        yield Case("drawn", f"eltwise_{number}", net, 0)
    for number in range(3):
        rows, kept = stream.randint(2, 5), stream.randint(1, 6)
        net = inputs(data=(rows, *_any_shape(stream)[1:]), label=(kept,))
        net += layer("act", "PReLU", "data", "act")
        net += layer("tested", "BatchReindex", "act label", "out", "loss_weight: 1.5")
        net += layer("fixed", "PReLU", "data", "scaled") + layer("again", "BatchReindex", "scaled label", "again",
                                                                  "loss_weight: 0.5")  # fmt: skip
        yield Case("drawn", f"batchreindex_{number}", net, 0, classes=rows, forced=False)
    for number in range(4):
        rows = stream.randint(4, 7)
        net = inputs(data=(rows, 3), more=(rows, 2, 2), label=(rows, 1))
        net += layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 2 }")
        net += layer("act", "PReLU", "more", "act")
        net += layer("tested", "Filter", "fc act label", "kept also", "loss_weight: 1 loss_weight: 0.5")
        yield Case("drawn", f"filter_{number}", net, 0, classes=2, forced=False)


def _joining() -> Iterator[Case]:
    stream = Random("Concat and Slice")
    for number in range(5):
        shape = _any_shape(stream)
        axis = stream.randint(0, len(shape) - 1)
        sizes = [stream.randint(1, 4) for _ in range(stream.randint(2, 4))]
        blobs = {f"in{place}": (*shape[:axis], size, *shape[axis + 1 :]) for place, size in enumerate(sizes)}
        body = f"concat_param {{ axis: {axis - stream.choice([0, len(shape)])} }}"
        net = inputs(**blobs) + layer("tested", "Concat", " ".join(blobs), "out", body)
        yield Case("drawn", f"concat_{number}", net, 0)
    for number in range(5):
        shape = tuple(stream.randint(4, 6) for _ in range(stream.randint(2, 4)))
        axis = stream.randint(0, len(shape) - 1)
        points = sorted(stream.sample(range(1, shape[axis]), stream.randint(1, 2)))
        tops = "x y z".split()[: len(points) + 1]
        body = f"slice_param {{ axis: {axis} {' '.join(f'slice_point: {point}' for point in points)} }}"
        yield Case("drawn", f"slice_{number}", inputs(data=shape)
                   + layer("tested", "Slice", "data", " ".join(tops), body), 0)  # fmt: skip
    for number in range(4):
        shape = tuple(stream.randint(4, 7) for _ in range(4))
        smaller = tuple(stream.randint(1, 3) for _ in range(4))
        axis = stream.randint(1, 3)
        offsets = " ".join(f"offset: {stream.randint(0, 1)}" for _ in range(4 - axis))
        net = inputs(data=shape, reference=(*shape[:axis], *smaller[axis:]))
        net += layer("tested", "Crop", "data reference", "out", f"crop_param {{ axis: {axis} {offsets} }}")
        yield Case("drawn", f"crop_{number}", net, 0)


def _shaping() -> Iterator[Case]:
    def tile(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        return shape, f"tile_param {{ axis: {draw.randint(0, len(shape) - 1)} tiles: {draw.randint(1, 4)} }}"

    def flatten(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        first = draw.randint(0, len(shape) - 1)
        return shape, f"flatten_param {{ axis: {first} end_axis: {draw.randint(first, len(shape) - 1)} }}"

    def reduction(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        operation = draw.choice(["SUM", "ASUM", "SUMSQ", "MEAN"])
        body = f"operation: {operation} axis: {draw.randint(0, len(shape) - 1)} coeff: {_number(draw, -2, 2)}"
        return shape, f"reduction_param {{ {body} }}"

    def reshape(draw: Random) -> tuple[Shape, str]:
        shape = _any_shape(draw)
        return shape, f"reshape_param {{ axis: {draw.randint(0, len(shape) - 1)} shape {{ {dims((1, -1))} }} }}"

    yield from _drawn("Tile", 4, tile)
    yield from _drawn("Flatten", 3, flatten)
    yield from _drawn("Reduction", 8, reduction)
    yield from _drawn("Reshape", 3, reshape)


def _tied() -> Iterator[Case]:
    """Whole numbers, so that maxima tie, and zeros, where slopes change."""
    frame = inputs(data=(2, 2, 6, 7))
    nets = {
        "pooling": frame + layer("tested", "Pooling", "data", "out", "pooling_param { kernel_size: 3 stride: 2 }"),
        "pooling_overlapping": frame
        + layer("tested", "Pooling", "data", "out", "pooling_param { kernel_size: 3 stride: 1 pad: 1 }"),
        "pooling_mask": frame
        + layer("tested", "Pooling", "data", "out mask", "pooling_param { kernel_size: 2 stride: 2 }")
        + layer("quiet", "Silence", "mask", ""),
        "eltwise_max": inputs(a=(4, 9), b=(4, 9))
        + layer("tested", "Eltwise", "a b", "out", "eltwise_param { operation: MAX }"),
        "eltwise_max_of_three": inputs(a=(4, 9), b=(4, 9), c=(4, 9))
        + layer("tested", "Eltwise", "a b c", "out", "eltwise_param { operation: MAX }"),
        "eltwise_product_with_zeros": inputs(a=(4, 9), b=(4, 9), c=(4, 9))
        + layer("tested", "Eltwise", "a b c", "out", "eltwise_param { operation: PROD stable_prod_grad: true }"),
        "spp": frame + layer("tested", "SPP", "data", "out", "spp_param { pyramid_height: 2 pool: MAX }"),
    }
    slopes = {
        "relu": ("ReLU", "relu_param { negative_slope: 0.25 }"),
        "prelu": ("PReLU", ""),
        "elu": ("ELU", ""),
        "absval": ("AbsVal", ""),
        "clip": ("Clip", "clip_param { min: -1 max: 1 }"),
        "bnll": ("BNLL", ""),
        "reduction_asum": ("Reduction", "reduction_param { operation: ASUM axis: 1 }"),
        "power_square": ("Power", "power_param { power: 2 }"),
        "power_cube": ("Power", "power_param { power: 3 scale: 2 }"),
    }
    for name, (kind, body) in slopes.items():
        nets[name] = inputs(data=(4, 9)) + layer("tested", kind, "data", "out", body)
    for name, net in nets.items():
        yield Case("drawn", f"tied_{name}", net, 0, input_scale=1.2, rounded=True)
    argued = frame + layer("tested", "ArgMax", "data", "out", "argmax_param { axis: 1 }")
    yield Case("drawn", "tied_argmax", argued, 0, input_scale=1.2, rounded=True, backward=False)


def _recurrent() -> Iterator[Case]:
    stream = Random("recurrent")
    for number in range(6):
        for kind in ("RNN", "LSTM"):
            steps, batch, size = stream.randint(1, 5), stream.randint(1, 3), stream.randint(1, 4)
            blobs: dict[str, Shape] = {"data": (steps, batch, size), "label": (steps, batch)}
            tops, exposed, outputs = "out", "", stream.randint(1, 4)
            if number % 2:
                blobs["static"] = (batch, stream.randint(1, 3))
            if number >= 3:
                exposed = "expose_hidden: true"
                states = ("h", "c") if kind == "LSTM" else ("h",)
                blobs |= {f"{state}_0": (1, batch, outputs) for state in states}
                tops += "".join(f" {state}_T" for state in states)
            body = f"recurrent_param {{ num_output: {outputs} {exposed} }}"
            net = inputs(**blobs) + layer("tested", kind, " ".join(blobs), tops, body)
            yield Case("drawn", f"{kind.lower()}_{number}", net, 0, classes=2)
    for number in range(3):
        batch, size = stream.randint(1, 4), stream.randint(1, 4)
        net = inputs(c=(1, batch, size), x=(1, batch, 4 * size), label=(1, batch))
        yield Case("drawn", f"lstmunit_{number}", net + layer("tested", "LSTMUnit", "c x label", "c_next h_next"), 0,
                   classes=2)  # fmt: skip
