"""Caffemodels: writing what Net::ToProto writes. Reading them is `wire`'s part, matching them to a net the executor's.

Source: caffe/src/caffe/net.cpp and layer.hpp, ToProto; blob.cpp, ToProto and FromProto.
Weights are a dict from a layer's name to the arrays of its blobs, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import InvalidArgument
from avec.formats.caffe import wire
from avec.formats.caffe.message import Message
from avec.formats.caffe.schema import MESSAGES, Plain
from avec.formats.caffe.splits import insert_splits

Floats: TypeAlias = npt.NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Sequence[Floats]]
Piece: TypeAlias = bytes | memoryview

NBYTES_LIMIT = (1 << 31) - 1  # of one protobuf message

_LOSSES = frozenset(
    {"ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
     "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"}
)  # fmt: skip
_STATISTICS = 3  # blobs of a BatchNorm layer, which no solver changes


def as_built(net: Message, source: str) -> Message:
    """A net as Caffe has it once it is built, which is what Caffe saves.

    Args:
        net: a NetParameter that is upgraded and filtered, and whose `state.phase` is set.

    Raises:
        InvalidModel: a bottom that no layer before produces.
    """
    built = insert_splits(net, source)
    for layer in built.layer:
        if not layer.HasField("phase"):
            layer.phase = net.state.phase
        if layer.type in _LOSSES and not len(layer.loss_weight):
            layer.loss_weight.append(1)
        while layer.type == "BatchNorm" and len(layer.param) < _STATISTICS:
            layer.param.add(lr_mult=0)
    return built


def encode_net(net: Message, weights: Weights, diffs: Weights | None = None) -> list[Piece]:
    """A net with its weights, as pieces to be written one after another; arrays are not copied.

    Args:
        net: a NetParameter from `as_built`.
        weights: for each layer that has blobs; a layer's own blobs in `net` are not written.
        diffs: of the same form, to be written beside the weights.

    Raises:
        InvalidArgument: a name is that of no layer or of two, shapes disagree, or it is too much for the format.
    """
    _check_names(net, weights)
    layers = []
    for layer in net.layer:
        plain = {name: value for name, value in layer.to_plain().items() if name != "blobs"}
        arrays = weights.get(layer.name, ())
        if arrays:
            plain["blobs"] = _blobs(layer.name, arrays, None if diffs is None else diffs.get(layer.name, ()))
        layers.append(plain)
    whole: Plain = {"name": net.name, "layer": layers}
    return _bounded(wire.encode(MESSAGES["NetParameter"], whole))


def encode_weights(weights: Weights) -> list[Piece]:
    """Weights alone, as a caffemodel that names layers but says nothing about them: enough to copy them from."""
    layers: list[Plain] = [{"name": name, "blobs": _blobs(name, arrays, None)} for name, arrays in weights.items()]
    return _bounded(wire.encode(MESSAGES["NetParameter"], {"layer": layers}))


def blob(values: Floats, diff: Floats | None = None) -> Plain:
    """An array as a plain BlobProto; it is not copied where it is contiguous."""
    plain: Plain = {"shape": {"dim": list(values.shape)}, "data": np.ascontiguousarray(values, "<f4").reshape(-1)}
    if diff is not None:
        plain["diff"] = np.ascontiguousarray(diff, "<f4").reshape(-1)
    return plain


def shape_of(stored: Message) -> tuple[int, ...]:
    """A BlobProto's shape, also of one from before 2014, which has four dimensions with names."""
    if any(stored.HasField(name) for name in ("num", "channels", "height", "width")):
        return (stored.num, stored.channels, stored.height, stored.width)
    return tuple(stored.shape.dim)


def _blobs(layer: str, arrays: Sequence[Floats], diffs: Sequence[Floats] | None) -> list[Plain]:
    if diffs is None:
        return [blob(values) for values in arrays]
    if [values.shape for values in arrays] != [diff.shape for diff in diffs]:
        raise InvalidArgument(f"layer {layer!r}: its diffs have other shapes than its weights")
    return [blob(values, diff) for values, diff in zip(arrays, diffs, strict=True)]


def _check_names(net: Message, weights: Weights) -> None:
    names = [layer.name for layer in net.layer]
    for name, arrays in weights.items():
        if arrays and names.count(name) != 1:
            raise InvalidArgument(
                f"weights of layer {name!r} cannot be saved: the net has {names.count(name)} layers of that name; "
                "give every layer a name of its own"
            )


def _bounded(pieces: list[Piece]) -> list[Piece]:
    nbytes = sum(len(piece) for piece in pieces)
    if nbytes > NBYTES_LIMIT:
        raise InvalidArgument(
            f"weights of {nbytes} bytes do not fit into a caffemodel, whose limit is {NBYTES_LIMIT}; save them as HDF5"
        )
    return pieces
