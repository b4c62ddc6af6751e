"""caffe.SGDSolver and its kin: solvers that train at the destination, with the surface and behaviour of pycaffe's.

Source: the bindings of Solver<float> in caffe/python/caffe/_caffe.cpp; caffe/src/caffe/solver.cpp. Files and layers
of the host's are dealt with here; what the destination can do by itself it does without a message per iteration.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from avec.errors import InvalidModel
from avec.formats.caffe.message import Message
from avec.interception.active import session
from avec.protocol.caffe import Progress

from . import randomness, snapshots, training_log
from .building import Built
from .construction import FileName, copy_weights, existing
from .memory import Issued
from .parallel import solver_rank
from .pycaffe import Net
from .remote_solver import RemoteSolver
from .solver_settings import SolverSettings, read_settings

AHEAD = 4  # requests for iterations that are sent before the first is waited for
LONGEST = 100  # iterations in one request, so that an interrupted program need not wait long for the destination

Callback = Callable[[], object]


class SolverParameter:
    """What pycaffe shows of a solver's settings; of them only base_lr can be changed."""

    __slots__ = ("_remote", "_settings")

    def __init__(self, settings: Message, remote: RemoteSolver) -> None:
        self._settings = settings
        self._remote = remote

    @property
    def max_iter(self) -> int:
        """The iteration at which solve() ends."""
        return int(self._settings.max_iter)

    @property
    def display(self) -> int:
        """Every how many iterations the loss is shown; 0 is never."""
        return int(self._settings.display)

    @property
    def layer_wise_reduce(self) -> bool:
        """Without meaning here: it is about training on several accelerators."""
        return bool(self._settings.layer_wise_reduce)

    @property
    def base_lr(self) -> float:
        """The learning rate that the policy starts from."""
        return float(self._settings.base_lr)

    @base_lr.setter
    def base_lr(self, rate: float) -> None:
        self._settings.base_lr = float(rate)
        self._remote.adjust(float(rate))


class Solver:
    """What all solvers can do; made as one of the classes below, or by get_solver."""

    _type: ClassVar[str] = ""

    def __init__(self, solver_file: FileName) -> None:
        """Read a solver's prototxt, and build its nets at the destination; waits.

        Raises:
            RuntimeError: a file cannot be opened.
            InvalidModel, InvalidArgument: what is in it cannot be used.
            UnsupportedOperation: a net has a layer that the destination does not know.
        """
        if not self._type:
            raise RuntimeError("This class cannot be instantiated from Python")
        self._settings: SolverSettings = read_settings(existing(solver_file))
        message = self._settings.message
        if message.random_seed >= 0:
            randomness.set_random_seed((message.random_seed + solver_rank()) % 2**32)
        self._remote = RemoteSolver(session(), self._settings, self._type, randomness.draw_seed())
        self._nets = [Net._of(built) for built in self._remote.nets]
        self._callbacks: list[tuple[Callback, Callback]] = []
        for built in self._remote.nets:
            for names in message.weights:
                for name in names.split(","):
                    training_log.write(f"Finetuning from {name.strip()}")
                    copy_weights(built, existing(name.strip()))

    @property
    def net(self) -> Net:
        """The net that is trained."""
        return self._nets[0]

    @property
    def test_nets(self) -> list[Net]:
        """The nets that are tested with its parameters."""
        return self._nets[1:]

    @property
    def iter(self) -> int:
        """How many iterations have been made."""
        return self._remote.progress.iteration

    @property
    def param(self) -> SolverParameter:
        """The settings that pycaffe shows."""
        return SolverParameter(self._settings.message, self._remote)

    def add_callback(self, on_start: Callback, on_gradients_ready: Callback) -> None:
        """Have functions called before and after the passes of each iteration."""
        self._callbacks.append((on_start, on_gradients_ready))

    def step(self, iters: int) -> None:
        """Make iterations; waits until they are done."""
        if not hasattr(iters, "__index__"):
            raise TypeError(f"Solver.step takes an integer, not {iters!r}")
        passes = self._train.passes
        one_batch = passes.at_destination or self._settings.message.iter_size == 1  # for each iteration
        if passes.fed and one_batch and not self._callbacks:
            self._send_ahead(int(iters))
        else:
            self._drive(int(iters))

    def solve(self, resume_file: FileName | None = None) -> None:
        """Train until max_iter, perhaps from a snapshot on; then write one, display the loss and test as Caffe does."""
        message = self._settings.message
        training_log.write(f"Solving {self._train.remote.description.name}")
        training_log.write(f"Learning Rate Policy: {message.lr_policy}")
        if resume_file is not None:
            training_log.write(f"Restoring previous solver status from {os.fspath(resume_file)}")
            self.restore(resume_file)
        self.step(message.max_iter - self.iter)
        if message.snapshot_after_train and (not message.snapshot or self.iter % message.snapshot):
            self.snapshot()
        if self._finish().due == "test":
            self._test_all()
        training_log.write("Optimization Done.")

    def snapshot(self) -> None:
        """Write the net's parameters and the solver's state; waits."""
        snapshots.write(self._settings, self._remote)

    def restore(self, state_file: FileName) -> None:
        """Go on from a snapshot; waits."""
        snapshots.restore(self._remote, existing(state_file))

    def apply_update(self) -> None:
        """Change the parameters by their diffs, and count the iteration."""
        self._tell(self._remote.settle(self._remote.apply_update()))

    def share_weights(self, net: Net) -> None:
        """Let another net use the parameters of the train net's layers of the same names."""
        net.share_with(self.net)

    @property
    def _train(self) -> Built:
        return self._remote.nets[0]

    def _send_ahead(self, iterations: int) -> None:
        """Make iterations at the destination, many with one request; a few requests are under way at a time."""
        at = start = self.iter
        under_way: deque[Issued] = deque()
        while at < start + iterations:
            tested = self._tests_are_due(at) and self._tests_need_host()
            if tested:
                self._settle_all(under_way)
                self._test_all()
            count = self._stretch(at, start + iterations)
            self._train.passes.feed()
            under_way.append(self._step_at_destination(count, at == start, tested))
            at += count
            if self._snapshot_is_due(at):
                self._settle_all(under_way)
                self.snapshot()
            while len(under_way) > AHEAD:
                self._stepped(under_way.popleft())
        self._settle_all(under_way)

    def _stretch(self, at: int, stop: int) -> int:
        """How many iterations go into one request: until a line is displayed, or the host has something to do."""
        if not self._train.passes.at_destination:
            return 1  # the next one needs the next batch
        message = self._settings.message
        ends = [stop, at + LONGEST]
        if message.display:
            ends.append(-(-at // message.display) * message.display + 1)
        if message.snapshot:
            ends.append((at // message.snapshot + 1) * message.snapshot)
        if self.test_nets and message.test_interval and self._tests_need_host():
            ends.append((at // message.test_interval + 1) * message.test_interval)
        return min(ends) - at

    def _settle_all(self, under_way: deque[Issued]) -> None:
        while under_way:
            self._stepped(under_way.popleft())

    def _step_at_destination(self, iterations: int, first: bool, tested: bool) -> Issued:
        for built in self._remote.nets[1:]:
            built.remote.flush()
        return self._remote.step(iterations, first, tested)

    def _stepped(self, issued: Issued) -> Progress:
        """Wait for a step; take note of what the tests in it have changed."""
        progress = self._remote.settle(issued)
        self._train.remote.all_ran()
        self._tell(progress)
        for place, net in enumerate(self.test_nets):
            if any(line.endswith(f"Testing net (#{place})") for line in progress.lines):
                net._borrow(self.net)
                self._remote.nets[1 + place].remote.mark_forwarded()
        return progress

    def _drive(self, iterations: int) -> None:
        """Make iterations pass by pass, because the host takes part in them. Source: Solver::Step."""
        passes, last = self._train.passes, len(self.net.layers) - 1
        start = self.iter
        for iteration in range(start, start + iterations):
            self.net.clear_param_diffs()
            if self._tests_are_due(iteration):
                self._test_all()
            for on_start, _ in self._callbacks:
                on_start()
            external_loss = 0.0
            for _ in range(self._settings.message.iter_size):
                passes.forward(0, last)
                external_loss += self._external_loss(self.net)
                passes.backward(last, 0)
            observed = self._remote.observe(external_loss, first=iteration == start)
            if self._settings.message.display and iteration % self._settings.message.display == 0:
                self._tell(self._remote.settle(observed))
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            self.apply_update()
            if self._snapshot_is_due(iteration + 1):
                self.snapshot()

    def _external_loss(self, net: Net) -> float:
        """What the host's layers add to a net's loss."""
        return sum(
            weight * float(net._blobs[top].data.sum())
            for place in net._passes.hosted
            for top, weight in zip(
                net._top_ids(place), net._remote.description.layers[place].loss_weights, strict=False
            )
            if weight
        )

    def _snapshot_is_due(self, iteration: int) -> bool:
        interval = self._settings.message.snapshot
        return bool(interval and iteration % interval == 0)

    def _tests_are_due(self, iteration: int) -> bool:
        message = self._settings.message
        due = message.test_interval and iteration % message.test_interval == 0
        return bool(due and self.test_nets and (iteration > 0 or message.test_initialization))

    def _tests_need_host(self) -> bool:
        return not all(built.passes.at_destination for built in self._remote.nets[1:])

    def _test_all(self) -> None:
        for place in range(1, len(self._nets)):
            self._test(place)

    def _test(self, place: int) -> None:
        """Run one test net. Source: Solver::Test."""
        net, built, remote = self._nets[place], self._remote.nets[place], self._remote
        count = self._settings.message.test_iter[place - 1]
        self._train.remote.flush()
        if built.passes.at_destination:
            self._tell(remote.settle(remote.test(place, -1), place))
            net._borrow(self.net)
            return
        driven = not built.passes.fed
        if driven:  # the first pass comes before the first request
            net.share_with(self.net)
        for iteration in range(count):
            first, last, loss = iteration == 0, iteration == count - 1, 0.0
            if driven:
                built.passes.forward(0, len(net.layers) - 1)
                loss = self._external_loss(net)
            else:
                built.passes.feed()
            issued = remote.test(place, 1, first, last, driven, loss)
            if first or last:
                self._tell(remote.settle(issued, place))
            if first:
                net._borrow(self.net)

    def _finish(self) -> Progress:
        """Display the loss after the last iteration."""
        message, passes = self._settings.message, self._train.passes
        shown = message.display and self.iter % message.display == 0
        driven, external_loss = not passes.fed, 0.0
        if shown and driven:
            passes.forward(0, len(self.net.layers) - 1)
            external_loss = self._external_loss(self.net)
        elif shown:
            passes.feed()
        progress = self._remote.settle(self._remote.finish(driven, external_loss))
        self._tell(progress)
        return progress

    def _tell(self, progress: Progress) -> None:
        for line in progress.lines:
            training_log.write(line)


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    _type = "SGD"

    @property
    def lr(self) -> float:
        """The learning rate of the iteration to come."""
        return self._remote.progress.rate


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    _type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad."""

    _type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp."""

    _type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta."""

    _type = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam."""

    _type = "Adam"


_CLASSES = {
    kind._type: kind for kind in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(solver_file: FileName) -> SGDSolver:
    """Make the solver of the type that a prototxt names; see Solver.

    Raises:
        InvalidModel: there is no such type.
    """
    found: str = read_settings(existing(solver_file)).message.type
    if found not in _CLASSES:
        raise InvalidModel(f"{solver_file}: unknown solver type {found!r}; known are {', '.join(_CLASSES)}")
    return _CLASSES[found](solver_file)
