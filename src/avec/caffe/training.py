"""The command `train`: a solver until max_iter or a signal, with what Caffe does at its end.

Source: train() in caffe/tools/caffe.cpp; Solver::Solve; caffe/src/caffe/util/signal_handler.cpp.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from avec.caffe.showing import Bar, progress_bar
from avec.formats.caffe.message import Message, message_class

if TYPE_CHECKING:
    from avec.interception import caffe
else:
    import caffe

TURN_S = 0.5  # how long a signal and the bar wait at most where nothing is displayed; one iteration may take longer


@dataclass(frozen=True, slots=True)
class Start:
    """What the command line says of a training's beginning."""

    solver: str
    snapshot: str | None
    weights: tuple[str, ...]
    level: int
    stages: tuple[str, ...]


class _StoppedError(Exception):
    """A signal asked for the end."""


class _Signals:
    """What signals have asked for since it was last looked at. A second one that is to stop ends the program."""

    def __init__(self) -> None:
        self._asked = ""

    def ask(self, effect: str) -> None:
        """Take note of a signal."""
        if effect == "stop" and self._asked == "stop":
            raise KeyboardInterrupt
        if effect != "none":
            self._asked = effect

    def take(self) -> str:
        """What was asked for, "stop", "snapshot" or nothing; a snapshot is only asked for once."""
        asked = self._asked
        if asked == "snapshot":
            self._asked = ""
        return asked


def train_solver(start: Start, sigint_effect: str, sighup_effect: str) -> None:
    """Train as a solver's prototxt says; waits until it is done or a signal has ended it.

    Args:
        sigint_effect, sighup_effect: "stop", "snapshot" or "none".

    Raises:
        RuntimeError: a file cannot be opened.
        AvecError: a net cannot be built or trained, or a file cannot be read.
        KeyboardInterrupt: a second signal came before the first had its effect.
    """
    with open(start.solver, "rb") as file:
        settings = message_class("SolverParameter").from_text(file.read().decode("utf-8", "replace"), start.solver)
    with _as_started(start, settings) as solver_file:
        solver = caffe.get_solver(solver_file)
    for net in (solver.net, *solver.test_nets):
        for weights in start.weights:
            caffe.log(f"Finetuning from {weights}")
            net.copy_from(weights)
    with _listening(sigint_effect, sighup_effect) as signals:
        caffe.log("Starting Optimization")
        with progress_bar("train", settings.max_iter, solver.iter) as bar:
            # Solver.solve trains by `step`: here some iterations at a time, with a look at the signals in between.
            solver.step = _Steps(solver, settings, signals, bar)  # type: ignore[method-assign]
            try:
                solver.solve(start.snapshot)
            except _StoppedError:
                if settings.snapshot_after_train and not (settings.snapshot and solver.iter % settings.snapshot == 0):
                    solver.snapshot()
                caffe.log("Optimization stopped early.")


class _Steps:
    """Solver.step in turns."""

    def __init__(self, solver: caffe.SGDSolver, settings: Message, signals: _Signals, bar: Bar) -> None:
        self._solver = solver
        self._step: Callable[[int], None] = solver.step
        self._settings = settings
        self._signals = signals
        self._bar = bar

    def __call__(self, iters: int) -> None:
        """Make iterations.

        Raises:
            _StoppedError: a signal asked for it; the iteration under way was completed.
        """
        end, turn = self._solver.iter + iters, 1
        while self._solver.iter < end:
            self._heed(self._signals.take())
            count = min(self._turn(turn), end - self._solver.iter)
            began_s = time.monotonic()
            self._step(count)
            took_s = max(time.monotonic() - began_s, 1e-6)
            self._bar.show(self._solver.iter, f"{count / took_s:.3g} it/s, loss {self._loss():.4g}")
            turn = max(1, min(int(count * TURN_S / took_s), 2 * count))
        self._heed(self._signals.take())

    def _turn(self, wished: int) -> int:
        """How many iterations to make: up to the next that is displayed, if any are.

        Caffe smoothes the displayed loss, and takes the time of what it displays, within one call of `step` only.
        """
        display = self._settings.display
        return int(display - (self._solver.iter - 1) % display) if display else wished

    def _heed(self, asked: str) -> None:
        if asked == "stop":
            raise _StoppedError
        if asked == "snapshot":
            self._solver.snapshot()

    def _loss(self) -> float:
        net = self._solver.net
        return sum(
            weight * float(net.blobs[name].data.sum()) for name, weight in net.blob_loss_weights.items() if weight
        )


@contextmanager
def _listening(sigint_effect: str, sighup_effect: str) -> Iterator[_Signals]:
    """Take note of SIGINT and SIGHUP as long as the block runs."""
    signals = _Signals()

    def noting(effect: str) -> Callable[[int, FrameType | None], None]:
        return lambda _number, _frame: signals.ask(effect)

    handlers = {signal.SIGINT: noting(sigint_effect), signal.SIGHUP: noting(sighup_effect)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _as_started(start: Start, settings: Message) -> Iterator[str]:
    """The solver's prototxt; where the command line says something else than it, a copy that says so."""
    other_weights = bool(settings.weights) and (start.snapshot is not None or bool(start.weights))
    if not (start.level or start.stages or other_weights):
        yield start.solver
        return
    changed = message_class("SolverParameter")()
    changed.CopyFrom(settings)
    if start.level or start.stages:
        changed.train_state.level = start.level
        changed.train_state.stage.extend(start.stages)
    if other_weights:
        changed.ClearField("weights")
    if not changed.HasField("snapshot_prefix"):
        changed.snapshot_prefix = os.path.splitext(start.solver)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / os.path.basename(start.solver)
        path.write_text(str(changed), "utf-8")
        yield str(path)
