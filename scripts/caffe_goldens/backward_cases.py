"""Cases of gradients where several layers play together: losses and their settings, what is propagated and what not,
shared parameters, training phases, the classic nets in miniature.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from prototxt import Case, inputs, layer, named_seed


def backward_cases() -> list[Case]:
    generators = (_normalisations, _weights, _margins, _extremes, _propagation, _sharing, _splits, _in_place, _classics)
    cases = [case for generator in generators for case in generator()]
    return [named_seed(case) for case in cases]


MAPS = inputs(data=(2, 4, 3, 2), label=(2, 1, 3, 2))


def _normalisations() -> Iterator[Case]:
    """Each normalisation, with and without a label to ignore, with and without a weight."""
    modes = ("FULL", "VALID", "BATCH_SIZE", "NONE")
    matrix = 'weight_filler { type: "constant" value: 0.3 }'
    blobs = {
        "softmaxwithloss": (MAPS, "SoftmaxWithLoss", "data label", 4, ""),
        "infogainloss": (
            inputs(data=(2, 4, 3, 2), label=(2, 1, 3, 2), infogain=(1, 1, 4, 4)),
            "InfogainLoss",
            "data label infogain",
            4,
            "infogain_loss_param { axis: 1 }",
        ),
        "sigmoidcrossentropyloss": (
            inputs(data=(3, 4), label=(3, 4)),
            "SigmoidCrossEntropyLoss",
            "data label",
            3,  # so that 2 can be ignored
            "",
        ),
    }
    for (name, (given, kind, bottoms, classes, body)), mode, ignored in product(blobs.items(), modes, (None, 2)):
        ignore = "" if ignored is None else f" ignore_label: {ignored}"
        scored = given.replace('"data"', '"raw"') + layer("scores", "PReLU", "raw", "data")
        settings = f"{body} loss_weight: 1.5 loss_param {{ normalization: {mode}{ignore} }}"
        net = scored + layer("tested", kind, bottoms, "loss", settings)
        marked = "" if ignored is None else "_ignoring"
        if name == "sigmoidcrossentropyloss" and ignored is None:
            classes = 2
        yield Case("composed", f"{name}_{mode.lower()}{marked}", net, 0, classes=classes, forced=False)
    dense = inputs(data=(6, 5), label=(6,))
    dense += layer("fc", "InnerProduct", "data", "fc", f"inner_product_param {{ num_output: 4 {matrix} }}")
    old = {"normalize_true": "normalize: true ignore_label: 1", "normalize_false": "normalize: false ignore_label: 1"}
    for name, settings in old.items():
        for kind in ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss"):
            start = dense if kind == "SoftmaxWithLoss" else dense.replace("shape { dim: 6 }", "shape { dim: 6 dim: 4 }")
            net = start + layer("tested", kind, "fc label", "loss", f"loss_param {{ {settings} }}")
            yield Case("composed", f"{kind.lower()}_{name}", net, 0, classes=4 if start is dense else 2, forced=False)
    everything_ignored = dense + layer(
        "tested", "SoftmaxWithLoss", "fc label", "loss", "loss_param { ignore_label: 0 }"
    )
    yield Case("composed", "softmaxwithloss_everything_ignored", everything_ignored, 0, classes=1, forced=False)


def _weights() -> Iterator[Case]:
    scores = inputs(data=(4, 5), label=(4,), target=(4, 3))
    scores += layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 3 }")
    weighted = {
        "euclidean": layer("tested", "EuclideanLoss", "fc target", "loss", "loss_weight: 0.1"),
        "euclidean_both_ways": layer("other", "InnerProduct", "data", "other", "inner_product_param { num_output: 3 }")
        + layer("tested", "EuclideanLoss", "fc other", "loss"),
        "hinge_l1": layer("tested", "HingeLoss", "fc label", "loss", "loss_weight: 3"),
        "hinge_l2": layer("tested", "HingeLoss", "fc label", "loss", "loss_weight: 3 hinge_loss_param { norm: L2 }"),
        "multinomial": layer("prob", "Softmax", "fc", "prob")
        + layer("tested", "MultinomialLogisticLoss", "prob label", "loss", "loss_weight: 0.5"),
        "zero": layer("tested", "SoftmaxWithLoss", "fc label", "loss", "loss_weight: 0")
        + layer("counted", "EuclideanLoss", "fc target", "counted"),
        "negative": layer("tested", "SoftmaxWithLoss", "fc label", "loss", "loss_weight: -1"),
        "reduction": layer("tested", "Reduction", "fc", "loss", "loss_weight: 2 reduction_param { operation: SUMSQ }"),
        "three": layer("a", "SoftmaxWithLoss", "fc label", "a", "loss_weight: 0.3")
        + layer("b", "EuclideanLoss", "fc target", "b")
        + layer("c", "HingeLoss", "fc label", "c", "loss_weight: 0.2"),
        "loss_that_goes_on": layer("tested", "SoftmaxWithLoss", "fc label", "loss", "loss_weight: 0.5")
        + layer("more", "Power", "loss", "more", "loss_weight: 2 power_param { power: 2 }"),
        "accuracy_beside": layer("tested", "SoftmaxWithLoss", "fc label", "loss")
        + layer("right", "Accuracy", "fc label", "right"),
        "intermediate": layer("tested", "TanH", "fc", "squashed", "loss_weight: 0.25")
        + layer("far", "EuclideanLoss", "squashed target", "loss"),
    }  # fmt: skip
    for name, tail in weighted.items():
        yield Case("composed", f"weight_{name}", scores + tail, 0, classes=3, forced=False)


def _margins() -> Iterator[Case]:
    pairs = inputs(left=(5, 3), right=(5, 3), label=(5,))
    pairs += layer("l", "PReLU", "left", "l") + layer("r", "PReLU", "right", "r")
    for margin, legacy in product((0.5, 1, 3), ("true", "false")):
        settings = f"contrastive_loss_param {{ margin: {margin} legacy_version: {legacy} }}"
        net = pairs + layer("tested", "ContrastiveLoss", "l r label", "loss", f"{settings} loss_weight: 2")
        name = f"contrastive_{str(margin).replace('.', '_')}{'_legacy' if legacy == 'true' else ''}"
        yield Case("composed", name, net, 0, classes=2, forced=False)


def _extremes() -> Iterator[Case]:
    """Scores so far apart that probabilities underflow: logarithms are bounded there."""
    start = inputs(raw=(6, 4), label=(6,)) + layer("scores", "PReLU", "raw", "data")
    table = {
        "softmax": start + layer("tested", "SoftmaxWithLoss", "data label", "loss"),
        "multinomial": start
        + layer("prob", "Softmax", "data", "prob")
        + layer("tested", "MultinomialLogisticLoss", "prob label", "loss"),
        "hinge": start + layer("tested", "HingeLoss", "data label", "loss"),
        "infogain": inputs(raw=(6, 4), label=(6,), infogain=(1, 1, 4, 4))
        + layer("scores", "PReLU", "raw", "data")
        + layer("tested", "InfogainLoss", "data label infogain", "loss"),
        "sigmoid_cross_entropy": inputs(raw=(6, 4), label=(6, 4))
        + layer("scores", "PReLU", "raw", "data")
        + layer("tested", "SigmoidCrossEntropyLoss", "data label", "loss"),
    }
    for name, net in table.items():
        classes = 2 if name.startswith("sigmoid") else 4
        yield Case("composed", f"extreme_{name}", net, 0, input_scale=90.0, classes=classes, forced=False)


def _dense(name: str, bottom: str, outputs: int, more: str = "") -> str:
    return layer(name, "InnerProduct", bottom, name, f"{more} inner_product_param {{ num_output: {outputs} }}")


def _propagation() -> Iterator[Case]:
    """What needs no gradient gets none: frozen layers, cut bottoms, plain inputs, dead ends."""
    given = inputs(data=(3, 4), target=(3, 2))
    loss = layer("loss", "EuclideanLoss", "out target", "loss")
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    two = _dense("one", "data", 3) + layer("act", "TanH", "one", "act")
    nets = {
        "not_forced": given + two + _dense("out", "act", 2) + loss,
        "frozen_first": given + _dense("one", "data", 3, frozen) + layer("act", "TanH", "one", "act")
        + _dense("out", "act", 2) + loss,
        "frozen_last": given + two + _dense("out", "act", 2, frozen) + loss,
        "frozen_weight_only": given + two + _dense("out", "act", 2, "param { lr_mult: 0 }") + loss,
        "frozen_bias_only": given + two + _dense("out", "act", 2, "param { lr_mult: 1 } param { lr_mult: 0 }") + loss,
        "everything_frozen": given + _dense("out", "data", 2, frozen) + loss,
        "cut": given + two + _dense("out", "act", 2, "propagate_down: false") + loss,
        "cut_of_one_bottom": given + two + _dense("left", "act", 2) + _dense("right", "act", 2)
        + layer("out", "Eltwise", "left right", "out", "propagate_down: false propagate_down: true") + loss,
        "cut_of_a_branch": given + two + _dense("left", "act", 2) + _dense("right", "act", 2, "propagate_down: false")
        + layer("out", "Eltwise", "left right", "out") + loss,
        "propagated_to_an_input": given + layer("out", "InnerProduct", "data", "out",
        "propagate_down: true inner_product_param { num_output: 2 }") + loss,
        "input_beside_a_learnt_bottom": inputs(data=(3, 4), more=(3, 2), target=(3, 2)) + _dense("left", "data", 2)
        + layer("out", "Eltwise", "left more", "out", "eltwise_param { operation: PROD }") + loss,
        "concat_with_an_input": inputs(data=(3, 4), more=(3, 2), target=(3, 5)) + _dense("left", "data", 3)
        + layer("out", "Concat", "left more", "out") + loss,
        "slice_of_an_input": inputs(data=(3, 4), target=(3, 2)) + layer("cut", "Slice", "data", "x y")
        + _dense("left", "x", 2) + layer("out", "Eltwise", "left y", "out") + loss,
        "dead_end": given + two + _dense("out", "act", 2) + loss + _dense("unused", "act", 5),
        "argmax_dead_end": given + two + _dense("out", "act", 2) + loss + layer("best", "ArgMax", "act", "best"),
        "silenced": given + two + _dense("out", "act", 2) + loss + _dense("noise", "act", 3)
        + layer("quiet", "Silence", "noise", ""),
        "no_loss": inputs(data=(3, 4)) + _dense("one", "data", 3) + layer("act", "TanH", "one", "act"),
        "threshold_cuts": given + layer("cut", "Threshold", "data", "binary", "threshold_param { threshold: 0.1 }")
        + _dense("out", "binary", 2) + loss,
    }  # fmt: skip
    for name, net in nets.items():
        yield Case("composed", f"propagation_{name}", net, 0, forced=False)
    forced = {name: net for name, net in nets.items() if "EuclideanLoss" in net and not name.startswith(
        ("threshold", "argmax", "slice_of_an_input"))}  # fmt: skip
    for name, net in forced.items():
        yield Case("composed", f"forced_{name}", net, 0)


def _sharing() -> Iterator[Case]:
    named = 'param { name: "w" } param { name: "b" }'
    given = inputs(data=(3, 4), target=(3, 4))
    loss = layer("loss", "EuclideanLoss", "last target", "loss")
    twins = inputs(left=(3, 4), right=(3, 4), label=(3,))
    twins += _dense("l", "left", 2, named) + _dense("r", "right", 2, named)
    other_rates = 'param { name: "w" lr_mult: 1 } param { lr_mult: 2 }'
    nets = {
        "twice": given + _dense("first", "data", 4, named) + _dense("last", "first", 4, named) + loss,
        "thrice": given + _dense("first", "data", 4, named) + _dense("second", "first", 4, named)
        + _dense("last", "second", 4, named) + loss,
        "weight_only": given + _dense("first", "data", 4, other_rates) + _dense("last", "first", 4, other_rates) + loss,
        "permissive": given + _dense("first", "data", 2, 'param { name: "w" }')
        + layer("back", "InnerProduct", "first", "last",
                'param { name: "w" share_mode: PERMISSIVE } inner_product_param { num_output: 4 }') + loss,
        "siamese": twins + layer("loss", "ContrastiveLoss", "l r label", "loss"),
        "owner_frozen": given + _dense("first", "data", 4, 'param { name: "w" lr_mult: 0 }')
        + _dense("last", "first", 4, 'param { name: "w" lr_mult: 0 }') + loss,
        "convolutions": inputs(data=(2, 2, 5, 5), target=(2, 2, 5, 5))
        + layer("first", "Convolution", "data", "first",
                f"{named} convolution_param {{ num_output: 2 kernel_size: 3 pad: 1 }}")
        + layer("last", "Convolution", "first", "last",
                f"{named} convolution_param {{ num_output: 2 kernel_size: 3 pad: 1 }}") + loss,
    }  # fmt: skip
    for name, net in nets.items():
        yield Case("composed", f"sharing_{name}", net, 0, classes=2, forced=False)


def _splits() -> Iterator[Case]:
    given = inputs(data=(3, 4), target=(3, 3)) + _dense("fc", "data", 3)
    uses = "".join(layer(f"use{place}", kind, "fc", f"use{place}")
                   for place, kind in enumerate(("TanH", "Sigmoid", "ReLU", "BNLL")))  # fmt: skip
    joined = layer("sum", "Eltwise", "use0 use1 use2 use3", "sum")
    nets = {
        "four_uses": given + uses + joined + layer("loss", "EuclideanLoss", "sum target", "loss"),
        "loss_on_a_split": given + layer("loss", "EuclideanLoss", "fc target", "loss")
        + layer("more", "EuclideanLoss", "fc target", "more", "loss_weight: 0.5"),
        "in_place_then_split": given + layer("act", "ReLU", "fc", "fc") + uses + joined
        + layer("loss", "EuclideanLoss", "sum target", "loss"),
        "twice_into_one_layer": given + layer("sum", "Eltwise", "fc fc", "sum",
                                               "eltwise_param { coeff: 2 coeff: -0.5 }")
        + layer("loss", "EuclideanLoss", "sum target", "loss"),
        "loss_weight_and_use": given + layer("act", "TanH", "fc", "act", "loss_weight: 0.5")
        + layer("loss", "EuclideanLoss", "act target", "loss"),
        "explicit": given + layer("split", "Split", "fc", "x y") + layer("sum", "Eltwise", "x y", "sum")
        + layer("loss", "EuclideanLoss", "sum target", "loss"),
        "split_with_a_dead_end": given + layer("a", "TanH", "fc", "a") + layer("b", "TanH", "fc", "b")
        + layer("loss", "EuclideanLoss", "a target", "loss"),
    }  # fmt: skip
    for name, net in nets.items():
        yield Case("composed", f"splits_{name}", net, 0, forced=False)


def _in_place() -> Iterator[Case]:
    """Chains in place behind a learnt layer: each overwrites the diff that the one above wrote."""
    given = inputs(data=(3, 4, 3, 3), target=(3, 2))
    # Without a bias: behind it, batch statistics would leave nothing but rounding errors of its gradient.
    convolution = "convolution_param { num_output: 3 kernel_size: 2 bias_term: false }"
    ending = _dense("out", "conv", 2) + layer("loss", "EuclideanLoss", "out target", "loss")
    chains = {
        "relu_tanh": "ReLU TanH",
        "sigmoid_relu": "Sigmoid ReLU",
        "batchnorm_scale_relu": "BatchNorm Scale ReLU",
        "scale_bias_elu": "Scale Bias ELU",
        "prelu_dropout": "PReLU Dropout",
        "softmax": "Softmax",
        "batchnorm_prelu": "BatchNorm PReLU",
    }
    for name, kinds in chains.items():
        for phase in ("TEST", "TRAIN"):
            if phase == "TRAIN" and "BatchNorm" not in kinds:
                continue
            chain = "".join(layer(kind.lower(), kind, "conv", "conv") for kind in kinds.split())
            net = given + layer("conv", "Convolution", "data", "conv", convolution) + chain + ending
            yield Case("composed", f"chain_{name}_{phase.lower()}", net, 0, phase=phase, forced=phase == "TEST")


def _block(name: str, bottom: str, settings: str, tail: str = "BatchNorm Scale ReLU") -> str:
    chain = "".join(layer(f"{name}/{kind.lower()}", kind, name, name) for kind in tail.split())
    return layer(name, "Convolution", bottom, name, f"convolution_param {{ {settings} }}") + chain


def _pool(name: str, bottom: str, settings: str) -> str:
    return layer(name, "Pooling", bottom, name, f"pooling_param {{ {settings} }}")


def _classics() -> Iterator[Case]:
    """The classic nets in miniature, in training phase, with their losses."""
    loss = layer("loss", "SoftmaxWithLoss", "score label", "loss")
    lenet = (
        inputs(data=(3, 1, 14, 14), label=(3,))
        + _block("conv1", "data", "num_output: 4 kernel_size: 3", "")
        + _pool("pool1", "conv1", "kernel_size: 2 stride: 2")
        + _block("conv2", "pool1", "num_output: 6 kernel_size: 3", "")
        + _pool("pool2", "conv2", "kernel_size: 2 stride: 2")
        + _dense("ip1", "pool2", 10)
        + layer("relu1", "ReLU", "ip1", "ip1")
        + _dense("score", "ip1", 5)
        + loss
    )
    alexnet = (
        inputs(data=(2, 3, 27, 27), label=(2,))
        + _block("conv1", "data", "num_output: 6 kernel_size: 7 stride: 2", "ReLU")
        + layer("norm1", "LRN", "conv1", "norm1", "lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 }")
        + _pool("pool1", "norm1", "kernel_size: 3 stride: 2")
        + _block("conv2", "pool1", "num_output: 8 kernel_size: 3 pad: 1 group: 2", "ReLU")
        + layer("norm2", "LRN", "conv2", "norm2", "lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 }")
        + _pool("pool2", "norm2", "kernel_size: 3 stride: 2")
        + _dense("score", "pool2", 5)
        + loss
    )
    branches = ("1x1", "3x3", "pool_proj")
    googlenet = (
        inputs(data=(2, 3, 12, 12), label=(2,))
        + _block("stem", "data", "num_output: 6 kernel_size: 3 stride: 2", "ReLU")
        + _block("1x1", "stem", "num_output: 3 kernel_size: 1", "ReLU")
        + _block("3x3_reduce", "stem", "num_output: 2 kernel_size: 1", "ReLU")
        + _block("3x3", "3x3_reduce", "num_output: 4 kernel_size: 3 pad: 1", "ReLU")
        + _pool("pool", "stem", "kernel_size: 3 stride: 1 pad: 1")
        + _block("pool_proj", "pool", "num_output: 2 kernel_size: 1", "ReLU")
        + layer("output", "Concat", " ".join(branches), "output")
        + _pool("aux_pool", "output", "pool: AVE kernel_size: 3 stride: 2")
        + _dense("aux_score", "aux_pool", 4)
        + layer("aux_loss", "SoftmaxWithLoss", "aux_score label", "aux_loss", "loss_weight: 0.3")
        + _pool("pool5", "output", "pool: AVE global_pooling: true")
        + _dense("score", "pool5", 4)
        + loss
    )
    resnet = (
        inputs(data=(3, 2, 9, 9), label=(3,))
        + _block("conv1", "data", "num_output: 4 kernel_size: 3 pad: 1 bias_term: false")
        + _block("branch1", "conv1", "num_output: 6 kernel_size: 1 stride: 2 bias_term: false", "BatchNorm Scale")
        + _block("branch2a", "conv1", "num_output: 3 kernel_size: 1 stride: 2 bias_term: false")
        + _block("branch2b", "branch2a", "num_output: 6 kernel_size: 3 pad: 1 bias_term: false", "BatchNorm Scale")
        + layer("res", "Eltwise", "branch1 branch2b", "res")
        + layer("res_relu", "ReLU", "res", "res")
        + _pool("pool", "res", "pool: AVE global_pooling: true")
        + _dense("score", "pool", 3)
        + loss
    )
    segmentation = (
        inputs(data=(2, 2, 9, 8), label=(2, 1, 9, 8))
        + _block("conv1", "data", "num_output: 4 kernel_size: 3 pad: 1", "ReLU")
        + _pool("pool1", "conv1", "kernel_size: 2 stride: 2")
        + _block("score2", "pool1", "num_output: 3 kernel_size: 1", "")
        + layer("up", "Deconvolution", "score2", "up",
                "convolution_param { num_output: 3 group: 3 kernel_size: 4 stride: 2 bias_term: false }")
        + layer("up_crop", "Crop", "up conv1", "cropped", "crop_param { axis: 2 offset: 1 }")
        + _block("score1", "conv1", "num_output: 3 kernel_size: 1", "")
        + layer("fuse", "Eltwise", "cropped score1", "score")
        + layer("loss", "SoftmaxWithLoss", "score label", "loss",
                "loss_param { ignore_label: 2 normalization: FULL }")
    )  # fmt: skip
    autoencoder = (
        inputs(data=(4, 6), label=(4, 6))
        + _dense("encode1", "data", 4) + layer("encode1_act", "Sigmoid", "encode1", "encode1n")
        + _dense("code", "encode1n", 2) + _dense("decode1", "code", 4)
        + layer("decode1_act", "Sigmoid", "decode1", "decode1n") + _dense("score", "decode1n", 6)
        + layer("loss", "SigmoidCrossEntropyLoss", "score label", "cross_entropy_loss")
        + layer("probable", "Sigmoid", "score", "probable")
        + layer("distance", "EuclideanLoss", "probable label", "l2_error", "loss_weight: 0.2")
    )  # fmt: skip
    caption = (
        inputs(words=(4, 2, 3), label=(4, 2))
        + layer("embedded", "InnerProduct", "words", "embedded", "inner_product_param { num_output: 4 axis: 2 }")
        + layer("lstm", "LSTM", "embedded label", "lstm", "recurrent_param { num_output: 3 }")
        + layer("score", "InnerProduct", "lstm", "score", "inner_product_param { num_output: 5 axis: 2 }")
        + layer("squares", "Reduction", "score", "loss", "loss_weight: 0.5 reduction_param { operation: SUMSQ }")
    )
    nets = {
        "lenet": (lenet, 5), "alexnet": (alexnet, 5), "googlenet": (googlenet, 4), "resnet": (resnet, 3),
        "segmentation": (segmentation, 3), "autoencoder": (autoencoder, 2), "caption": (caption, 2),
    }  # fmt: skip
    for name, (net, classes) in nets.items():
        yield Case("composed", f"classic_{name}", net, 0, phase="TRAIN", classes=classes, forced=False)
