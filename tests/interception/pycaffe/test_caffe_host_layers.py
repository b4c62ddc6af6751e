"""Layers on the host in nets at a destination: data, files, and the application's own, run alone and under solvers."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from avec.errors import InvalidArgument
from avec.profiling import ExecutionCycle

Sent = Callable[[], Sequence[ExecutionCycle]]

ITEMS = np.random.RandomState(5).standard_normal((12, 3)).astype(np.float32)
TARGETS = np.random.RandomState(6).standard_normal((12, 2)).astype(np.float32)
BATCH = 4

HEAD = """
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "constant" value: 0.1 } } }
"""
LOSS = """
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" }
"""
GIVEN = f"""
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {BATCH} dim: 3 }} }} }}
layer {{ name: "target" type: "Input" top: "target" input_param {{ shape {{ dim: {BATCH} dim: 2 }} }} }}
"""
READ = f"""
layer {{ name: "read" type: "HDF5Data" top: "data" top: "target"
  hdf5_data_param {{ source: "list.txt" batch_size: {BATCH} }} }}
"""
HALVED = """
layer { name: "half" type: "Python" bottom: "fc" top: "half" python_param { module: "own_layers" layer: "Half" } }
layer { name: "loss" type: "EuclideanLoss" bottom: "half" bottom: "target" top: "loss" }
"""
POWER_HALVED = """
layer { name: "half" type: "Power" bottom: "fc" top: "half" power_param { scale: 0.5 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "half" bottom: "target" top: "loss" }
"""
DISTANCE = """
layer { name: "loss" type: "Python" bottom: "fc" bottom: "target" top: "loss" loss_weight: 1
  python_param { module: "own_layers" layer: "Distance" } }
"""
OWN_LAYERS = """
import caffe


class Half(caffe.Layer):
    def setup(self, bottom, top):
        assert bottom[0].data.shape == (4, 2)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data / 2

    def backward(self, top, propagate_down, bottom):
        assert list(propagate_down) == [True]
        bottom[0].diff[...] = top[0].diff / 2


class Distance(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference**2).sum() / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.difference / bottom[0].num


class Shift(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(2)
        self.blobs[0].data[...] = 0.5

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += top[0].diff.sum(0)
        bottom[0].diff[...] = top[0].diff


class Count(caffe.Layer):
    def setup(self, bottom, top):
        self.calls = 0

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.calls += 1
        top[0].data[...] = self.calls

    def backward(self, top, propagate_down, bottom):
        pass


class Growing(caffe.Layer):
    def setup(self, bottom, top):
        self.rows = 0

    def reshape(self, bottom, top):
        self.rows += 1
        top[0].reshape(self.rows, 3)

    def forward(self, bottom, top):
        top[0].data[...] = self.rows
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 6 snapshot_prefix: "snap"\n'


@pytest.fixture(autouse=True)
def folder(caffe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with data, and a module of the application's own layers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_layers.py").write_text(OWN_LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("own_layers", None)


@pytest.fixture
def data(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "items.h5", "w") as file:
        file["data"], file["target"] = ITEMS, TARGETS
    (folder / "list.txt").write_text("items.h5\n")


@pytest.fixture
def load(caffe: ModuleType) -> Callable[..., Any]:
    def make(prototxt: str, phase: int = caffe.TRAIN) -> Any:
        Path("net.prototxt").write_text(prototxt)
        return caffe.Net("net.prototxt", phase)

    return make


@pytest.fixture
def solve(caffe: ModuleType) -> Callable[..., Any]:
    def make(prototxt: str, more: str = "") -> Any:
        Path("net.prototxt").write_text(prototxt)
        Path("solver.prototxt").write_text(SOLVER + more)
        return caffe.get_solver("solver.prototxt")

    return make


def batch(iteration: int) -> dict[str, np.ndarray]:
    rows = slice(iteration * BATCH % len(ITEMS), iteration * BATCH % len(ITEMS) + BATCH)
    return {"data": ITEMS[rows], "target": TARGETS[rows]}


def trained(solver: Any, iterations: int = 6, iter_size: int = 1) -> dict[str, np.ndarray]:
    """Parameters after iterations of a net whose inputs are written before each."""
    for iteration in range(iterations):
        for name, values in batch(iteration).items():
            solver.net.blobs[name].data[...] = values
        solver.step(1)
    return parameters(solver.net)


def parameters(net: Any) -> dict[str, np.ndarray]:
    return {f"{name}{i}": blob.data.copy() for name, blobs in net.params.items() for i, blob in enumerate(blobs)}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("data")
def test_a_data_layer_brings_a_batch_with_each_forward(load: Callable[..., Any]) -> None:
    net = load(READ + HEAD + LOSS)
    assert net.inputs == []
    for iteration in range(4):
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data, batch(iteration)["data"])
        np.testing.assert_allclose(
            net.blobs["fc"].data, batch(iteration)["data"].sum(1, keepdims=True) * [[0.1] * 2], rtol=1e-4
        )


@pytest.mark.usefixtures("data")
def test_a_net_with_a_data_layer_runs_in_one_call(load: Callable[..., Any], sent: Sent) -> None:
    net = load(READ + HEAD + LOSS)
    sent()
    net.forward()["loss"].copy()
    (cycle,) = sent()
    assert (cycle.name, cycle.tensor_nbytes_up) == ("caffe.forward", BATCH * 5 * 4)


@pytest.mark.usefixtures("data")
def test_a_view_of_a_batch_is_followed_by_the_next_one(load: Callable[..., Any]) -> None:
    net = load(READ + HEAD + LOSS)
    view = net.blobs["data"].data
    net.forward()
    np.testing.assert_array_equal(view, batch(0)["data"])
    net.forward()
    np.testing.assert_array_equal(view, batch(1)["data"])


@pytest.mark.usefixtures("data")
def test_a_net_that_is_gone_stops_reading(load: Callable[..., Any]) -> None:
    net = load(READ + HEAD + LOSS)
    net.forward()
    assert any(thread.name.startswith("avec data") for thread in threading.enumerate())
    del net
    assert not any(thread.name.startswith("avec data") for thread in threading.enumerate())


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("more", ["", "display: 2", "snapshot: 2"])
def test_a_solver_fed_by_a_data_layer_learns_what_one_fed_by_hand_learns(solve: Callable[..., Any], more: str) -> None:
    wanted = trained(solve(GIVEN + HEAD + LOSS))
    solver = solve(READ + HEAD + LOSS, more)
    solver.step(4)
    solver.step(2)
    assert solver.iter == 6
    assert_same(parameters(solver.net), wanted)
    assert sorted(Path().glob("snap_iter_*.caffemodel")) == (
        [Path(f"snap_iter_{each}.caffemodel") for each in (2, 4, 6)] if "snapshot" in more else []
    )


@pytest.mark.usefixtures("data")
def test_a_batch_for_each_pass_of_an_iteration(caffe: ModuleType, solve: Callable[..., Any]) -> None:
    by_hand = solve(GIVEN + HEAD + LOSS, "iter_size: 2")
    for iteration in range(3):
        by_hand.net.clear_param_diffs()
        for part in range(2):
            by_hand.net.forward(**batch(2 * iteration + part))
            by_hand.net.backward()
        by_hand.apply_update()
    solver = solve(READ + HEAD + LOSS, "iter_size: 2")
    solver.step(3)
    assert_same(parameters(solver.net), parameters(by_hand.net))


@pytest.mark.usefixtures("data")
def test_test_nets_are_fed_by_the_host(solve: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    tests = "test_iter: 3 test_interval: 2"
    solver = solve(READ + HEAD + LOSS, tests)
    solver.step(3)
    lines = capfd.readouterr().err
    assert [f"Iteration {each}, Testing net (#0)" in lines for each in range(4)] == [True, False, True, False]
    first = next(line for line in lines.splitlines() if "Test net output #0: loss = " in line)
    wanted = np.mean(
        [((b["data"].sum(1, keepdims=True) * 0.1 - b["target"]) ** 2).sum() / 2 / BATCH for b in map(batch, range(3))]
    )
    assert float(first.split("loss = ")[1].split()[0]) == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_array_equal(solver.test_nets[0].params["fc"][0].data, solver.net.params["fc"][0].data)


def test_a_solver_runs_the_applications_layer(solve: Callable[..., Any]) -> None:
    wanted = trained(solve(GIVEN + HEAD + POWER_HALVED))
    assert_same(trained(solve(GIVEN + HEAD + HALVED)), wanted)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("pair", [(POWER_HALVED, HALVED), (LOSS, DISTANCE)], ids=["in_the_middle", "as_loss"])
def test_a_solver_displays_the_same_with_the_applications_layer(
    solve: Callable[..., Any], capfd: pytest.CaptureFixture[str], pair: tuple[str, str]
) -> None:
    shown = []
    for layers in pair:
        solve(READ + HEAD + layers, "display: 1 test_iter: 2 test_interval: 3").solve()
        lines = [line.split("] ", 1)[-1] for line in capfd.readouterr().err.splitlines()]
        shown.append([line.split(" (")[0] + line.split(")")[-1] for line in lines if "Snapshot" not in line])
    assert shown[0] == shown[1]
    assert any(line.startswith("Iteration 6, loss = ") for line in shown[0])


@pytest.mark.usefixtures("data")
def test_callbacks_see_the_gradients_and_change_them(solve: Callable[..., Any]) -> None:
    solver = solve(READ + HEAD + LOSS)
    seen = []

    def ready() -> None:
        seen.append(solver.net.params["fc"][0].diff.copy())
        solver.net.params["fc"][0].diff[...] = 1

    solver.add_callback(lambda: seen.append(solver.iter), ready)
    solver.step(1)
    assert seen[0] == 0
    assert seen[1].any()
    np.testing.assert_allclose(solver.net.params["fc"][0].data, 0.1 - 0.05, rtol=1e-5)


def test_iterations_that_nobody_looks_at_cost_no_traffic(solve: Callable[..., Any], sent: Sent) -> None:
    solver = solve(GIVEN + HEAD + LOSS)
    solver.net.blobs["data"].data[...] = batch(0)["data"]
    solver.step(1)
    sent()
    solver.step(50)
    cycles = [cycle for cycle in sent() if cycle.name == "caffe.step"]
    assert len(cycles) == 1
    assert cycles[0].tensor_nbytes_up == cycles[0].tensor_nbytes_down == 0


def test_what_is_looked_at_after_each_step_comes_with_it(solve: Callable[..., Any], sent: Sent) -> None:
    solver = solve(GIVEN + HEAD + LOSS)
    for _ in range(2):
        solver.net.blobs["data"].data[...] = batch(0)["data"]
        solver.step(1)
        float(solver.net.blobs["loss"].data)
    sent()
    solver.net.blobs["data"].data[...] = batch(1)["data"]
    solver.step(1)
    float(solver.net.blobs["loss"].data)
    assert [cycle.name for cycle in sent()].count("caffe.read") == 0


def test_the_rate_can_be_changed(solve: Callable[..., Any]) -> None:
    solver = solve(GIVEN + HEAD + LOSS)
    assert solver.lr == pytest.approx(0.05)
    solver.param.base_lr = 0.5
    assert solver.lr == solver.param.base_lr == 0.5
    solver.net.params["fc"][0].diff[...] = 1
    solver.apply_update()
    np.testing.assert_allclose(solver.net.params["fc"][0].data, 0.1 - 0.5, rtol=1e-5)


def test_memory_data(load: Callable[..., Any]) -> None:
    net = load(
        'layer { name: "memory" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 2 channels: 3 height: 1 width: 1 } }" + HEAD
    )
    items, labels = ITEMS[:4].reshape(4, 3, 1, 1).copy(), np.arange(4, dtype=np.float32)
    net.set_input_arrays(items, labels)
    for start in (0, 2, 0):
        out = net.forward()
        np.testing.assert_allclose(out["fc"], ITEMS[start : start + 2].sum(1, keepdims=True) * [[0.1] * 2], rtol=1e-4)
        np.testing.assert_array_equal(out["label"].ravel(), labels[start : start + 2])


def test_memory_data_without_arrays_says_what_to_call(load: Callable[..., Any]) -> None:
    net = load(
        'layer { name: "memory" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 2 channels: 3 height: 1 width: 1 } }"
    )
    with pytest.raises(InvalidArgument, match="set_input_arrays"):
        net.forward()


def test_hdf5_output(load: Callable[..., Any]) -> None:
    h5py = pytest.importorskip("h5py")
    output = (
        'layer { name: "out" type: "HDF5Output" bottom: "fc" bottom: "target" hdf5_output_param { file_name: "o.h5" } }'
    )
    net = load(GIVEN + HEAD + output)
    net.forward(**batch(0))
    fc = net.blobs["fc"].data.copy()
    del net
    with h5py.File("o.h5") as file:
        np.testing.assert_array_equal(file["data"][()].reshape(fc.shape), fc)
        np.testing.assert_array_equal(file["label"][()].reshape(BATCH, 2), batch(0)["target"])


def test_a_source_of_the_applications_own_may_change_its_shape(load: Callable[..., Any]) -> None:
    net = load(
        'layer { name: "own" type: "Python" top: "data" python_param { module: "own_layers" layer: "Growing" } }' + HEAD
    )
    for rows in (2, 3, 4):
        out = net.forward()["fc"]
        np.testing.assert_allclose(out, np.full((rows, 2), 0.1 * 3 * rows), rtol=1e-5)


def test_ranges_of_layers_run_only_their_own_host_layers(load: Callable[..., Any]) -> None:
    net = load(
        'layer { name: "count" type: "Python" top: "calls" python_param { module: "own_layers" layer: "Count" } }'
        + GIVEN
        + HEAD
    )
    net.forward(start="data")
    assert net.layers[0].calls == 0
    net.forward(end="count")
    assert net.layers[0].calls == 1
    assert net.blobs["calls"].data[0] == 1


def test_new_shapes_pass_through_the_applications_layer(load: Callable[..., Any]) -> None:
    net = load("force_backward: true" + GIVEN + HEAD + HALVED)
    net.blobs["data"].reshape(7, 3)
    net.blobs["target"].reshape(7, 2)
    net.reshape()
    assert net.blobs["half"].shape == (7, 2)
    net.blobs["data"].data[...] = 1
    net.forward()
    net.backward()
    np.testing.assert_allclose(net.blobs["half"].data, np.full((7, 2), 0.15), rtol=1e-5)
    np.testing.assert_allclose(net.blobs["fc"].diff, np.full((7, 2), 0.15 / 7 / 2), rtol=1e-5)


def test_a_module_that_is_missing_is_an_import_error(load: Callable[..., Any]) -> None:
    with pytest.raises(ImportError, match="nowhere"):
        load('layer { name: "own" type: "Python" top: "x" python_param { module: "nowhere" layer: "Half" } }')


def test_random_layers_repeat_after_the_same_seed(caffe: ModuleType, load: Callable[..., Any]) -> None:
    net = load(GIVEN + 'layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }')
    net.blobs["data"].data[...] = 1
    seen = []
    for _ in range(2):
        caffe.set_random_seed(3)
        seen.append([net.forward()["drop"].copy() for _ in range(2)])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0][0] != seen[0][1]).any()


def test_a_blob_of_a_solvers_net_may_change_its_shape(solve: Callable[..., Any]) -> None:
    solver = solve(GIVEN + HEAD + LOSS)
    solver.step(1)
    solver.net.blobs["data"].reshape(6, 3)
    solver.net.blobs["target"].reshape(6, 2)
    solver.step(1)
    assert solver.net.blobs["fc"].data.shape == solver.net.blobs["fc"].diff.shape == (6, 2)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("more", ["", "iter_size: 2", "type: 'Adam' momentum2: 0.99 clip_gradients: 0.1"])
def test_a_solver_teaches_the_applications_layer(solve: Callable[..., Any], more: str) -> None:
    learned = []
    for layer in (
        'type: "Bias" bias_param { axis: 1 filler { type: "constant" value: 0.5 } }',
        'type: "Python" python_param { module: "own_layers" layer: "Shift" }',
    ):
        shift = f'layer {{ name: "shift" bottom: "fc" top: "shifted" {layer} }}'
        solver = solve(READ + HEAD + shift + LOSS.replace('"fc"', '"shifted"'), more)
        solver.step(3)
        solver.step(2)
        solver.snapshot()
        learned.append(parameters(solver.net))
        solver.net.params["shift"][0].data[...] = 9
        solver.restore("snap_iter_5.solverstate")
        np.testing.assert_array_equal(solver.net.params["shift"][0].data, learned[-1]["shift0"])
    assert (learned[0]["shift0"] != 0.5).all()
    assert_same(learned[1], learned[0])


def test_a_seed_can_be_set_while_nets_of_an_earlier_session_live(caffe: ModuleType, load: Callable[..., Any]) -> None:
    net = load(GIVEN)
    net._remote.handle._process = -1  # as in a child process
    caffe.set_random_seed(1)
    assert load(GIVEN).forward(**batch(0)).keys() == {"data", "target"}


def test_where_a_solver_stands_is_known_after_it_failed(solve: Callable[..., Any]) -> None:
    solver = solve(GIVEN + HEAD + LOSS)
    solver.step(2)
    solver.net.blobs["data"].reshape(BATCH, 5)
    with pytest.raises(InvalidArgument, match="fc"):
        solver.step(1)
    assert solver.iter == 2
    solver.net.blobs["data"].reshape(BATCH, 3)
    solver.step(1)
    assert solver.iter == 3


@pytest.mark.parametrize("layers", [POWER_HALVED, HALVED], ids=["at_destination", "driven"])
def test_views_that_are_held_follow_a_solver(solve: Callable[..., Any], layers: str) -> None:
    tests = "test_iter: 1 test_interval: 1"
    plain, solver = solve(GIVEN + HEAD + layers, tests), solve(GIVEN + HEAD + layers, tests)
    arrays = {"weight": solver.net.params["fc"][0], "fc": solver.net.blobs["fc"], "loss": solver.net.blobs["loss"]}
    data, diffs = ({name: getattr(blob, side) for name, blob in arrays.items()} for side in ("data", "diff"))
    tested = solver.test_nets[0].blobs["loss"].data
    for each in (plain, solver):
        for net in (each.net, each.test_nets[0]):
            for name, values in batch(0).items():
                net.blobs[name].data[...] = values
        each.step(2)
    wanted = {"weight": plain.net.params["fc"][0], "fc": plain.net.blobs["fc"], "loss": plain.net.blobs["loss"]}
    for name, blob in wanted.items():
        np.testing.assert_allclose(data[name], blob.data, rtol=1e-5)
        np.testing.assert_allclose(diffs[name], blob.diff, rtol=1e-5)
    assert tested == plain.test_nets[0].blobs["loss"].data > 0
    assert not np.array_equal(data["weight"], np.full((2, 3), 0.1, np.float32))


def test_what_is_written_into_a_held_view_counts_in_the_next_step(solve: Callable[..., Any]) -> None:
    solver = solve(GIVEN + HEAD + LOSS, "test_iter: 1 test_interval: 1")
    weight = solver.net.params["fc"][0].data
    solver.step(1)
    weight[...] = 7
    solver.net.blobs["data"].data[...] = 1
    solver.step(1)
    np.testing.assert_allclose(solver.net.blobs["fc"].data, np.full((BATCH, 2), 21), rtol=1e-5)
    solver.test_nets[0].params["fc"][0].data[...] = 2  # the train net's memory since the first test
    np.testing.assert_array_equal(weight, np.full((2, 3), 2))
