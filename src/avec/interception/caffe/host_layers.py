"""The layers of a remote net that run on the host: the application's own, and those that read or write files."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from avec.errors import UnsupportedOperation

from . import parallel
from .blob import Blob
from .data import SOURCE_TYPES, HDF5Output, Source, open_source
from .memory import Floats
from .python_layer import BlobVec, Layer, make_layer
from .randomness import draw_seed

if TYPE_CHECKING:
    from avec.formats.caffe.message import Message

TRAIN = 0


class HostLayer(Protocol):
    """What a net does with a layer on the host; bottoms and tops are the layer's blobs."""

    @property
    def type(self) -> str:
        """As in the prototxt."""

    @property
    def blobs(self) -> list[Blob]:
        """The learnable parameters; until the net is complete they are the host's alone."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Called once, before the first reshape."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Write the tops."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Write the bottoms' diffs where they are to get one, and add to those of the parameters."""


class SourceLayer:
    """A data layer. Its tops are filled from batches that are read ahead."""

    def __init__(self, definition: Message, phase: int) -> None:
        self.type = str(definition.type)
        self.blobs: list[Blob] = BlobVec()
        self.source: Source = open_source(
            definition,
            phase,
            draw_seed(),
            solver_count=parallel.solver_count(),
            solver_rank=parallel.solver_rank(),
        )
        # The thread that reads ahead ends with the layer.
        weakref.finalize(self, self.source.close)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, shape in zip(top, self.source.shapes(), strict=True):
            blob.reshape(*shape)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """A batch brings its shape."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        batch: Sequence[Floats] = self.source.next_batch()
        for blob, contents in zip(top, batch, strict=True):
            blob.give(contents)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Data has no gradient."""


class OutputLayer:
    """HDF5Output: writes its bottoms into a file."""

    type = "HDF5Output"

    def __init__(self, definition: Message) -> None:
        self.blobs: list[Blob] = BlobVec()
        self._file = HDF5Output(definition.hdf5_output_param.file_name)
        weakref.finalize(self, self._file.close)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """The file is made with the layer."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """There are no tops."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        data, label = bottom
        self._file.write(data.data, label.data)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Nothing flows back from a file."""


def make_host_layer(definition: Message, phase: int) -> HostLayer | Layer:
    """Make the layer that a LayerParameter of one of the protocol's HOST_LAYERS describes.

    Args:
        phase: of the net; the layer's own counts more.

    Raises:
        InvalidArgument, InvalidData, InvalidModel: it cannot be made, for the reason that the text says.
        UnsupportedOperation: the host has no such layer.
    """
    phase = definition.phase if definition.HasField("phase") else phase
    if definition.type in SOURCE_TYPES:
        return SourceLayer(definition, phase)
    if definition.type == "HDF5Output":
        return OutputLayer(definition)
    if definition.type == "Python":
        return make_layer(definition, phase)
    raise UnsupportedOperation(f"layer {definition.name!r}: the host runs no layers of type {definition.type!r}")


@dataclass(frozen=True, slots=True)
class Hosted:
    """A layer on the host in its place in a net."""

    layer: HostLayer | Layer
    bottoms: list[Blob]
    tops: list[Blob]
    propagates: list[bool]

    def reshape(self) -> None:
        """Let it give its tops their shapes."""
        self.layer.reshape(self.bottoms, self.tops)

    def forward(self) -> None:
        """Run it. Source: Layer::Forward."""
        self.layer.reshape(self.bottoms, self.tops)
        self.layer.forward(self.bottoms, self.tops)  # type: ignore[union-attr]  # the application's

    def backward(self) -> None:
        """Run it backwards."""
        self.layer.backward(self.tops, self.propagates, self.bottoms)  # type: ignore[union-attr]  # the application's
