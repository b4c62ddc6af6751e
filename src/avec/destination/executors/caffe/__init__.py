"""Carries out Caffe nets on torch: a prototxt and a caffemodel become a net on the accelerator, with Caffe's semantics.

Not here yet: loss, data and solver layers and the backward pass. A layer type is added in `layers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer
from avec.destination.executors.caffe.build import build
from avec.destination.executors.caffe.model import CaffeModel
from avec.errors import InvalidArgument
from avec.protocol.caffe import WEIGHTS, LoadNet
from avec.tensor import Array


class CaffeExecutor:
    """Makes nets on one accelerator. See avec.destination.executors.Executor."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def load(self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]) -> tuple[CaffeModel, Answer]:
        """Build a net: `body` is a LoadNet, part 0 the prototxt, files["weights"] a caffemodel if there is one.

        Raises:
            InvalidArgument: the request itself is wrong.
            InvalidModel, UnsupportedOperation, AcceleratorOutOfMemory: the net cannot be built.
        """
        try:
            request = msgspec.msgpack.decode(body, type=LoadNet)
        except msgspec.MsgspecError as exc:
            raise InvalidArgument(f"a request to load a Caffe net cannot be understood: {exc}") from exc
        if len(arrays) != 1 or arrays[0].dtype != np.uint8:
            raise InvalidArgument(f"loading {request.source!r}: one uint8 part, the prototxt, is needed")
        model, description = build(request, arrays[0].tobytes(), files.get(WEIGHTS), self._accelerator)
        self._accelerator.synchronize()
        return model, Answer(arrays=(np.frombuffer(msgspec.msgpack.encode(description), np.uint8),))


__all__ = ["CaffeExecutor"]
