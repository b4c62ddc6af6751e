"""What a Caffe front-end and the Caffe executor say to each other in `Load.body`, `Run.body` and `Result.body`.

A net's blobs and parameters live at the destination. Requests name them by place, never by pointer. Writes ride with
the request that needs them: the frame's parts are, in order, the new contents of `writes`. Answers' parts are, in
order, the contents of what was `wanted` or read.
"""

from __future__ import annotations

from typing import Literal

import msgspec

NETWORK = "network"  # the role of the prototxt among Load's parts: part 0, uint8 text
WEIGHTS = "weights"  # the role of a caffemodel among Load.files and Run.files


class BlobRef(msgspec.Struct, frozen=True, array_like=True):
    """One array of a net: blob `index` of the net when layer is −1, else parameter `index` of that layer."""

    index: int
    layer: int = -1
    diff: bool = False


class Reshaped(msgspec.Struct, frozen=True, array_like=True):
    """A net blob whose shape the application changed; `shape` is its new one."""

    index: int
    shape: tuple[int, ...]


class LoadNet(msgspec.Struct, frozen=True, array_like=True):
    """Build a net. Source: caffe/python/caffe/_caffe.cpp, Net_Init."""

    source: str  # the prototxt's name on the host, for messages
    weights_source: str = ""  # the caffemodel's name on the host, for messages
    phase: Literal["TRAIN", "TEST"] = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()


class ParameterDescription(msgspec.Struct, frozen=True, array_like=True):
    """One learnable array of a layer."""

    shape: tuple[int, ...]


class LayerDescription(msgspec.Struct, frozen=True, array_like=True):
    """One layer: bottoms and tops are places in NetDescription.blobs."""

    name: str
    type: str
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    parameters: tuple[ParameterDescription, ...] = ()


class BlobDescription(msgspec.Struct, frozen=True, array_like=True):
    """One blob of the net, automatic split copies included."""

    name: str
    shape: tuple[int, ...]


class NetDescription(msgspec.Struct, frozen=True, array_like=True):
    """The answer to LoadNet; it may be large, so it is msgpack in part 0 (uint8) of the result."""

    name: str
    layers: tuple[LayerDescription, ...]
    blobs: tuple[BlobDescription, ...]
    inputs: tuple[int, ...]  # blobs that no layer produces (Input layers' tops)
    outputs: tuple[int, ...]  # blobs that no layer consumes


class Synchronise(msgspec.Struct, frozen=True, array_like=True):
    """Fields that every request on a net begins with: what the application changed since the last one."""

    writes: tuple[BlobRef, ...] = ()
    reshaped: tuple[Reshaped, ...] = ()


class Forward(Synchronise, frozen=True, tag="forward"):
    """Run layers start…end (inclusive, places in NetDescription.layers); then send `wanted` back."""

    start: int = 0
    end: int = -1
    wanted: tuple[BlobRef, ...] = ()


class Reshape(Synchronise, frozen=True, tag="reshape"):
    """Propagate changed shapes through all layers. Source: Net::Reshape."""


class Read(Synchronise, frozen=True, tag="read"):
    """Send arrays back."""

    wanted: tuple[BlobRef, ...] = ()


class CopyFrom(Synchronise, frozen=True, tag="copy_from"):
    """Copy parameters from Run.files["weights"] into layers of the same name. Source: Net::CopyTrainedLayersFrom."""

    source: str = ""  # the caffemodel's name on the host, for messages


Request = Forward | Reshape | Read | CopyFrom


class Shapes(msgspec.Struct, frozen=True, array_like=True):
    """Result.body of every request: the shapes of all net blobs where any changed since last told, else empty."""

    shapes: tuple[tuple[int, ...], ...] = ()
