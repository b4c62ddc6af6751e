"""A net at the Caffe executor, spoken to by names: what the tests of the executor share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from avec.destination.executors import Answer
from avec.destination.executors.caffe import CaffeExecutor
from avec.formats.caffe.message import message_class
from avec.protocol import caffe as protocol

Floats = npt.NDArray[np.float32]


def input_layer(*shape: int, name: str = "data") -> str:
    dims = " ".join(f"dim: {dimension}" for dimension in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind: str, bottoms: str, tops: str, more: str = "", name: str = "") -> str:
    """One layer; `bottoms` and `tops` are names with spaces between. It is named after its first top."""
    blobs = "".join(f' bottom: "{blob}"' for blob in bottoms.split())
    blobs += "".join(f' top: "{blob}"' for blob in tops.split())
    return f'layer {{ name: "{name or tops.split()[0]}" type: "{kind}"{blobs} {more} }}\n'


def caffemodel(path: Path, layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Write a caffemodel with these BlobProtos for each layer."""
    net = message_class("NetParameter")()
    for name, blobs in layers.items():
        net.layer.add(name=name, blobs=blobs)
    path.write_bytes(net.SerializeToString())
    return path


class Net:
    """One loaded net."""

    def __init__(self, executor: CaffeExecutor, prototxt: str, weights: Path | None = None, **load: Any) -> None:
        request = protocol.LoadNet("net.prototxt", "net.caffemodel" if weights else "", **load)
        files = {protocol.WEIGHTS: weights} if weights else {}
        text = np.frombuffer(prototxt.encode(), np.uint8)
        self.model, answer = executor.load(msgspec.msgpack.encode(request), [text], files)
        self.description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=protocol.NetDescription)
        self.blobs = [blob.name for blob in self.description.blobs]
        self.layers = [each.name for each in self.description.layers]

    def data(self, blob: str) -> protocol.BlobRef:
        return protocol.BlobRef(self.blobs.index(blob))

    def parameter(self, layer: str, index: int = 0) -> protocol.BlobRef:
        return protocol.BlobRef(index, self.layers.index(layer))

    def run(
        self, request: protocol.Request, arrays: Sequence[npt.NDArray[Any]] = (), files: dict[str, Path] | None = None
    ) -> Answer:
        return self.model.run(msgspec.msgpack.encode(request), arrays, files or {})

    def forward(
        self,
        writes: Mapping[protocol.BlobRef, Floats] | None = None,
        wanted: Sequence[protocol.BlobRef] = (),
        **more: Any,
    ) -> list[Floats]:
        """Run with writes; returns copies of what is wanted."""
        given = writes or {}
        answer = self.run(protocol.Forward(writes=tuple(given), wanted=tuple(wanted), **more), [*given.values()])
        return [np.array(array) for array in answer.arrays]

    def read(self, *wanted: protocol.BlobRef) -> list[Floats]:
        return [np.array(array) for array in self.run(protocol.Read(wanted=wanted)).arrays]

    def reshape(self, blob: str, *shape: int) -> protocol.Reshaped:
        return protocol.Reshaped(self.blobs.index(blob), shape)


def told(answer: Answer) -> tuple[tuple[int, ...], ...]:
    return msgspec.msgpack.decode(answer.body, type=protocol.Shapes).shapes
