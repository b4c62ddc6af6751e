"""pycaffe around training: each observation of real Caffe is repeated here, and some of its runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from goldens.caffe_goldens import Array, Behaviour
from goldens.seeded_parameters import parameter_values
from goldens.training_goldens import TrainingRun, training_behaviours, training_runs

TOLERANCE = 1e-4  # of the largest value
Build = Callable[..., Any]

BY_NAME = {behaviour.name: behaviour for behaviour in training_behaviours()}


def of(kind: str) -> pytest.MarkDecorator:
    found = [each for each in BY_NAME.values() if each.name.partition("/")[0] == kind]
    return pytest.mark.parametrize("golden", found, ids=str)


def assert_close(actual: Array, wanted: Array) -> None:
    assert actual.shape == wanted.shape
    assert np.abs(actual - wanted).max(initial=0) <= TOLERANCE * np.abs(wanted).max(initial=0)


def contents(golden: Behaviour, name: str = "weights") -> bytes:
    return golden.arrays[name].tobytes()


def diffs_of(net: Any) -> dict[str, Array]:
    blobs = {f"blob_diff_{name}": blob.diff.copy() for name, blob in net.blobs.items()}
    return blobs | {
        f"parameter_diff_{name}_{place}": blob.diff.copy()
        for name, parameters in net.params.items()
        for place, blob in enumerate(parameters)
    }


def parameters_of(net: Any, prefix: str = "") -> dict[str, Array]:
    return {
        f"{prefix}parameter_{name}_{place}": blob.data.copy()
        for name, parameters in net.params.items()
        for place, blob in enumerate(parameters)
    }


def assert_all_close(actual: dict[str, Array], golden: Behaviour, prefix: str = "") -> None:
    for name, value in actual.items():
        assert_close(value, golden.arrays[prefix + name])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test's own, where the golden Python layers can be imported."""
    (tmp_path / "golden_layers.py").write_text(BY_NAME["python_layer/twice"].settings["module"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "golden_layers", raising=False)
    return tmp_path


@of("backward")
def test_backward_answers_and_leaves_the_diffs_that_real_caffe_does(build: Build, golden: Behaviour) -> None:
    settings, arrays = golden.settings, golden.arrays
    net = build(settings["prototxt"], contents(golden))
    net.forward(a=arrays["a"])
    how = {key: settings[key] for key in ("start", "end", "diffs") if key in settings}
    if "start" in how:
        net.blobs["tanh1"].diff[...] = arrays["tanh1_diff"]
    else:
        how["out"] = arrays["out_diff"]
    answer = net.backward(**how)
    assert sorted(answer) == settings["keys"]
    for name, value in answer.items():
        assert_close(value, arrays[f"answer_{name}"])
    assert_all_close(diffs_of(net), golden)


def test_forward_backward_all_pads_the_last_batch(build: Build) -> None:
    golden = BY_NAME["forward_backward_all"]
    arrays = golden.arrays
    net = build(golden.settings["prototxt"], contents(golden))
    outs, diffs = net.forward_backward_all(a=arrays["a"], out=arrays["out"], blobs=["fc1"], diffs=["tanh1"])
    assert {f"blob_{name}" for name in outs} | {f"diff_{name}" for name in diffs} == {
        name for name in arrays if name.startswith(("blob_", "diff_"))
    }
    for name, value in outs.items():
        assert_close(value, arrays[f"blob_{name}"])
    for name, value in diffs.items():
        assert_close(value, arrays[f"diff_{name}"])


def test_diffs_of_parameters_add_up_and_those_of_blobs_do_not(build: Build) -> None:
    golden = BY_NAME["accumulation"]
    arrays = golden.arrays
    net = build(golden.settings["prototxt"], contents(golden))
    for name in ("first", "second"):
        net.forward(a=arrays[f"a_{name}"])
        net.backward(out=arrays["out_diff"])
        assert_all_close(diffs_of(net), golden, f"{name}_")
    net.backward(out=arrays["out_diff"])
    assert_all_close(diffs_of(net), golden, "again_")
    net.clear_param_diffs()
    assert_all_close(diffs_of(net), golden, "cleared_")


def test_blob_loss_weights(caffe: ModuleType, build: Build) -> None:
    golden = BY_NAME["blob_loss_weights"]
    net = build(golden.settings["prototxt"], phase=caffe.TRAIN)
    assert dict(net.blob_loss_weights) == golden.settings["weights"]
    assert float(net.blobs["loss"].diff) == golden.settings["loss_diff_before_forward"]


def test_hooks_are_called_in_real_caffes_order(build: Build) -> None:
    golden = BY_NAME["hooks"]
    net = build(golden.settings["prototxt"], contents(golden))
    calls: list[list[object]] = []
    for name in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, name)(lambda place, name=name: calls.append([name, place]))
    net.forward()
    net.backward()
    assert calls == golden.settings["calls"]
    calls.clear()
    net.forward(start="tanh1", end="fc2")
    net.backward(start="fc2", end="tanh1")
    assert calls == golden.settings["partial_calls"]


def test_share_with_makes_parameters_one_memory(caffe: ModuleType, build: Build, folder: Path) -> None:
    golden = BY_NAME["share_with"]
    arrays = golden.arrays
    net = build(golden.settings["prototxt"], contents(golden))
    (folder / "other.prototxt").write_text(golden.settings["other"])
    (folder / "other.caffemodel").write_bytes(contents(golden, "other_weights"))
    other = caffe.Net("other.prototxt", caffe.TEST, weights="other.caffemodel")
    net.share_with(other)
    other.params["fc1"][0].data[0, 0] = 7
    net.params["fc1"][1].data[1] = -3
    assert_close(net.params["fc1"][0].data, arrays["fc1_weight"])
    assert_close(other.params["fc1"][1].data, arrays["other_fc1_bias"])
    assert_close(net.params["fc2"][0].data, arrays["fc2_weight"])
    assert_close(net.forward(a=arrays["a"])["out"], arrays["out"])


def test_real_caffes_hdf5_weights_are_loaded(build: Build, folder: Path) -> None:
    golden = BY_NAME["save_hdf5"]
    (folder / "net.h5").write_bytes(contents(golden, "hdf5"))
    net = build(golden.settings["other"])
    net.params["fc3"][0].data[...] = golden.arrays["other_fc3_weight"]
    net.load_hdf5("net.h5")
    assert_close(net.params["fc1"][0].data, golden.arrays["other_fc1_weight"])
    assert_close(net.params["fc3"][0].data, golden.arrays["other_fc3_weight"])


@pytest.mark.parametrize("name", ["save_hdf5", "save_hdf5_of_named_parameters", "save_hdf5_of_shared_parameters"])
def test_hdf5_weights_are_saved_as_real_caffe_lays_them_out(build: Build, folder: Path, name: str) -> None:
    golden = BY_NAME[name]
    net = build(golden.settings["prototxt"], contents(golden))
    net.save_hdf5("saved.h5")
    (folder / "golden.h5").write_bytes(contents(golden, "hdf5"))
    assert_same_hdf5(folder / "saved.h5", folder / "golden.h5")


def assert_same_hdf5(actual: Path, wanted: Path) -> None:
    """The same groups, and data sets of the same types and values within the tolerance."""
    import h5py

    with h5py.File(actual) as mine, h5py.File(wanted) as caffes:
        found, expected = _items(mine), _items(caffes)
        assert list(found) == list(expected)
        for name, item in expected.items():
            assert type(found[name]) is type(item)
            if isinstance(item, h5py.Dataset):
                assert found[name].dtype == item.dtype, name
                if item.dtype.kind == "f":
                    assert_close(found[name][()], item[()])
                else:
                    assert found[name][()] == item[()]


def _items(file: Any) -> dict[str, Any]:
    names: list[str] = []
    file.visit(names.append)
    return {name: file[name] for name in sorted(names)}


# Solvers


@pytest.fixture
def make_solver(caffe: ModuleType, folder: Path) -> Build:
    """Make the solver of an observation with the parameters that it started from."""

    def make(golden: Behaviour) -> Any:
        (folder / "net.prototxt").write_text(golden.settings["prototxt"])
        (folder / "solver.prototxt").write_text(golden.settings["solver"])
        (folder / "start.caffemodel").write_bytes(contents(golden))
        solver = caffe.get_solver("solver.prototxt")
        solver.net.copy_from("start.caffemodel")
        feed(solver, golden)
        return solver

    return make


def feed(solver: Any, golden: Behaviour) -> None:
    for name in ("data", "target"):
        solver.net.blobs[name].data[...] = golden.arrays[name]


def test_steps_callbacks_and_what_a_solver_shows(make_solver: Build) -> None:
    golden = BY_NAME["solver/steps"]
    settings = golden.settings
    solver = make_solver(golden)
    calls: list[list[object]] = []
    solver.add_callback(
        lambda: calls.append(["on_start", solver.iter]), lambda: calls.append(["on_gradients_ready", solver.iter])
    )
    rates, iterations = [solver.lr], [solver.iter]
    for count in settings["steps"]:
        solver.step(count)
        rates.append(solver.lr)
        iterations.append(solver.iter)
    assert rates == pytest.approx(settings["lr"])
    assert iterations == settings["iter"]
    assert calls == settings["calls"]
    assert {name: getattr(solver.param, name) for name in settings["param"]} == pytest.approx(settings["param"])
    assert type(solver).__name__ == settings["type"]
    assert len(solver.test_nets) == settings["test_nets"]
    assert_all_close(parameters_of(solver.net), golden)
    assert_close(solver.net.blobs["loss"].data, golden.arrays["loss"])
    diffs = {name: value for name, value in diffs_of(solver.net).items() if name.startswith("parameter")}
    assert_all_close(diffs, golden)


SNAPSHOTS = [each for each in BY_NAME.values() if each.name.startswith("solver/snapshot")]


@pytest.mark.parametrize("golden", SNAPSHOTS, ids=str)
def test_snapshots_are_written_as_real_caffe_writes_them(make_solver: Build, folder: Path, golden: Behaviour) -> None:
    solver = make_solver(golden)
    solver.step(5)
    solver.snapshot()
    assert sorted(path.name for path in folder.glob("snap_*")) == golden.settings["files"]
    for name in golden.settings["files"]:
        assert_same_file(folder, name, contents(golden, name))


def assert_same_file(folder: Path, name: str, wanted: bytes) -> None:
    golden = folder / f"golden_{name}"
    golden.write_bytes(wanted)
    if name.endswith(".h5"):
        assert_same_hdf5(folder / name, golden)
        return
    from avec.formats.caffe.message import message_class

    kind = "SolverState" if "solverstate" in name else "NetParameter"
    mine, caffes = (message_class(kind).FromString(path.read_bytes()) for path in (folder / name, golden))
    blobs = _blobs(mine), _blobs(caffes)
    for actual, expected in zip(*blobs, strict=True):
        for field in ("data", "diff"):
            assert_close(np.array(getattr(actual, field)), np.array(getattr(expected, field)))
            actual.ClearField(field)
            expected.ClearField(field)
    assert str(mine) == str(caffes)  # all but the numbers, to the letter


def _blobs(message: Any) -> list[Any]:
    if hasattr(message, "history"):
        return list(message.history)
    return [blob for layer in message.layer for blob in layer.blobs]


@pytest.mark.parametrize("golden", SNAPSHOTS, ids=str)
def test_training_goes_on_from_real_caffes_snapshot(make_solver: Build, folder: Path, golden: Behaviour) -> None:
    for name in golden.settings["files"]:
        (folder / name).write_bytes(contents(golden, name))
    solver = make_solver(golden)
    solver.restore(next(name for name in golden.settings["files"] if ".solverstate" in name))
    assert solver.iter == golden.settings["iter"]
    assert solver.lr == pytest.approx(golden.settings["lr"])
    feed(solver, golden)
    solver.step(3)
    assert_all_close(parameters_of(solver.net, "restored_"), golden)


def test_an_iteration_by_hand(make_solver: Build) -> None:
    golden = BY_NAME["solver/by_hand"]
    solver = make_solver(golden)
    for _ in range(3):
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        solver.apply_update()
    assert (solver.iter, solver.lr) == (golden.settings["iter"], pytest.approx(golden.settings["lr"]))
    assert_all_close(parameters_of(solver.net), golden)
    diffs = {name: value for name, value in diffs_of(solver.net).items() if name.startswith("parameter")}
    assert_all_close(diffs, golden)


def test_a_solvers_weights_are_shared_and_changed_between_steps(
    caffe: ModuleType, make_solver: Build, folder: Path
) -> None:
    golden = BY_NAME["solver/shared_and_changed"]
    solver = make_solver(golden)
    (folder / "deploy.prototxt").write_text(golden.settings["prototxt"])
    deployed = caffe.Net("deploy.prototxt", caffe.TEST)
    solver.share_weights(deployed)
    solver.step(2)
    assert_close(deployed.params["fc1"][0].data, golden.arrays["shared_fc1"])
    solver.net.params["fc1"][0].data[...] = 0.25
    solver.net.params["fc2"][1].diff[...] = 1
    solver.step(1)
    assert_close(deployed.params["fc1"][0].data, golden.arrays["deployed_fc1"])
    assert_all_close(parameters_of(solver.net), golden)


# Python layers


@of("python_layer")
def test_python_layers_run_in_the_middle_of_a_net(caffe: ModuleType, build: Build, golden: Behaviour) -> None:
    net = build(golden.settings["prototxt"], contents(golden), caffe.TRAIN)
    for name in ("data", "target"):
        net.blobs[name].data[...] = golden.arrays[name]
    net.forward()
    net.backward()
    assert dict(net.blob_loss_weights) == golden.settings["loss_weights"]
    assert_all_close({f"blob_{name}": blob.data for name, blob in net.blobs.items()}, golden)
    assert_all_close(diffs_of(net), golden)


# MemoryData


def test_memory_data_gives_batches_of_the_arrays_and_begins_again(caffe: ModuleType, build: Build) -> None:
    golden = BY_NAME["memory_data"]
    net = build(golden.settings["prototxt"], contents(golden), caffe.TRAIN)
    net.set_input_arrays(golden.arrays["data"].copy(), golden.arrays["labels"].copy())
    for number in range(golden.settings["batches"]):
        net.forward()
        for name in ("data", "label", "loss"):
            assert_close(net.blobs[name].data, golden.arrays[f"{name}_{number}"])


@of("memory_data_refuses")
def test_set_input_arrays_refuses_what_real_caffe_refuses(caffe: ModuleType, build: Build, golden: Behaviour) -> None:
    good = BY_NAME["memory_data"]
    data, labels = good.arrays["data"].copy(), good.arrays["labels"].copy()
    given = {
        "not_contiguous": (data[:, :, :, ::-1], labels),
        "three_axes": (data[0], labels),
        "doubles": (data.astype(np.float64), labels),
        "other_channels": (np.ascontiguousarray(data[:, :2]), labels),
        "other_height": (np.ascontiguousarray(data[:, :, :1]), labels),
        "other_width": (np.ascontiguousarray(data[..., :3]), labels),
        "fewer_labels": (data, labels[:4]),
        "half_a_batch": (data[:5], labels[:5]),
        "doubles_as_labels": (data, labels.astype(np.float64)),
    }
    net = build(golden.settings["prototxt"], phase=caffe.TRAIN)
    with pytest.raises(RuntimeError) as raised:
        net.set_input_arrays(*given[golden.name.partition("/")[2]])
    assert str(raised.value) == golden.settings["text"]


# Exceptions


@pytest.fixture
def attempts(caffe: ModuleType, build: Build, make_solver: Build, folder: Path) -> dict[str, Callable[[], object]]:
    net = build(BY_NAME["error/diff_assigned"].settings["prototxt"])
    solver = make_solver(BY_NAME["solver/steps"])
    frame = np.zeros((2, 3), dtype=np.float32)

    def failing(place: str) -> Any:
        prototxt = BY_NAME["error/diff_assigned"].settings["prototxt"] + (
            'layer { name: "failing" type: "Python" bottom: "out" top: "failed" propagate_down: true '
            f'python_param {{ module: "golden_layers" layer: "Failing" param_str: "{place}" }} }}\n'
        )
        return build(prototxt, phase=caffe.TRAIN)

    def raising_callback() -> None:
        solver.add_callback(lambda: 1 / 0, lambda: None)
        solver.step(1)

    def raising_hook() -> None:
        net.after_forward(lambda place: {}["absent"])
        net.forward()

    return {
        "top_diff_of_wrong_name": lambda: net.backward(absent=frame),
        "top_diff_beside_another": lambda: net.backward(out=frame, fc1=frame),
        "top_diff_of_wrong_batch": lambda: net.backward(out=frame[:1]),
        "top_diff_of_wrong_shape": lambda: net.backward(out=np.zeros((2, 5), dtype=np.float32)),
        "backward_start_unknown": lambda: net.backward(start="absent"),
        "backward_end_unknown": lambda: net.backward(end="absent"),
        "diff_wanted_unknown": lambda: net.backward(diffs=["absent"]),
        "diff_of_wrong_shape": lambda: net.blobs["out"].diff.__setitem__(Ellipsis, np.zeros((3, 3))),
        "diff_assigned": lambda: setattr(net.blobs["out"], "diff", frame),
        "share_with_no_net": lambda: net.share_with("absent"),
        "solver_of_base_class": lambda: caffe._caffe.Solver("solver.prototxt"),
        "solver_without_file": lambda: caffe.SGDSolver(),
        "step_by_words": lambda: solver.step("two"),
        "step_of_nothing": lambda: solver.step(),
        "callback_alone": lambda: solver.add_callback(lambda: None),
        "iter_assigned": lambda: setattr(solver, "iter", 3),
        "lr_assigned": lambda: setattr(solver, "lr", 3),
        "max_iter_assigned": lambda: setattr(solver.param, "max_iter", 3),
        "input_arrays_without_memory_data": lambda: net.set_input_arrays(frame[:, :, None, None], frame[:, 0]),
        "raising_callback": raising_callback,
        "raising_hook": raising_hook,
        "python_layer_raises_in_setup": lambda: failing("setup"),
        "python_layer_raises_in_reshape": lambda: failing("reshape"),
        "python_layer_raises_in_forward": lambda: failing("forward").forward(),
        "python_layer_raises_in_backward": lambda: failing("backward").backward(),
    }


BOOST = "Python argument types in"  # how Boost.Python's texts begin; they name C++ signatures
NUMPYS_OWN = ("could not broadcast", "can't set attribute")  # Python's and numpy's words differ between versions


@of("error")
def test_what_raises_in_real_pycaffe_raises_the_same(
    attempts: dict[str, Callable[[], object]], golden: Behaviour
) -> None:
    with pytest.raises(Exception) as raised:  # the kind is compared below
        attempts[golden.name.partition("/")[2]]()
    kinds = [kind.__name__ for kind in type(raised.value).__mro__]
    # Boost.Python.ArgumentError is a TypeError, which is what a program can name.
    wanted = "TypeError" if golden.settings["type"] == "ArgumentError" else golden.settings["type"]
    assert wanted in kinds
    if not golden.settings["text"].startswith((BOOST, *NUMPYS_OWN)):
        assert str(raised.value) == golden.settings["text"]


# Runs


RUNS = {run.name: run for run in training_runs()}


@pytest.fixture(params=["sgd_step", "sgd_hdf5", "adam_everything", "batch_norm", "siamese", "two_test_nets", "alone"])
def stepped(caffe: ModuleType, request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[TrainingRun, Any]]:
    run = RUNS[request.param]
    yield run, started(caffe, run, folder)


def started(caffe: ModuleType, run: TrainingRun, folder: Path) -> Any:
    (folder / "net.prototxt").write_text(run.network)
    (folder / "solver.prototxt").write_text(f'net: "net.prototxt" {run.solver}')
    solver = caffe.get_solver("solver.prototxt")
    layers = [(layer.type, [tuple(blob.shape) for blob in layer.blobs]) for layer in solver.net.layers]
    for layer, values in zip(solver.net.layers, parameter_values(run.seed, layers), strict=True):
        for blob, value in zip(layer.blobs, values, strict=True):
            blob.data[...] = value
    for place, net in enumerate(solver.test_nets, 1):
        write(net, run, run.stream(place).draw())
    return solver


def write(net: Any, run: TrainingRun, inputs: dict[str, Array]) -> None:
    for name, value in inputs.items():
        net.blobs[name].data[...] = value


def test_a_program_trains_as_on_real_caffe(stepped: tuple[TrainingRun, Any], folder: Path) -> None:
    run, solver = stepped
    stream = run.stream(0)
    while solver.iter < run.iterations:
        write(solver.net, run, stream.draw())
        solver.step(run.stride)
        assert float(solver.net.blobs["loss"].data) == pytest.approx(run.losses[solver.iter - 1], rel=1e-3)
    last = run.states[-1]
    for layer, expected in zip(solver.net.layers, last.parameters, strict=True):
        for blob, values in zip(layer.blobs, expected, strict=True):
            assert values.error(blob.data) <= TOLERANCE
    for name, wanted in run.files.items():
        assert_same_file(folder, name, wanted)


LOGGED = re.compile(r"[IWE]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] ?(.*)")  # glog's head and the text after it
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w.])")


@pytest.mark.parametrize("name", ["solved", "solved_without_snapshot"])
def test_a_program_solves_as_on_real_caffe(
    caffe: ModuleType, folder: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RUNS[name]
    solver = started(caffe, run, folder)
    capfd.readouterr()
    solver.solve()
    logged = [match[1] for match in map(LOGGED.match, capfd.readouterr().err.splitlines()) if match]
    assert solver.iter == run.iterations
    for layer, expected in zip(solver.net.layers, run.states[-1].parameters, strict=True):
        for blob, values in zip(layer.blobs, expected, strict=True):
            assert values.error(blob.data) <= TOLERANCE
    assert sorted(path.name for path in folder.glob("snap_*")) == sorted(run.files)
    timeless = [re.sub(r"\(\S+ iter/s, \S+?s/", "(R iter/s, Ts/", line) for line in logged]
    assert [NUMBER.sub("N", line) for line in timeless] == [NUMBER.sub("N", line) for line in run.log]
