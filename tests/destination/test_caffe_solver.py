"""Solvers at the Caffe executor, beside what the goldens of real Caffe show: who does what, states, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import InvalidArgument, InvalidModel
from avec.protocol.caffe import (
    ApplyUpdate,
    Backward,
    BlobRef,
    ClearDiffs,
    Finish,
    Forward,
    LoadSolver,
    Observe,
    Progress,
    Read,
    ReadState,
    SetUpLayer,
    SolverDescription,
    SolverRequest,
    Step,
    Test,
    Within,
    WriteState,
)
from destination.caffe_net import input_layer, layer
from goldens.training_goldens import RefusedSolver, refused_solvers

NET = (
    input_layer(4, 3)
    + input_layer(4, 2, name="target")
    + layer("InnerProduct", "data", "out", 'inner_product_param { num_output: 2 weight_filler { type: "xavier" } }')
    + layer("EuclideanLoss", "out target", "loss")
)
FED = NET.replace(input_layer(4, 3), layer("Data", "", "data"))
OWN = NET + layer("Python", "out", "seen", name="own")
PLAIN = 'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 net: "net.prototxt" '

Arrays = Sequence[npt.NDArray[Any]]


@pytest.fixture(scope="module")
def executor() -> CaffeExecutor:
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


class Solver:
    """One solver at the executor, with inputs written once."""

    def __init__(self, executor: CaffeExecutor, settings: str, net: str = NET, **load: Any) -> None:
        load.setdefault("nets", ("net.prototxt",) if "net.prototxt" in settings else ())
        texts = [settings, net][: 1 + len(load["nets"])]
        parts = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        request = LoadSolver("solver.prototxt", **load)
        self.model, answer = executor.load(msgspec.msgpack.encode(request), parts, {})
        self.description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=SolverDescription)
        self.lines: list[str] = []
        self.arrays: list[npt.NDArray[np.float32]] = []

    def run(self, request: SolverRequest, arrays: Arrays = ()) -> Progress:
        answer = self.model.run(msgspec.msgpack.encode(request), arrays, {})
        self.arrays = [np.array(array) for array in answer.arrays]
        progress = msgspec.msgpack.decode(answer.body, type=Progress)
        self.lines += progress.lines
        return progress

    def within(self, net: int, request: Any, arrays: Arrays = ()) -> list[npt.NDArray[np.float32]]:
        answer = self.model.run(msgspec.msgpack.encode(Within(net, request)), arrays, {})
        return [np.array(array) for array in answer.arrays]

    def blob(self, name: str, net: int = 0) -> BlobRef:
        return BlobRef([each.name for each in self.description.nets[net].blobs].index(name))

    def feed(self, net: int = 0) -> Solver:
        self.within(net, Read(writes=(self.blob("data", net), self.blob("target", net))), inputs())
        return self

    @property
    def weight(self) -> BlobRef:
        return BlobRef(0, [each.name for each in self.description.nets[0].layers].index("out"))


def inputs() -> list[npt.NDArray[np.float32]]:
    values = np.random.default_rng(3)
    return [values.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (4, 2))]


class TestSteps:
    def test_lower_the_loss_and_tell_all_of_them(self, executor: CaffeExecutor) -> None:
        progress = Solver(executor, PLAIN.replace("0.9", "0")).feed().run(Step(iterations=20))
        assert progress.iteration == 20 and len(progress.losses) == 20
        assert progress.losses == tuple(sorted(progress.losses, reverse=True))

    def test_many_at_once_do_what_one_after_another_does(self, executor: CaffeExecutor) -> None:
        weights = []
        for steps in ([6], [1] * 6):
            solver = Solver(executor, PLAIN + "weight_decay: 0.01").feed()
            for count in steps:
                solver.run(Step(iterations=count, wanted=(solver.weight,)))
            weights.append(solver.arrays[0])
        np.testing.assert_array_equal(*weights)

    def test_driven_by_the_host_do_the_same(self, executor: CaffeExecutor) -> None:
        settings = PLAIN + "iter_size: 2 display: 1 average_loss: 2 clip_gradients: 1"
        stepped, driven = (Solver(executor, settings).feed() for _ in range(2))
        stepped.run(Step(iterations=3, wanted=(stepped.weight,)))
        losses = []
        for iteration in range(3):
            driven.within(0, ClearDiffs())
            for _ in range(2):
                driven.within(0, Forward())
                driven.within(0, Backward())
            losses += driven.run(Observe(first=iteration == 0)).losses
            driven.run(ApplyUpdate(wanted=(driven.weight,)))
        np.testing.assert_array_equal(driven.arrays[0], stepped.arrays[0])
        assert len(losses) == 3
        assert [_without_times(line) for line in driven.lines] == [_without_times(line) for line in stepped.lines]

    def test_end_where_a_snapshot_is_due(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN + 'snapshot: 3 snapshot_prefix: "s"').feed()
        progress = solver.run(Step(iterations=5))
        assert (progress.iteration, progress.due) == (3, "snapshot")
        progress = solver.run(Step(iterations=2, first=False))
        assert (progress.iteration, progress.due) == (5, "")

    def test_run_tests_at_their_interval(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN + "test_iter: 2 test_interval: 2").feed().feed(1)
        solver.run(Step(iterations=3))
        assert [line for line in solver.lines if "Testing" in line] == [
            "Iteration 0, Testing net (#0)",
            "Iteration 2, Testing net (#0)",
        ]

    def test_leave_tests_to_a_host_that_feeds_them(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN + "test_iter: 2 test_interval: 2", FED)
        for net in range(2):
            solver.within(net, SetUpLayer(tops=((4, 3),)))
        data, target = inputs()
        solver.within(0, Read(writes=(solver.blob("target"),)), [target])
        solver.within(1, Read(writes=(solver.blob("target", 1),)), [target])
        feed = (solver.blob("data"),)
        assert solver.run(Step(writes=feed, iterations=1), [data]).due == "test"
        scores: tuple[float, ...] = ()
        for place in range(2):
            request = Test(writes=(solver.blob("data", 1),), iterations=1, net=1, first=place == 0, last=place == 1)
            scores = solver.run(request, [data]).scores
        progress = solver.run(Step(writes=feed, iterations=1, first=False, tested=True), [data])
        assert (progress.iteration, progress.due) == (1, "")
        assert scores == pytest.approx(progress.losses)  # the test net had the train net's parameters

    def test_of_a_net_with_an_own_layer_are_refused(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN, OWN)
        solver.within(0, SetUpLayer(tops=((1,),)))
        with pytest.raises(InvalidArgument, match=r"layer 'own' \(Python\): the host runs it"):
            solver.run(Step())

    def test_of_an_incomplete_net_are_refused(self, executor: CaffeExecutor) -> None:
        with pytest.raises(InvalidArgument, match="not complete"):
            Solver(executor, PLAIN, FED).run(Step())

    def test_leave_the_update_in_the_diffs(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN).feed()
        (before,) = solver.within(0, Read(wanted=(solver.weight,)))
        solver.run(Step())
        update = BlobRef(solver.weight.index, solver.weight.layer, diff=True)
        after, difference = solver.within(0, Read(wanted=(solver.weight, update)))
        np.testing.assert_allclose(before - difference, after, rtol=1e-6)

    def test_repeat_with_the_random_seed(self, executor: CaffeExecutor) -> None:
        def weight(settings: str, **load: Any) -> npt.NDArray[np.float32]:
            solver = Solver(executor, settings, **load)
            return solver.within(0, Read(wanted=(solver.weight,)))[0]

        seeded = weight(PLAIN + "random_seed: 7", seed=1)
        np.testing.assert_array_equal(seeded, weight(PLAIN, seed=7))
        assert (seeded != weight(PLAIN, seed=8)).any()


def _without_times(line: str) -> str:
    return line if "iter/s" not in line else line.split(" (")[0] + line.split(")")[1]


def test_an_older_prototxt_names_its_type_by_an_enum(executor: CaffeExecutor) -> None:
    assert Solver(executor, PLAIN + "solver_type: ADAM").description.type == "Adam"
    assert Solver(executor, PLAIN, solver_type="Nesterov").description.type == "Nesterov"
    with pytest.raises(InvalidModel, match="keep type"):
        Solver(executor, PLAIN + 'solver_type: ADAM type: "Adam"')


class TestStates:
    @pytest.mark.parametrize("kind", ["SGD", "Adam", "AdaDelta"])
    def test_a_solver_goes_on_from_anothers(self, executor: CaffeExecutor, kind: str) -> None:
        settings = PLAIN.replace("fixed", "multistep") + f'type: "{kind}" gamma: 0.5 stepvalue: 2 stepvalue: 4 '
        whole = Solver(executor, settings).feed()
        whole.run(Step(iterations=3))
        state = whole.run(ReadState())
        history = whole.arrays
        parameters = [BlobRef(index, whole.weight.layer) for index in range(2)]
        values = whole.within(0, Read(wanted=tuple(parameters)))
        whole.run(Step(iterations=4, wanted=(whole.weight,)))

        other = Solver(executor, settings).feed()
        request = WriteState(writes=tuple(parameters), iteration=state.iteration, current_step=state.current_step)
        assert other.run(request, [*values, *history]).rate == state.rate
        other.run(Step(iterations=4, wanted=(other.weight,)))
        np.testing.assert_array_equal(other.arrays[0], whole.arrays[0])

    def test_a_history_of_another_solver_is_refused_with_both_shapes(self, executor: CaffeExecutor) -> None:
        adam, sgd = (Solver(executor, PLAIN + f'type: "{kind}"') for kind in ("Adam", "SGD"))
        adam.run(ReadState())
        with pytest.raises(InvalidArgument, match=r"\(2, 3\), \(2,\), \(2, 3\), \(2,\).* does not fit .*\(2, 3\)"):
            sgd.run(WriteState(), adam.arrays)

    def test_a_negative_iteration_is_refused(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN)
        solver.run(ReadState())
        with pytest.raises(InvalidArgument, match="iteration -1"):
            solver.run(WriteState(iteration=-1), solver.arrays)


class TestEnds:
    def test_the_last_loss_is_shown(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN + "display: 2 test_iter: 1 test_interval: 2").feed().feed(1)
        solver.run(Step(iterations=2))
        assert solver.run(Finish()).due == "test"
        assert solver.lines[-1].startswith("Iteration 2, loss = ")

    def test_nothing_is_shown_between_displays(self, executor: CaffeExecutor) -> None:
        solver = Solver(executor, PLAIN + "display: 2").feed()
        solver.run(Step(iterations=3))
        count = len(solver.lines)
        assert solver.run(Finish()).due == ""
        assert len(solver.lines) == count


@pytest.mark.parametrize(
    "refused", [each for each in refused_solvers() if each.name != "snapshot_into_no_folder"], ids=str
)
def test_what_real_caffe_refuses_is_refused_in_one_line(executor: CaffeExecutor, refused: RefusedSolver) -> None:
    with pytest.raises(InvalidModel) as caught:
        Solver(executor, refused.solver, refused.network)
    assert str(caught.value).startswith("solver.prototxt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("net", "message"), [(0, "no test net"), (2, "no test net"), (-1, "no test net")], ids=["train", "beyond", "before"]
)
def test_a_test_net_that_is_not_there_is_refused(executor: CaffeExecutor, net: int, message: str) -> None:
    solver = Solver(executor, PLAIN + "test_iter: 1 test_interval: 1").feed()
    with pytest.raises(InvalidArgument, match=message):
        solver.run(Test(net=net))


def test_a_net_whose_text_did_not_come_is_refused(executor: CaffeExecutor) -> None:
    with pytest.raises(InvalidModel, match=r"'net\.prototxt', whose text did not come"):
        Solver(executor, PLAIN, nets=())
