"""Weights from a caffemodel: mapped, matched by layer name, checked against the net's shapes, copied or used there.

Source: caffe/src/caffe/net.cpp, Net::CopyTrainedLayersFrom; caffe/src/caffe/blob.cpp, ShapeEquals and FromProto.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Shape
from avec.errors import InvalidModel, UnsupportedOperation
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.upgrade import upgrade_net

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LEGACY_DIMENSIONS = ("num", "channels", "height", "width")


def read_weights(path: Path, source: str) -> Message:
    """Read a caffemodel; its arrays are views on the mapped file and keep the mapping alive.

    Raises:
        InvalidModel: it is no caffemodel, or damaged.
        UnsupportedOperation: it is an HDF5 file or a V0 net.
    """
    with path.open("rb") as file:
        # A private writable mapping: torch takes no read-only memory without a warning. Nothing is written.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if path.stat().st_size else b""
    if not content:
        raise InvalidModel(f"{source}: the caffemodel is empty: copy it again and compare its size")
    if content[: len(HDF5_SIGNATURE)] == HDF5_SIGNATURE:
        raise UnsupportedOperation(f"{source}: HDF5 weights are not supported; save them as a .caffemodel")
    net = message_class("NetParameter").from_wire(memoryview(content), source)
    upgrade_net(net, source)
    return net


def copy_weights(layers: Sequence[Layer], weights: Message, source: str) -> int:
    """Copy parameters into the layers of the same name; layers that the net lacks are passed over, as in Caffe.

    All is checked before anything is written, so that a failure leaves the net as it was.

    Returns:
        How many arrays were copied.

    Raises:
        InvalidModel: a layer's parameters differ in number, shape or size.
    """
    by_name: dict[str, Layer] = {}
    for layer in layers:
        by_name.setdefault(layer.name, layer)
    copies = [
        copy for saved in weights.layer if saved.name in by_name for copy in _match(by_name[saved.name], saved, source)
    ]
    with torch.no_grad():
        for target, values in copies:
            found = torch.from_numpy(values).view(target.shape)
            if target.data_ptr() != found.data_ptr():  # else `in_place` gave it
                target.copy_(found)
    return len(copies)


def in_place(saved: Message, index: int, shape: Shape) -> Tensor | None:
    """A parameter of a saved layer where its numbers lie, if it has that shape: to be called when they are aligned."""
    if index >= len(saved.blobs) or not shape_equals(shape, saved.blobs[index]):
        return None
    blob = saved.blobs[index]
    if len(blob.double_data) or not 0 < len(blob.data) == math.prod(shape):
        return None
    return torch.from_numpy(blob.data.as_array()).view(shape)


def share_weights(layers: Sequence[Layer], sources: Sequence[Layer]) -> bool:
    """Use the parameters of another net's layers of the same names. Source: Net::ShareTrainedLayersWith.

    Returns:
        Whether any parameter is another tensor now.

    Raises:
        InvalidArgument: a layer's parameters differ in number or shape; then nothing is shared.
    """
    by_name = {layer.name: layer for layer in reversed(layers)}
    pairs = [(by_name[source.name], source) for source in sources if source.name in by_name]
    for layer, source in pairs:
        own, others = ([tuple(each.shape) for each in one.parameters] for one in (layer, source))
        layer.require(own == others, f"it has parameters of shapes {own}; those to be shared have {others}")
    changed = False
    for layer, source in pairs:
        for index, parameter in enumerate(source.parameters):
            changed = changed or layer.parameters[index] is not parameter
            layer.parameters[index] = parameter
            layer.learnables[index].values = source.learnables[index].values
    return changed


def _match(layer: Layer, saved: Message, source: str) -> list[tuple[Tensor, npt.NDArray[np.float32]]]:
    if len(saved.blobs) != len(layer.parameters):
        raise InvalidModel(
            f"{source}: layer {layer.name!r} ({layer.type}) has {len(saved.blobs)} parameters in this file, but "
            f"{len(layer.parameters)} in the net; these weights are for another net, or the layer needs a new name"
        )
    return [
        (target, _values(layer, index, tuple(target.shape), blob, source))
        for index, (target, blob) in enumerate(zip(layer.parameters, saved.blobs, strict=True))
    ]


def _values(layer: Layer, index: int, target: Shape, blob: Message, source: str) -> npt.NDArray[np.float32]:
    what = f"{source}: parameter {index} of layer {layer.name!r} ({layer.type})"
    saved = saved_shape(blob)
    if not shape_equals(target, blob):
        raise InvalidModel(
            f"{what} has shape {saved} in this file, but {target} in the net; "
            "to learn the layer from scratch, give it another name"
        )
    double = len(blob.double_data) > 0
    values: npt.NDArray[np.float32] = (blob.double_data if double else blob.data).as_array()
    if values.size != math.prod(target):
        raise InvalidModel(f"{what} has shape {saved} but {values.size} values; the file is damaged")
    return values.astype(np.float32, copy=False)


def saved_shape(blob: Message) -> Shape:
    """The shape of a BlobProto, by its `shape` or by its four old fields."""
    if any(blob.HasField(name) for name in _LEGACY_DIMENSIONS):
        return tuple(getattr(blob, name) for name in _LEGACY_DIMENSIONS)
    return tuple(blob.shape.dim)


def shape_equals(target: Shape, blob: Message) -> bool:
    """Whether a BlobProto suits a shape; an old four-axis one may have ones before it. Source: Blob::ShapeEquals."""
    saved = saved_shape(blob)
    if any(blob.HasField(name) for name in _LEGACY_DIMENSIONS):
        return len(target) <= 4 and (1,) * (4 - len(target)) + target == saved
    return saved == target
