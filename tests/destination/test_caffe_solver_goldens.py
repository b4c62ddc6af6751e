"""Solvers at the Caffe executor against real Caffe: losses, rates, parameters, history and log, on the CPU."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import ExecutionError
from avec.formats.caffe import hdf5_weights, solver_state
from avec.formats.caffe.message import message_class
from avec.protocol import caffe as protocol
from destination.caffe_solver import NETWORK_FILE, Floats, Solver
from goldens.caffe_goldens import Expected
from goldens.training_goldens import (
    Layers,
    RefusedSolver,
    SolverRun,
    State,
    TrainingRun,
    refused_solvers,
    solver_runs,
    training_runs,
)

TOLERANCE = 1e-4  # of the largest magnitude of a parameter or its history
LOSS_TOLERANCE = 1e-4
LENET_LOSS_TOLERANCE = 1e-3  # over 200 iterations, rounding errors grow
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w.])")

runs = training_runs()
small_runs = [run for run in runs if run.name != "lenet"]
stepped_runs = [run for run in small_runs if not run.solve]
snapshots = [
    (run, name)
    for run in stepped_runs
    for name in run.files
    if ".solverstate" in name and run.stride == 1 and "_25." in name
]


@pytest.fixture(scope="module")
def executor() -> Iterator[CaffeExecutor]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for such small nets, more threads only wait for one another
    yield CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))
    torch.set_num_threads(before)


@pytest.fixture
def solver(executor: CaffeExecutor, request: pytest.FixtureRequest) -> Iterator[Solver]:
    golden: SolverRun | TrainingRun = request.param
    solver = Solver(executor, f'net: "{NETWORK_FILE}" {golden.solver}', golden.network)
    yield solver
    solver.model.close()


def _of(goldens: list[SolverRun] | list[TrainingRun]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("run", "solver"), [(each, each) for each in goldens], indirect=["solver"], ids=map(str, goldens)
    )


def _layers(solver: Solver) -> Layers:
    return [
        (layer.type, [parameter.shape for parameter in layer.parameters]) for layer in solver.description.nets[0].layers
    ]


def _seeded(run: SolverRun | TrainingRun, solver: Solver) -> dict[protocol.BlobRef, Floats]:
    return {
        protocol.BlobRef(index, layer): value
        for layer, values in enumerate(run.parameter_values(_layers(solver)))
        for index, value in enumerate(values)
    }


def _started(run: TrainingRun, solver: Solver) -> None:
    """Write the parameters, and the inputs of the test nets."""
    solver.write(0, _seeded(run, solver))
    for net in range(1, len(run.inputs)):
        solver.write(net, {solver.data(name, net): value for name, value in run.stream(net).draw().items()})


class Trainer:
    """Takes a run's strides, as the host would, and keeps what Caffe would have shown."""

    def __init__(self, run: TrainingRun, solver: Solver) -> None:
        self._run = run
        self._solver = solver
        self._stream = run.stream(0)
        self.losses: list[float] = []
        self.lines: list[str] = []
        self.rate = 0.0
        self.iteration = 0

    def skip(self, strides: int) -> None:
        """Pass over inputs that an earlier run has used."""
        for _ in range(strides):
            self._stream.draw()

    def stride(self, wanted: list[protocol.BlobRef]) -> list[Floats]:
        """One call of solver.step; snapshots that fall due are passed over."""
        inputs = {self._solver.data(name): value for name, value in self._stream.draw().items()}
        remaining = self._run.iterations if self._run.solve else self._run.stride
        made = self._solver.step(remaining, inputs, wanted)
        while True:
            progress = made.progress
            self.losses += progress.losses
            self.lines += progress.lines
            remaining -= len(progress.losses)
            self.rate, self.iteration = progress.rate, progress.iteration
            if not remaining:
                return made.arrays
            assert progress.due == "snapshot"
            made = self._solver.step(remaining, wanted=wanted, first=False)

    def train(self, until: int) -> None:
        while self.iteration < until:
            self.stride([])


def _errors(solver: Solver, expected: tuple[tuple[Expected, ...], ...], actual: list[Floats]) -> dict[str, float]:
    """Name the parameters that are further from what is expected than TOLERANCE."""
    names = [
        f"{layer.name} {index}" for layer in solver.description.nets[0].layers for index in range(len(layer.parameters))
    ]
    flat = [each for layer in expected for each in layer]
    errors = {name: each.error(array) for name, each, array in zip(names, flat, actual, strict=True)}
    return {name: error for name, error in errors.items() if not error <= TOLERANCE}


@_of(list(solver_runs()))
def test_each_of_six_iterations_ends_as_in_real_caffe(run: SolverRun, solver: Solver) -> None:
    inputs = {solver.data(name): value for name, value in run.inputs.items()}
    solver.write(0, inputs | _seeded(run, solver))
    parameters = solver.parameters()
    for step in run.steps:
        made = solver.step(1, wanted=parameters)
        assert made.progress.rate == pytest.approx(step.rate, rel=1e-6)
        assert made.progress.losses == pytest.approx([step.loss], rel=LOSS_TOLERANCE)
        wanted = [value for layer in step.parameters for value in layer]
        for actual, expected in zip(made.arrays, wanted, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@_of(small_runs)
def test_every_loss_of_a_run_is_real_caffes(run: TrainingRun, solver: Solver) -> None:
    _started(run, solver)
    trainer = Trainer(run, solver)
    trainer.train(run.iterations)
    # Relative to the whole run, for a loss may come near 0.
    np.testing.assert_allclose(trainer.losses, run.losses, rtol=0, atol=LOSS_TOLERANCE * run.losses.max())


@_of(small_runs)
def test_parameters_updates_and_rates_of_a_run_are_real_caffes(run: TrainingRun, solver: Solver) -> None:
    _started(run, solver)
    trainer = Trainer(run, solver)
    values, updates = solver.parameters(), solver.parameters(diff=True)
    for state in run.states:
        trainer.train(state.iteration - run.stride if not run.solve else 0)
        arrays = trainer.stride(values + updates)
        assert trainer.iteration == state.iteration
        assert trainer.rate == pytest.approx(state.rate, rel=1e-6, abs=1e-12)
        assert _errors(solver, state.parameters, arrays[: len(values)]) == {}
        _assert_updates(solver, state, arrays[len(values) :])


def _assert_updates(solver: Solver, state: State, actual: list[Floats]) -> None:
    """Updates are small beside the parameters they change, whose rounding errors they carry."""
    largest = [max(each.maximum, update.maximum) for layer, updates in zip(state.parameters, state.updates, strict=True)
               for each, update in zip(layer, updates, strict=True)]  # fmt: skip
    flat = [update for layer in state.updates for update in layer]
    for scale, update, array in zip(largest, flat, actual, strict=True):
        assert update.error(array) * (update.maximum or 1.0) <= TOLERANCE * (scale or 1.0)


@_of([run for run in stepped_runs if run.files])
def test_the_history_after_a_run_is_real_caffes(run: TrainingRun, solver: Solver) -> None:
    _started(run, solver)
    Trainer(run, solver).train(run.iterations)
    made = solver.state()
    name = next(name for name in run.files if ".solverstate" in name and f"_{run.iterations}." in name)
    wanted = _state(name, run.files[name])
    assert made.progress.iteration == wanted.iteration
    assert made.progress.current_step == wanted.current_step
    assert [array.shape for array in made.arrays] == [array.shape for array in wanted.history]
    for actual, expected in zip(made.arrays, wanted.history, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * max(np.abs(expected).max(), 1e-6))


def _state(name: str, contents: bytes) -> solver_state.SolverState:
    if name.endswith(".h5"):
        return solver_state.read_hdf5(io.BytesIO(contents), name)
    return solver_state.decode(contents, name)


@pytest.mark.parametrize(
    ("run", "solver", "name"),
    [(run, run, name) for run, name in snapshots],
    indirect=["solver"],
    ids=[str(run) for run, _ in snapshots],
)
def test_a_run_goes_on_from_real_caffes_snapshot(run: TrainingRun, solver: Solver, name: str) -> None:
    _started(run, solver)
    solver.write(0, _saved_weights(run, solver, name.replace("solverstate", "caffemodel")))
    state = _state(name, run.files[name])
    restored = solver.restore(state.iteration, state.current_step, state.history).progress
    assert restored.iteration == state.iteration
    trainer = Trainer(run, solver)
    trainer.skip(state.iteration)
    trainer.iteration = state.iteration
    trainer.train(run.iterations - 1)
    assert _errors(solver, run.states[-1].parameters, trainer.stride(solver.parameters())) == {}


def _saved_weights(run: TrainingRun, solver: Solver, name: str) -> dict[protocol.BlobRef, Floats]:
    contents = run.files[name]
    layers = [layer.name for layer in solver.description.nets[0].layers]
    if name.endswith(".h5"):
        stored = hdf5_weights.read(io.BytesIO(contents), name)
        saved = {(layer, index): value for layer, blobs in stored.items() for index, value in blobs.items()}
    else:
        message = message_class("NetParameter").from_wire(contents, name)
        saved = {
            (layer.name, index): blob.data.as_array().reshape(tuple(blob.shape.dim))
            for layer in message.layer
            for index, blob in enumerate(layer.blobs)
        }
    return {protocol.BlobRef(index, layers.index(layer)): value for (layer, index), value in saved.items()}


@_of(stepped_runs)
def test_a_run_logs_what_real_caffe_logs(run: TrainingRun, solver: Solver) -> None:
    _started(run, solver)
    trainer = Trainer(run, solver)
    trainer.train(run.iterations)
    _assert_log(trainer.lines, run.log)


@_of([run for run in small_runs if run.solve])
def test_solving_ends_with_the_last_loss_and_tests(run: TrainingRun, solver: Solver) -> None:
    _started(run, solver)
    trainer = Trainer(run, solver)
    trainer.stride([])
    finished = solver.solve_end().progress
    lines = [*trainer.lines, *finished.lines]
    if finished.due == "test":
        lines += solver.test(1).progress.lines
    _assert_log(lines, run.log)


def _assert_log(lines: list[str], wanted: tuple[str, ...]) -> None:
    """The same words in the same order, and numbers alike; speeds are left out, and what the host says itself."""
    of_the_host = ("Snapshotting", "Solving", "Learning Rate Policy", "Optimization Done")
    mine = [re.sub(r"\(\S+ iter/s, \S+?s/", "(R iter/s, Ts/", line) for line in lines]
    mine = [line for line in mine if not line.startswith(of_the_host)]
    caffes = [line for line in wanted if not line.startswith(of_the_host)]
    assert [NUMBER.sub("N", line) for line in mine] == [NUMBER.sub("N", line) for line in caffes]
    for actual, expected in zip(mine, caffes, strict=True):
        numbers = [float(number) for number in NUMBER.findall(actual)]
        assert numbers == pytest.approx([float(number) for number in NUMBER.findall(expected)], rel=1e-3, abs=1e-5)


@pytest.mark.timeout(300)  # 200 iterations on a busy processor
@_of([run for run in runs if run.name == "lenet"])
def test_lenet_learns_digits_along_real_caffes_curve(run: TrainingRun, solver: Solver) -> None:
    _started(run, solver)
    trainer = Trainer(run, solver)
    trainer.train(run.iterations)
    np.testing.assert_allclose(trainer.losses, run.losses, rtol=0, atol=LENET_LOSS_TOLERANCE)
    assert max(trainer.losses[-10:]) < 0.1 * trainer.losses[0]


# Files are the host's: it reads the network's, and finds out whether snapshots can be written.
refused_here = [each for each in refused_solvers() if each.name not in ("net_file_missing", "snapshot_into_no_folder")]


@pytest.mark.parametrize("refused", refused_here, ids=str)
def test_what_aborts_real_caffe_is_refused(executor: CaffeExecutor, refused: RefusedSolver, tmp_path: Path) -> None:
    with pytest.raises(ExecutionError):
        solver = Solver(executor, refused.solver, refused.network)
        solver.step(3)
