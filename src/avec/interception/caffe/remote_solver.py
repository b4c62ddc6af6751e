"""A solver at the destination: its nets as the host keeps track of them, and how its requests change them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from avec.host.session import Session
from avec.protocol.caffe import (
    Adjust,
    ApplyUpdate,
    Finish,
    LoadSolver,
    Observe,
    Progress,
    ReadState,
    SolverDescription,
    Step,
    Test,
    WriteState,
)

from .building import Built, complete
from .handle import Handle
from .memory import Floats, Issued
from .remote import Making
from .solver_settings import SolverSettings

_DESCRIPTIONS = msgspec.msgpack.Decoder(SolverDescription)

TRAIN, TEST = 0, 1


class RemoteSolver:
    """Speaks with one solver. What is issued is not waited for; `settle` waits, and gives the progress."""

    def __init__(self, session: Session, settings: SolverSettings, solver_type: str, seed: int) -> None:
        """Build a solver with its nets; blocks until they are there.

        Raises:
            InvalidModel, UnsupportedOperation, AcceleratorOutOfMemory: they cannot be built.
        """
        handle = Handle(session, f"the solver of {settings.source}")
        request = LoadSolver(settings.source, tuple(settings.texts), solver_type, seed)
        parts = [np.frombuffer(text, np.uint8) for text in (settings.prototxt, *settings.texts.values())]
        description = _DESCRIPTIONS.decode(handle.load(request, parts, {}).arrays[0].data)
        self.nets: list[Built] = [
            complete(handle, net, definition, TEST if place else TRAIN, place)
            for place, (net, definition) in enumerate(zip(description.nets, settings.definitions, strict=True))
        ]
        self._base_lr: float = settings.message.base_lr
        self._latest: tuple[Issued | None, int] = None, 0  # with the place of the net that it is about

    @property
    def progress(self) -> Progress:
        """Where the solver stands; it is asked only where its last answer is not here."""
        latest, net = self._latest
        if latest is not None and latest.progress is None:
            self.nets[net].remote.settle(latest)
        if latest is None or latest.progress is None:  # the one that failed told nothing
            return self.settle(self.adjust(self._base_lr))
        return latest.progress

    def step(self, iterations: int, first: bool, tested: bool = False) -> Issued:
        """Run iterations at the destination."""
        return self._run(
            "step", lambda writes, reshaped, wanted: Step(writes, reshaped, iterations, wanted, first, tested)
        )

    def observe(self, external_loss: float, first: bool) -> Issued:
        """Take in the loss of the passes since the diffs were cleared."""
        return self._run(
            "observe", lambda writes, reshaped, wanted: Observe(writes, reshaped, external_loss, first), brings=False
        )

    def apply_update(self) -> Issued:
        """Change the parameters."""
        return self._run("update", lambda writes, reshaped, wanted: ApplyUpdate(writes, reshaped, wanted))

    def finish(self, forwarded: bool, external_loss: float) -> Issued:
        """Have the last loss displayed."""
        return self._run(
            "observe" if forwarded else "forward",
            lambda writes, reshaped, wanted: Finish(writes, reshaped, forwarded, external_loss),
            brings=False,
        )

    def test(
        self,
        net: int,
        iterations: int,
        first: bool = True,
        last: bool = True,
        forwarded: bool = False,
        loss: float = 0.0,
    ) -> Issued:
        """Run a test net, or take what a pass that the host has driven gave."""
        return self._run(
            "observe" if forwarded else "forward",
            lambda writes, reshaped, wanted: Test(writes, reshaped, net, iterations, first, last, forwarded, loss),
            net,
            brings=False,
        )

    def read_state(self) -> tuple[Progress, Sequence[Floats]]:
        """Fetch where the solver stands, with its history; waits."""
        issued = self._run("state", lambda writes, reshaped, wanted: ReadState(writes, reshaped, wanted))
        progress = self.settle(issued)
        return progress, issued.extra

    def write_state(self, iteration: int, current_step: int, history: Sequence[Floats]) -> Progress:
        """Let the solver stand somewhere else; waits."""
        issued = self._run(
            "state",
            lambda writes, reshaped, wanted: WriteState(writes, reshaped, iteration, current_step),
            extra=[np.ascontiguousarray(values, np.float32) for values in history],
        )
        return self.settle(issued)

    def adjust(self, base_lr: float) -> Issued:
        """Go on with another learning rate."""
        self._base_lr = base_lr
        return self._run("adjust", lambda writes, reshaped, wanted: Adjust(writes, reshaped, base_lr), brings=False)

    def settle(self, issued: Issued, net: int = 0) -> Progress:
        """Wait for a request."""
        if issued.progress is None:
            self.nets[net].remote.settle(issued)
        assert issued.progress is not None  # of a request on a solver, which was answered
        return issued.progress

    def _run(self, kind: str, make: Making, net: int = 0, brings: bool = True, extra: Sequence[Floats] = ()) -> Issued:
        remote = self.nets[net].remote
        self._latest = None, 0
        issued = remote.run((kind, 0, len(remote.parameters) - 1), make, extra=extra, brings=brings)
        self._latest = issued, net
        return issued
