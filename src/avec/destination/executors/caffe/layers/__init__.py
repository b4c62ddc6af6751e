"""The layer types that the executor carries out: one flat table, one small function each."""

from __future__ import annotations

from avec.destination.executors.caffe.layers import convolution as conv
from avec.destination.executors.caffe.layers import dense, elementwise, pooling, shaping
from avec.destination.executors.caffe.layers.layer import LayerType

MANY = 1 << 16  # no net has more bottoms or tops than this
ONE = (1, 1)

LAYER_TYPES: dict[str, LayerType] = {
    "BatchNorm": LayerType(elementwise.batch_norm, ONE, ONE, elementwise.batch_norm_parameters),
    "Concat": LayerType(shaping.concat, (1, MANY), ONE, shares_memory=shaping.one_bottom),
    "Convolution": LayerType(conv.convolution, (1, MANY), (1, MANY), conv.convolution_parameters),
    "Crop": LayerType(shaping.crop, (2, 2), ONE),
    "Deconvolution": LayerType(conv.deconvolution, (1, MANY), (1, MANY), conv.deconvolution_parameters),
    "Dropout": LayerType(elementwise.dropout, ONE, ONE),
    "Eltwise": LayerType(elementwise.eltwise, (2, MANY), ONE),
    "Flatten": LayerType(shaping.flatten, ONE, ONE, shares_memory=shaping.always),
    "InnerProduct": LayerType(dense.inner_product, ONE, ONE, dense.inner_product_parameters),
    "Input": LayerType(shaping.given, (0, 0), (0, MANY)),
    "LRN": LayerType(pooling.lrn, ONE, ONE),
    "PReLU": LayerType(elementwise.prelu, ONE, ONE, elementwise.prelu_parameters),
    "Pooling": LayerType(pooling.pooling, ONE, (1, 2)),
    "ReLU": LayerType(elementwise.relu, ONE, ONE),
    "Reshape": LayerType(shaping.reshape, ONE, ONE, shares_memory=shaping.always),
    "Scale": LayerType(elementwise.scale, (1, 2), ONE, elementwise.scale_parameters),
    "Sigmoid": LayerType(elementwise.sigmoid, ONE, ONE),
    "Slice": LayerType(shaping.slice_, ONE, (1, MANY), shares_memory=shaping.one_top),
    "Softmax": LayerType(dense.softmax, ONE, ONE),
    "Split": LayerType(shaping.split, ONE, (1, MANY), shares_memory=shaping.always),
    "TanH": LayerType(elementwise.tanh, ONE, ONE),
}
