"""A solver at the Caffe executor, spoken to by names: what the tests of solvers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from avec.destination.executors import Answer
from avec.destination.executors.caffe import CaffeExecutor
from avec.protocol import caffe as protocol

Floats = npt.NDArray[np.float32]
Writes = Mapping[protocol.BlobRef, Floats]
NETWORK_FILE = "net.prototxt"  # what solver prototxts of the tests name


@dataclass(frozen=True, slots=True)
class Made:
    """A solver request's answer."""

    progress: protocol.Progress
    arrays: list[Floats]


class Solver:
    """One loaded solver whose prototxt names one network file."""

    def __init__(self, executor: CaffeExecutor, solver: str, network: str, **load: Any) -> None:
        request = protocol.LoadSolver("solver.prototxt", nets=(NETWORK_FILE,), **load)
        parts = [np.frombuffer(text.encode(), np.uint8) for text in (solver, network)]
        self.model, answer = executor.load(msgspec.msgpack.encode(request), parts, {})
        self.description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=protocol.SolverDescription)

    def data(self, blob: str, net: int = 0) -> protocol.BlobRef:
        names = [each.name for each in self.description.nets[net].blobs]
        return protocol.BlobRef(names.index(blob))

    def parameters(self, diff: bool = False) -> list[protocol.BlobRef]:
        """All parameters of the train net, layer after layer."""
        return [
            protocol.BlobRef(index, layer, diff)
            for layer, each in enumerate(self.description.nets[0].layers)
            for index in range(len(each.parameters))
        ]

    def ask(self, request: protocol.Request, writes: Writes, files: Mapping[str, Path] | None = None) -> Answer:
        return self.model.run(msgspec.msgpack.encode(request), [*writes.values()], dict(files or {}))

    def step(
        self, iterations: int, writes: Writes | None = None, wanted: Sequence[protocol.BlobRef] = (), **more: Any
    ) -> Made:
        given = writes or {}
        request = protocol.Step(iterations=iterations, writes=tuple(given), wanted=tuple(wanted), **more)
        return _made(self.ask(request, given))

    def solve_end(self) -> Made:
        return _made(self.ask(protocol.Finish(), {}))

    def test(self, net: int) -> Made:
        return _made(self.ask(protocol.Test(net=net), {}))

    def state(self, wanted: Sequence[protocol.BlobRef] = ()) -> Made:
        return _made(self.ask(protocol.ReadState(wanted=tuple(wanted)), {}))

    def restore(self, iteration: int, current_step: int, history: Sequence[Floats]) -> Made:
        request = protocol.WriteState(iteration=iteration, current_step=current_step)
        return _made(self.model.run(msgspec.msgpack.encode(request), list(history), {}))

    def write(self, net: int, writes: Writes) -> None:
        self.ask(protocol.Within(net, protocol.Read(writes=tuple(writes))), writes)


def _made(answer: Answer) -> Made:
    progress = msgspec.msgpack.decode(answer.body, type=protocol.Progress)
    return Made(progress, [np.array(array) for array in answer.arrays])
