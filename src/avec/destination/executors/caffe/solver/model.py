"""A solver on an accelerator, and the requests that it answers. Source: caffe/src/caffe/solver.cpp.

What is to be logged depends on numbers that are on the accelerator. They stay there until a request is answered, so
that iterations follow one another without a wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import msgspec
import numpy as np
import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer, Model
from avec.destination.executors.caffe.layers.layer import Learnable, Shape
from avec.destination.executors.caffe.memory import check_index
from avec.destination.executors.caffe.model import CaffeModel, guarded
from avec.destination.executors.caffe.solver.journal import Journal, number
from avec.destination.executors.caffe.solver.rates import current_step, learning_rate
from avec.destination.executors.caffe.solver.updates import SOLVER_TYPES, Update, clip, regularize
from avec.destination.executors.caffe.weights import share_weights
from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message
from avec.protocol.caffe import (
    Adjust,
    ApplyUpdate,
    Finish,
    Observe,
    Progress,
    ReadState,
    SolverRequest,
    Step,
    Test,
    Within,
    WriteState,
)
from avec.tensor import Array

Due: TypeAlias = Literal["", "test", "snapshot"]

_REQUESTS: msgspec.msgpack.Decoder[Within | SolverRequest] = msgspec.msgpack.Decoder(Within | SolverRequest)


class CaffeSolver:
    """A train net, its test nets, and the history of updates. Called by one thread at a time."""

    def __init__(self, settings: Message, nets: list[CaffeModel], accelerator: Accelerator) -> None:
        self.nets = nets
        self._settings = settings
        self._accelerator = accelerator
        self._iteration = 0
        self._step = 0  # of the policies step and multistep
        self._history: list[Tensor] = []
        self._learnables: list[Learnable] = []
        self._journal = Journal(settings.average_loss)
        self._scores: dict[int, list[Tensor]] = {}  # test net → sums of its outputs
        self._test_losses: dict[int, list[Tensor]] = {}
        self._kernels = 0
        for net in nets:
            net.count_losses()

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request. See avec.destination.executors.Model."""
        try:
            request = _REQUESTS.decode(body)
        except msgspec.MsgspecError as exc:
            raise InvalidArgument(f"a request to a Caffe solver cannot be understood: {exc}") from exc
        with guarded(self._accelerator), torch.no_grad():
            if isinstance(request, Within):
                check_index("net", request.net, len(self.nets))
                return self.nets[request.net].carry_out(request.request, arrays, files, others)
            return self._carry_out(request, arrays)

    def close(self) -> None:
        """Free all that the solver and its nets hold on the accelerator."""
        for net in self.nets:
            net.close()
        self._history.clear()
        self._learnables.clear()

    def _carry_out(self, request: SolverRequest, arrays: Sequence[Array]) -> Answer:
        self._begin(request)
        place = request.net if isinstance(request, Test) else 0
        net = self.nets[place]
        history = len(arrays) - len(request.writes) if isinstance(request, WriteState) else 0
        net.synchronise(request.writes, request.reshaped, arrays[: len(arrays) - history])
        due: Due = ""
        scores: tuple[float, ...] = ()
        results: tuple[Array, ...] = ()
        self._kernels = 0
        match request:
            case Step():
                due = self._run(request)
                results = net.memory.fetch(request.wanted)
            case Observe():
                self._observe(request.first, request.external_loss)
            case ApplyUpdate():
                self._apply_update()
                results = net.memory.fetch(request.wanted)
            case Test():
                scores = self._test(request)
            case Finish():
                due = self._finish(request)
            case ReadState():
                results = net.memory.fetch_tensors([*self._history, *map(net.memory.tensor, request.wanted)])
            case WriteState():
                self._write_state(request, arrays[len(arrays) - history :])
            case Adjust():
                self._settings.base_lr = request.base_lr
            case _:
                assert_never(request)
        losses, lines = self._journal.tell()
        progress = Progress(self._iteration, self._step, self._rate(), losses, lines, due, scores, net.changed_shapes())
        return Answer(msgspec.msgpack.encode(progress), results, self._kernels)

    def _begin(self, request: SolverRequest) -> None:
        """Check what a request is about; take up the parameters when the nets are complete for the first time."""
        if isinstance(request, Test):
            check_index("test net", request.net - 1, len(self.nets) - 1)
        for net in self.nets:
            net.require_complete()
        if not self._learnables:
            found = {id(each): each for layer in self.nets[0].layers for each in layer.learnables}
            self._learnables = list(found.values())
            histories = SOLVER_TYPES[self._settings.type].histories
            self._history = [torch.zeros_like(each.values) for each in self._learnables * histories]

    def _rate(self) -> float:
        return learning_rate(self._settings, self._iteration, self._step_now())

    def _step_now(self) -> int:
        return current_step(self._settings, self._iteration, self._step)

    def _run(self, request: Step) -> Due:
        """Run iterations until all are done or the host has something to do; says what."""
        self._refuse_host_layers(0, "stepped")
        if request.first:
            self._journal.begin(self._iteration)
        stop, tested = self._iteration + request.iterations, request.tested
        while self._iteration < stop:
            self.nets[0].clear_diffs()
            if not tested and self._tests_are_due():
                if any(net.has_host_layers for net in self.nets[1:]):
                    return "test"
                self._test_all()
            tested = False
            for _ in range(self._settings.iter_size):
                self._kernels += self.nets[0].forward()
                self._kernels += self.nets[0].backward()
            self._observe(first=False, external_loss=0.0)
            self._apply_update()
            self._accelerator.turns.between()
            if self._settings.snapshot > 0 and self._iteration % self._settings.snapshot == 0:
                return "snapshot"
        return ""

    def _refuse_host_layers(self, place: int, what: str) -> None:
        for layer in self.nets[place].layers:
            if layer.external and layer.bottoms:
                layer.refuse(f"the host runs it, so that the net cannot be {what} without the host")

    def _tests_are_due(self) -> bool:
        interval = self._settings.test_interval
        due = interval > 0 and self._iteration % interval == 0
        return bool(due and len(self.nets) > 1 and (self._iteration > 0 or self._settings.test_initialization))

    def _observe(self, first: bool, external_loss: float) -> None:
        """Take in the loss of the iteration's passes; display what is to be displayed. Source: Solver::Step."""
        if first:
            self._journal.begin(self._iteration)
        loss = (self.nets[0].total_loss() + external_loss) / self._settings.iter_size
        display = self._settings.display > 0 and self._iteration % self._settings.display == 0
        self._journal.observe(loss, self._iteration)
        if display:
            self._journal.display(self._iteration, self._settings.display)
            self._journal.outputs("Train", *self._outputs(0))

    def _outputs(self, place: int) -> tuple[list[tuple[str, float]], list[Tensor]]:
        """Names and loss weights of a net's outputs, and their values."""
        net = self.nets[place]
        names = [(net.names[index], net.plan.loss_weights.get(index, 0.0)) for index in net.outputs]
        return names, [net.memory.blob(index).clone() for index in net.outputs]

    def _apply_update(self) -> None:
        """Source: SGDSolver::ApplyUpdate."""
        settings = self._settings
        step = self._step_now()
        if settings.lr_policy == "multistep" and step != self._step:
            self._journal.line(f"MultiStep Status: Iteration {self._iteration}, step = {step}")
        self._step = step
        rate = learning_rate(settings, self._iteration, step)
        if settings.display > 0 and self._iteration % settings.display == 0:
            self._journal.line(f"Iteration {self._iteration}, lr = {number(rate)}")
        self._update(rate)
        self.nets[0].clear_losses()
        self._iteration += 1

    def _update(self, rate: float) -> None:
        settings, learnables = self._settings, self._learnables
        if not learnables:
            return
        values = [each.values for each in learnables]
        diffs = [_own_diff(each) for each in learnables]
        if settings.clip_gradients >= 0:
            self._journal.clipped(clip(settings.clip_gradients, diffs), settings.clip_gradients)
        if settings.iter_size > 1:
            torch._foreach_mul_(diffs, 1 / settings.iter_size)
        regularize(settings, values, diffs, [each.decay for each in learnables])
        count = len(learnables)
        rates = [rate * each.rate for each in learnables]
        update = Update(diffs, self._history[:count], self._history[count:], rates, self._iteration)
        SOLVER_TYPES[settings.type].rule(settings, update)
        torch._foreach_sub_(values, diffs)

    def _test_all(self) -> None:
        for place in range(1, len(self.nets)):
            self._test(Test(net=place))

    def _test(self, request: Test) -> tuple[float, ...]:
        """Source: Solver::Test."""
        net, place = self.nets[request.net], request.net
        count = self._settings.test_iter[place - 1] if request.iterations < 0 else request.iterations
        if request.first:
            self._journal.line(f"Iteration {self._iteration}, Testing net (#{place - 1})")
            if share_weights(net.layers, self.nets[0].layers):
                net.plan.forget()
            self._scores[place], self._test_losses[place] = [], []
        if not request.forwarded:
            self._refuse_host_layers(place, "tested")
        for _ in range(count):
            if not request.forwarded:
                net.clear_losses()
                self._kernels += net.forward()
            self._take_scores(place, request.external_loss)
        return self._tell_scores(place) if request.last else ()

    def _take_scores(self, place: int, external_loss: float) -> None:
        net = self.nets[place]
        self._test_losses[place].append(net.total_loss() + external_loss)
        net.clear_losses()
        _, outputs = self._outputs(place)
        sums = self._scores[place]
        if sums and [each.shape for each in sums] != [each.shape for each in outputs]:
            raise InvalidArgument(f"test net {place}: its outputs changed shape within one test")
        self._scores[place] = [a + b for a, b in zip(sums, outputs, strict=True)] if sums else outputs

    def _tell_scores(self, place: int) -> tuple[float, ...]:
        count = self._settings.test_iter[place - 1]
        if self._settings.test_compute_loss and self._test_losses[place]:
            self._journal.test_loss(torch.stack(self._test_losses[place]).sum() / count)
        names, _ = self._outputs(place)
        means = [each / count for each in self._scores[place]]
        if not means:
            return ()
        self._journal.outputs("Test", names, means)
        return tuple(torch.cat([each.reshape(-1) for each in means]).tolist())

    def _finish(self, request: Finish) -> Due:
        settings = self._settings
        if settings.display > 0 and self._iteration % settings.display == 0:
            if not request.forwarded:
                self._refuse_host_layers(0, "run")
                self.nets[0].clear_losses()
                self._kernels += self.nets[0].forward()
            self._journal.observe(self.nets[0].total_loss() + request.external_loss, self._iteration, kept=False)
            self._journal.last(self._iteration)
        due = settings.test_interval > 0 and self._iteration % settings.test_interval == 0 and len(self.nets) > 1
        return "test" if due else ""

    def _write_state(self, request: WriteState, history: Sequence[Array]) -> None:
        shapes: list[Shape] = [tuple(each.shape) for each in self._history]
        given = [array.shape for array in history]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if [array.size for array in history] != sizes or any(array.dtype != np.float32 for array in history):
            raise InvalidArgument(f"a history of {given} does not fit the solver's, {shapes}: it is another solver's")
        if request.iteration < 0 or request.current_step < 0:
            raise InvalidArgument(f"iteration {request.iteration}, step {request.current_step}: neither is negative")
        for target, array in zip(self._history, history, strict=True):
            target.copy_(torch.from_numpy(np.array(array)).view(target.shape))
        self._iteration, self._step = request.iteration, request.current_step


def _own_diff(learnable: Learnable) -> Tensor:
    if learnable.diff is None:
        learnable.diff = torch.zeros_like(learnable.values)
    return learnable.diff
