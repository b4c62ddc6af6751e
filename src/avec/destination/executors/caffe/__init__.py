"""Carries out Caffe nets and solvers on torch: prototxts and caffemodels become nets on the accelerator.

A layer type is added in `layers`, a type of solver in `solver.updates`.
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
from avec.destination.executors.caffe.solver import CaffeSolver, load_solver
from avec.errors import InvalidArgument
from avec.protocol.caffe import WEIGHTS, LoadNet, LoadSolver, NetDescription, SolverDescription
from avec.tensor import Array

_LOADS: msgspec.msgpack.Decoder[LoadNet | LoadSolver] = msgspec.msgpack.Decoder(LoadNet | LoadSolver)


class CaffeExecutor:
    """Makes nets and solvers on one accelerator. See avec.destination.executors.Executor."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def load(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]
    ) -> tuple[CaffeModel | CaffeSolver, Answer]:
        """Build what `body` asks for: a LoadNet, with files["weights"] a caffemodel if there is one, or a LoadSolver.

        Raises:
            InvalidArgument: the request itself is wrong.
            InvalidModel, UnsupportedOperation, AcceleratorOutOfMemory: the net or solver cannot be built.
        """
        try:
            request = _LOADS.decode(body)
        except msgspec.MsgspecError as exc:
            raise InvalidArgument(f"a request to load a Caffe net cannot be understood: {exc}") from exc
        named = request.nets if isinstance(request, LoadSolver) else request.files
        if len(arrays) != 1 + len(named) or any(array.dtype != np.uint8 for array in arrays):
            raise InvalidArgument(f"loading {request.source!r}: {1 + len(named)} uint8 parts, its files, are needed")
        model: CaffeModel | CaffeSolver
        description: NetDescription | SolverDescription
        if isinstance(request, LoadSolver):
            model, description = load_solver(request, arrays, self._accelerator)
        else:
            contents = {name: array.tobytes() for name, array in zip(named, arrays[1:], strict=True)}
            model, description = build(request, arrays[0].tobytes(), files.get(WEIGHTS), self._accelerator, contents)
        self._accelerator.synchronize()
        return model, Answer(arrays=(np.frombuffer(msgspec.msgpack.encode(description), np.uint8),))


__all__ = ["CaffeExecutor"]
