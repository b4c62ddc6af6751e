"""The layer types that the executor carries out: one flat table, one small function each."""

from __future__ import annotations

from avec.destination.executors.caffe.layers import (
    activations,
    dense,
    detection,
    elementwise,
    indexing,
    losses,
    openpose,
    pooling,
    recurrent,
    reductions,
    shaping,
    sources,
)
from avec.destination.executors.caffe.layers import convolution as conv
from avec.destination.executors.caffe.layers.layer import LayerType, Parameters, Prepare, no_parameters
from avec.protocol.caffe import HOST_LAYERS

MANY = 1 << 16  # no net has more bottoms or tops than this
ONE = (1, 1)
FIRST = frozenset({0})
SECOND = frozenset({1})


def _pointwise(prepare: Prepare) -> LayerType:
    return LayerType(prepare, ONE, ONE)


def _loss(prepare: Prepare, bottoms: tuple[int, int] = (2, 2), tops: int = 1) -> LayerType:
    """A loss whose bottoms after the first are labels. Source: caffe/include/caffe/layers/loss_layer.hpp."""
    labels = frozenset(range(1, bottoms[1]))
    return LayerType(
        prepare, bottoms, (0, tops), loss=True, forced=frozenset({0, *range(2, bottoms[1])}), closed=labels
    )


def _recurrent(prepare: Prepare, parameters: Parameters) -> LayerType:
    return LayerType(prepare, (2, 5), (1, 3), parameters, forced=frozenset({0, 2, 3, 4}), closed=SECOND)


LAYER_TYPES: dict[str, LayerType] = {
    "AbsVal": _pointwise(activations.absolute),
    "Accuracy": LayerType(losses.accuracy, (2, 2), (1, 2), differentiable=False),
    "ArgMax": LayerType(indexing.arg_max, ONE, ONE, differentiable=False),
    "BNLL": _pointwise(activations.bnll),
    "BatchNorm": LayerType(elementwise.batch_norm, ONE, ONE, elementwise.batch_norm_parameters, fixed_parameters=True),
    "BatchReindex": LayerType(indexing.batch_reindex, (2, 2), ONE, closed=SECOND),
    "Bias": LayerType(elementwise.bias, (1, 2), ONE, elementwise.bias_parameters),
    "Clip": _pointwise(activations.clip),
    "Concat": LayerType(shaping.concat, (1, MANY), ONE, shares_memory=shaping.one_bottom),
    "ContrastiveLoss": LayerType(
        losses.contrastive_loss, (3, 3), (0, 1), loss=True, forced=frozenset({0, 1}), closed=frozenset({2})
    ),
    "Convolution": LayerType(conv.convolution, (1, MANY), (1, MANY), conv.convolution_parameters),
    "Crop": LayerType(shaping.crop, (2, 2), ONE),
    "Deconvolution": LayerType(conv.deconvolution, (1, MANY), (1, MANY), conv.deconvolution_parameters),
    "DetectionOutput": LayerType(detection.detection_output, (3, 3), ONE, differentiable=False, dynamic=True),
    "Dropout": _pointwise(elementwise.dropout),
    "DummyData": LayerType(sources.dummy_data, (0, 0), (1, MANY)),
    "ELU": _pointwise(activations.elu),
    "Eltwise": LayerType(elementwise.eltwise, (2, MANY), ONE),
    "Embed": LayerType(indexing.embed, ONE, ONE, indexing.embed_parameters, closed=FIRST),
    "EuclideanLoss": LayerType(losses.euclidean_loss, (2, 2), (0, 1), loss=True),
    "Exp": _pointwise(activations.exponential),
    "Filter": LayerType(indexing.filter_, (2, MANY), (1, MANY), dynamic=True),
    "Flatten": LayerType(shaping.flatten, ONE, ONE, shares_memory=shaping.always),
    "HingeLoss": _loss(losses.hinge_loss),
    "ImResize": LayerType(openpose.im_resize, ONE, ONE, differentiable=False),
    "Im2col": LayerType(conv.im2col, ONE, ONE),
    "InfogainLoss": _loss(losses.infogain_loss, (2, 3), 2),
    "InnerProduct": LayerType(dense.inner_product, ONE, ONE, dense.inner_product_parameters),
    "Input": LayerType(shaping.given, (0, 0), (0, MANY)),
    "LRN": LayerType(pooling.lrn, ONE, ONE),
    "LSTM": _recurrent(recurrent.lstm, recurrent.lstm_parameters),
    "LSTMUnit": LayerType(recurrent.lstm_unit, (3, 3), (2, 2), forced=frozenset({0, 1}), closed=frozenset({2})),
    "Log": _pointwise(activations.logarithm),
    "MVN": LayerType(reductions.mean_variance_normalization, ONE, ONE),
    "MultinomialLogisticLoss": _loss(losses.multinomial_logistic_loss),
    "Nms": LayerType(openpose.nms, ONE, ONE, differentiable=False),
    "Normalize": LayerType(detection.normalize, ONE, ONE, detection.normalize_parameters),
    "PReLU": LayerType(elementwise.prelu, ONE, ONE, elementwise.prelu_parameters),
    "Parameter": LayerType(sources.parameter, (0, 0), ONE, sources.parameter_parameters),
    "Permute": LayerType(detection.permute, ONE, ONE),
    "Pooling": LayerType(pooling.pooling, ONE, (1, 2)),
    "Power": _pointwise(activations.power),
    "PriorBox": LayerType(detection.prior_box, (2, 2), ONE),
    "RNN": _recurrent(recurrent.rnn, recurrent.rnn_parameters),
    "ReLU": _pointwise(elementwise.relu),
    "Reduction": LayerType(reductions.reduction, ONE, ONE),
    "Reshape": LayerType(shaping.reshape, ONE, ONE, shares_memory=shaping.always),
    "SPP": LayerType(pooling.spatial_pyramid_pooling, ONE, ONE),
    "Scale": LayerType(elementwise.scale, (1, 2), ONE, elementwise.scale_parameters),
    "Sigmoid": _pointwise(elementwise.sigmoid),
    "SigmoidCrossEntropyLoss": _loss(losses.sigmoid_cross_entropy_loss),
    "Silence": LayerType(reductions.silence, (1, MANY), (0, 0)),
    "Slice": LayerType(shaping.slice_, ONE, (1, MANY), shares_memory=shaping.one_top),
    "Softmax": LayerType(dense.softmax, ONE, ONE),
    "SoftmaxWithLoss": _loss(losses.softmax_with_loss, tops=2),
    "Split": LayerType(shaping.split, ONE, (1, MANY), shares_memory=shaping.always, shares_diffs=False),
    "Swish": _pointwise(activations.swish),
    "TanH": _pointwise(elementwise.tanh),
    "Threshold": LayerType(activations.threshold, ONE, ONE, differentiable=False),
    "Tile": LayerType(indexing.tile, ONE, ONE),
    **{name: LayerType(sources.from_the_host, (0, MANY), (0, MANY), no_parameters) for name in sorted(HOST_LAYERS)},
}
