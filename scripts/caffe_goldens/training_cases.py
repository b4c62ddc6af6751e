"""The cases of training: the layer types that only training or rarer networks use, gradients, and solvers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prototxt import Case, Shape, inputs, layer

FRAME: Shape = (2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class SolverCase:
    """A solver's settings, run for some iterations on one small network from seeded parameters."""

    name: str
    solver: str  # the solver's prototxt, without the network
    network: str
    seed: int
    iterations: int = 6


def training_cases() -> list[Case]:
    generators = (_unary, _two_bottoms, _shaping, _losses, _loss_settings, _recurrent, _sources)
    return [case for generator in generators for case in generator()]


def _unary() -> Iterator[Case]:
    """One bottom, one top; `scale` keeps arguments where the function is defined or interesting."""
    table: dict[str, tuple[str, str, float]] = {
        "absval": ("AbsVal", "", 1.0),
        "bnll": ("BNLL", "", 5.0),
        "clip": ("Clip", "clip_param { min: -0.5 max: 0.75 }", 1.0),
        "elu": ("ELU", "", 1.0),
        "elu_alpha": ("ELU", "elu_param { alpha: 0.4 }", 1.0),
        "exp": ("Exp", "", 1.0),
        "exp_base_2": ("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.1 }", 1.0),
        "log_of_exp": ("Log", "log_param { base: 10 scale: 2 shift: 1.5 }", 0.1),
        "power": ("Power", "power_param { power: 2 scale: 0.5 shift: 0.3 }", 1.0),
        "power_linear": ("Power", "power_param { scale: -2 shift: 1 }", 1.0),
        "power_zero": ("Power", "power_param { power: 0 scale: 3 shift: 1 }", 1.0),
        "swish": ("Swish", "", 2.0),
        "swish_beta": ("Swish", "swish_param { beta: 1.5 }", 2.0),
        "bias": ("Bias", "", 1.0),
        "bias_axis_0": ("Bias", "bias_param { axis: 0 num_axes: 2 }", 1.0),
        "mvn": ("MVN", "", 2.0),
        "mvn_across_channels": ("MVN", "mvn_param { across_channels: true }", 2.0),
        "mvn_mean_only": ("MVN", "mvn_param { normalize_variance: false }", 2.0),
        "mvn_eps": ("MVN", "mvn_param { eps: 0.1 }", 2.0),
    }
    for place, (name, (kind, body, scale)) in enumerate(table.items()):
        net = inputs(data=FRAME) + layer("tested", kind, "data", "out", body)
        yield Case("more_layers", name, net, 5000 + place, input_scale=scale)
    net = inputs(data=FRAME) + layer("tested", "Threshold", "data", "out", "threshold_param { threshold: 0.2 }")
    yield Case("more_layers", "threshold", net, 5040, backward=False)


def _two_bottoms() -> Iterator[Case]:
    bias = inputs(data=FRAME, other=(3,)) + layer("tested", "Bias", "data other", "out")
    yield Case("more_layers", "bias_two_bottoms", bias, 5100)
    # These layers end the process when a gradient towards their indices is forced.
    ending = layer("fc", "InnerProduct", "out", "fc", "inner_product_param { num_output: 2 axis: -1 }")
    ending += layer("loss", "EuclideanLoss", "fc target", "loss")
    indices = inputs(data=(4, 3), label=(6,), target=(6, 2)) + layer("slope", "PReLU", "data", "scaled")
    indices += layer("tested", "BatchReindex", "scaled label", "out") + ending
    yield Case("more_layers", "batch_reindex", indices, 5101, classes=4, forced=False)
    kept = inputs(data=(5, 3), label=(5, 1)) + layer("tested", "Filter", "data label", "out")
    yield Case("more_layers", "filter", kept, 5102, classes=2, backward=False)
    words = inputs(label=(2, 3), target=(2, 3, 2))
    for place, body in enumerate(("num_output: 4 input_dim: 5", "num_output: 4 input_dim: 5 bias_term: false")):
        net = words + layer("tested", "Embed", "label", "out", f"embed_param {{ {body} }}") + ending
        name = ("embed", "embed_no_bias")[place]
        yield Case("more_layers", name, net, 5103 + place, classes=5, forced=False)


def _shaping() -> Iterator[Case]:
    table: dict[str, tuple[str, str]] = {
        "tile": ("Tile", "tile_param { tiles: 3 }"),
        "tile_axis_last": ("Tile", "tile_param { axis: -1 tiles: 2 }"),
        "reduction_sum": ("Reduction", ""),
        "reduction_mean": ("Reduction", "reduction_param { operation: MEAN axis: 1 coeff: 2 }"),
        "reduction_absolute": ("Reduction", "reduction_param { operation: ASUM axis: 2 }"),
        "reduction_squares": ("Reduction", "reduction_param { operation: SUMSQ axis: -1 coeff: 0.5 }"),
        "im2col": ("Im2col", "convolution_param { kernel_size: 3 pad: 1 stride: 2 }"),
        "im2col_dilation": ("Im2col", "convolution_param { kernel_size: 2 dilation: 2 }"),
    }
    for place, (name, (kind, body)) in enumerate(table.items()):
        net = inputs(data=FRAME) + layer("tested", kind, "data", "out", body)
        yield Case("more_layers", name, net, 5200 + place)
    pyramid = inputs(data=(2, 3, 9, 7)) + layer(
        "tested", "SPP", "data", "out", "spp_param { pyramid_height: 3 pool: MAX }"
    )
    yield Case("more_layers", "spp", pyramid, 5220)
    bodies = {
        "argmax": "",
        "argmax_top_2_with_values": "argmax_param { top_k: 2 out_max_val: true }",
        "argmax_axis": "argmax_param { axis: 1 }",
        "argmax_axis_top_2_values": "argmax_param { axis: 1 top_k: 2 out_max_val: true }",
    }
    for place, (name, body) in enumerate(bodies.items()):
        net = inputs(data=FRAME) + layer("tested", "ArgMax", "data", "out", body)
        yield Case("more_layers", name, net, 5230 + place, backward=False)
    silent = inputs(data=FRAME) + layer("act", "ReLU", "data", "act") + layer("tested", "Silence", "act", "")
    yield Case("more_layers", "silence", silent, 5240)


def _losses() -> Iterator[Case]:
    scores = inputs(data=(4, 5), label=(4,))
    maps = inputs(data=(2, 5, 3, 2), label=(2, 1, 3, 2))
    targets = inputs(data=(4, 5), target=(4, 5))
    probable = inputs(data=(4, 5), label=(4,)) + layer("prob", "Softmax", "data", "prob")
    pairs = inputs(left=(4, 3), right=(4, 3), label=(4,))
    nets = {
        "softmax_loss": scores + layer("tested", "SoftmaxWithLoss", "data label", "loss"),
        "softmax_loss_of_maps": maps + layer("tested", "SoftmaxWithLoss", "data label", "loss"),
        "euclidean_loss": targets + layer("tested", "EuclideanLoss", "data target", "loss"),
        "sigmoid_cross_entropy_loss": inputs(data=(4, 5), label=(4, 5))
        + layer("tested", "SigmoidCrossEntropyLoss", "data label", "loss"),
        "hinge_loss": scores + layer("tested", "HingeLoss", "data label", "loss"),
        "hinge_loss_l2": scores + layer("tested", "HingeLoss", "data label", "loss", "hinge_loss_param { norm: L2 }"),
        "multinomial_loss": probable + layer("tested", "MultinomialLogisticLoss", "prob label", "loss"),
        "contrastive_loss": pairs + layer("tested", "ContrastiveLoss", "left right label", "loss"),
        "contrastive_loss_legacy": pairs + layer("tested", "ContrastiveLoss", "left right label", "loss",
            "contrastive_loss_param { margin: 2 legacy_version: true }"),
    }  # fmt: skip
    for place, (name, net) in enumerate(nets.items()):
        classes = 2 if name.startswith(("sigmoid", "contrastive")) else 5
        yield Case("losses", name, net, 5300 + place, classes=classes)
    informed = (
        inputs(data=(4, 5), label=(4,), infogain=(1, 1, 5, 5))
        + layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 5 }")
        + layer("tested", "InfogainLoss", "fc label infogain", "loss", "infogain_loss_param { axis: 1 }")
    )
    yield Case("losses", "infogain_loss", informed, 5320, classes=5, forced=False)
    accuracies = {
        "accuracy": scores + layer("tested", "Accuracy", "data label", "accuracy"),
        "accuracy_top_2": scores + layer("tested", "Accuracy", "data label", "accuracy", "accuracy_param { top_k: 2 }"),
        "accuracy_per_class": maps + layer("tested", "Accuracy", "data label", "accuracy per_class"),
        "accuracy_ignored": scores
        + layer("tested", "Accuracy", "data label", "accuracy", "accuracy_param { ignore_label: 1 }"),
    }
    for place, (name, net) in enumerate(accuracies.items()):
        yield Case("losses", name, net, 5330 + place, classes=5, backward=False)


def _loss_settings() -> Iterator[Case]:
    maps = inputs(data=(2, 5, 3, 2), label=(2, 1, 3, 2))
    table = {
        "full": "loss_param { normalization: FULL }",
        "valid_ignored": "loss_param { normalization: VALID ignore_label: 2 }",
        "batch_size": "loss_param { normalization: BATCH_SIZE }",
        "none": "loss_param { normalization: NONE }",
        "not_normalised": "loss_param { normalize: false }",
        "weighted": "loss_weight: 0.25",
        "axis": "softmax_param { axis: 1 } loss_param { ignore_label: 0 }",
    }
    for place, (name, body) in enumerate(table.items()):
        net = maps + layer("tested", "SoftmaxWithLoss", "data label", "loss", body)
        yield Case("losses", f"softmax_loss_{name}", net, 5400 + place, classes=5)
    two = (
        inputs(data=(4, 5), label=(4,), target=(4, 3))
        + layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 3 }")
        + layer("first", "SoftmaxWithLoss", "fc label", "first")
        + layer("second", "EuclideanLoss", "fc target", "second", "loss_weight: 0.5")
    )
    yield Case("losses", "two_losses", two, 5420, classes=3)
    weighted = inputs(data=FRAME) + layer("tested", "ReLU", "data", "out", "loss_weight: 2")
    yield Case("losses", "any_layer_with_a_loss_weight", weighted, 5421)


def _recurrent() -> Iterator[Case]:
    sequence = inputs(data=(4, 2, 3), label=(4, 2))
    for place, kind in enumerate(("RNN", "LSTM")):
        fillers = 'weight_filler { type: "constant" value: 0.1 } bias_filler { type: "constant" value: 0.05 }'
        net = sequence + layer("tested", kind, "data label", "out", f"recurrent_param {{ num_output: 3 {fillers} }}")
        yield Case("recurrent", kind.lower(), net, 5500 + place, classes=2)
        static = inputs(data=(4, 2, 3), label=(4, 2), static=(2, 5)) + layer(
            "tested", kind, "data label static", "out", f"recurrent_param {{ num_output: 3 {fillers} }}"
        )
        yield Case("recurrent", f"{kind.lower()}_static", static, 5510 + place, classes=2)


def _sources() -> Iterator[Case]:
    dummy = layer(
        "made", "DummyData", "", "a b",
        'dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 4 } '
        'data_filler { type: "constant" value: 1.5 } data_filler { type: "constant" value: -2 } }',
    )  # fmt: skip
    yield Case("more_layers", "dummy_data", dummy + layer("act", "TanH", "b", "out"), 5600)
    old = layer(
        "made",
        "DummyData",
        "",
        "a",
        'dummy_data_param { num: 2 channels: 3 height: 1 width: 2 data_filler { type: "constant" value: 0.5 } }',
    )
    yield Case("more_layers", "dummy_data_legacy_shape", old + layer("act", "TanH", "a", "out"), 5601)
    learnt = inputs(data=(2, 3)) + layer("made", "Parameter", "", "factor", "parameter_param { shape { dim: 3 } }")
    yield Case("more_layers", "parameter", learnt + layer("tested", "Scale", "data factor", "out"), 5602)


REGRESSION = (
    inputs(data=(4, 6), target=(4, 3))
    + layer("fc1", "InnerProduct", "data", "fc1",
            "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 } "
            "inner_product_param { num_output: 5 }")
    + layer("act", "TanH", "fc1", "fc1")
    + layer("fc2", "InnerProduct", "fc1", "fc2", "inner_product_param { num_output: 3 }")
    + layer("loss", "EuclideanLoss", "fc2 target", "loss")
)  # fmt: skip


def solver_cases() -> list[SolverCase]:
    fixed = 'base_lr: 0.1 lr_policy: "fixed"'
    table = {
        "sgd": fixed,
        "sgd_momentum": f"{fixed} momentum: 0.9",
        "sgd_weight_decay": f"{fixed} momentum: 0.9 weight_decay: 0.05",
        "sgd_weight_decay_l1": f'{fixed} weight_decay: 0.05 regularization_type: "L1"',
        "sgd_clipped": f"{fixed} momentum: 0.5 clip_gradients: 0.3",
        "sgd_iter_size": f"{fixed} momentum: 0.9 iter_size: 2",
        "nesterov": f'{fixed} momentum: 0.9 type: "Nesterov" weight_decay: 0.01',
        "adagrad": f'{fixed} type: "AdaGrad" delta: 1e-6',
        "rmsprop": 'base_lr: 0.01 lr_policy: "fixed" type: "RMSProp" rms_decay: 0.9 delta: 1e-6',
        "adadelta": 'base_lr: 1 lr_policy: "fixed" type: "AdaDelta" momentum: 0.95 delta: 1e-4',
        "adam": 'base_lr: 0.01 lr_policy: "fixed" type: "Adam" momentum: 0.9 momentum2: 0.99 delta: 1e-8',
        "policy_step": 'base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2',
        "policy_multistep": 'base_lr: 0.1 lr_policy: "multistep" gamma: 0.5 stepvalue: 1 stepvalue: 4',
        "policy_exp": 'base_lr: 0.1 lr_policy: "exp" gamma: 0.9',
        "policy_inv": 'base_lr: 0.1 lr_policy: "inv" gamma: 0.1 power: 0.75',
        "policy_poly": 'base_lr: 0.1 lr_policy: "poly" power: 0.5',
        "policy_sigmoid": 'base_lr: 0.1 lr_policy: "sigmoid" gamma: 0.5 stepsize: 3',
    }
    return [
        SolverCase(name, f"{settings} max_iter: 20 display: 0", REGRESSION, 6000 + place)
        for place, (name, settings) in enumerate(table.items())
    ]
