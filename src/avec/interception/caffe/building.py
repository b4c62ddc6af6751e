"""From a net that a destination has begun to one that runs: the host's layers are set up as it gets to them.

Source: Net::Init in caffe/src/caffe/net.cpp and Layer::SetUp in caffe/include/caffe/layer.hpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from avec.errors import InvalidArgument, InvalidData, InvalidModel, UnsupportedOperation
from avec.protocol.caffe import LoadNet, NetDescription, SetUpLayer, Within

from .arrays import awaited_arrays, known_so_far
from .blob import ON_HOST, Blob
from .definitions import Definition
from .handle import Handle
from .host_layers import TRAIN, Hosted, HostLayer, make_host_layer
from .memory import NetArray
from .passes import Passes
from .python_layer import Layer
from .remote import RemoteNet

_DESCRIPTIONS = msgspec.msgpack.Decoder(NetDescription)


@dataclass(frozen=True, slots=True)
class Built:
    """A complete net, and what belongs to it on the host."""

    remote: RemoteNet
    passes: Passes
    blobs: list[Blob]
    definition: Definition
    host_parameters: bool  # layers of the host's have learnable parameters, which are to be written


def load_net(handle: Handle, request: LoadNet, contents: Sequence[bytes], files: Mapping[str, str]) -> NetDescription:
    """Have the destination begin a net; blocks until it is complete or awaits a layer of the host's.

    Args:
        contents: the prototxt, then those of request.files.
        files: role → digest of a model that the destination has.

    Raises:
        InvalidModel, UnsupportedOperation, AcceleratorOutOfMemory: the net cannot be built.
        DestinationError: the destination failed.
    """
    reply = handle.load(request, [np.frombuffer(each, np.uint8) for each in contents], files)
    return _DESCRIPTIONS.decode(reply.arrays[0].data)


def complete(
    handle: Handle, description: NetDescription, definition: Definition, phase: int, place: int | None = None
) -> Built:
    """Set up the layers that a net awaits, until it is complete; whatever the application's layers raise passes."""
    layers: dict[int, HostLayer | Layer] = {}
    arrays: list[NetArray] = []
    blobs: list[Blob] = []
    if description.awaiting >= 0:
        arrays = awaited_arrays(description)
        blobs = [Blob(ON_HOST, array) for array in arrays]
    while description.awaiting >= 0:
        known_so_far(arrays, description)
        layers[description.awaiting] = layer = _make(definition, description.awaiting, phase)
        request = _set_up(layer, description, blobs)
        whole = request if place is None else Within(place, request)
        reply = handle.run("caffe.set_up_layer", whole).wait()
        description = _DESCRIPTIONS.decode(reply.arrays[0].data)
    remote = RemoteNet(handle, description, place)
    if not layers:
        blobs = [Blob(remote, array) for array in remote.blobs]
    hosted = {index: _hosted(layer, description, index, blobs) for index, layer in layers.items()}
    _take_over(remote, blobs, hosted)
    learns = any(layer.blobs for layer in layers.values())
    return Built(remote, Passes(remote, hosted), blobs, definition, learns)


def _make(definition: Definition, place: int, phase: int) -> HostLayer | Layer:
    """Make a layer; what is wrong with its settings is said with the name of the net's file."""
    layer = definition.read().layer[place]
    try:
        return make_host_layer(layer, phase)
    except (InvalidArgument, InvalidData, InvalidModel, UnsupportedOperation) as exc:
        if not str(exc).startswith("layer "):
            raise
        raise type(exc)(f"{definition.source}: {exc}") from exc


def _set_up(layer: HostLayer | Layer, description: NetDescription, blobs: list[Blob]) -> SetUpLayer:
    described = description.layers[description.awaiting]
    bottoms, tops = [blobs[place] for place in described.bottoms], [blobs[place] for place in described.tops]
    layer.setup(bottoms, tops)
    layer.reshape(bottoms, tops)
    return SetUpLayer(tops=tuple(blob.shape for blob in tops), parameters=tuple(blob.shape for blob in layer.blobs))


def _hosted(layer: HostLayer | Layer, description: NetDescription, index: int, blobs: list[Blob]) -> Hosted:
    described = description.layers[index]
    return Hosted(
        layer,
        [blobs[place] for place in described.bottoms],
        [blobs[place] for place in described.tops],
        list(described.propagates),
    )


def _take_over(remote: RemoteNet, blobs: list[Blob], hosted: Mapping[int, Hosted]) -> None:
    """Let the blobs that layers know from their setup be the net's, and hold what setup wrote into them."""
    for blob, array in zip(blobs, remote.blobs, strict=True):
        before = blob.array
        blob.bind(remote, array)
        if array.given and before is not array and before.memory.touched:
            remote.give(array, before.memory.values(before.shape).copy())
    for index, each in hosted.items():
        for blob, array in zip(each.layer.blobs, remote.parameters[index], strict=True):
            before = blob.array
            blob.bind(remote, array)
            remote.put_parameter(array, before.memory.values(before.shape))


__all__ = ["TRAIN", "Built", "complete", "load_net"]
