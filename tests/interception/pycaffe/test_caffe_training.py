"""pycaffe around training: every observation of real Caffe's backward, hooks, sharing, files and Python layers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from goldens.caffe_goldens import Array, Behaviour
from goldens.training_goldens import training_behaviours

TOLERANCE = 1e-5  # forward, of the largest value
BACKWARD_TOLERANCE = 1e-4

BY_KIND: dict[str, list[Behaviour]] = {}
for _each in training_behaviours():
    BY_KIND.setdefault(_each.name.partition("/")[0], []).append(_each)


def of(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("golden", BY_KIND[kind], ids=str)


def named(name: str) -> Behaviour:
    (found,) = [each for each in training_behaviours() if each.name == name]
    return found


def assert_close(actual: Array, wanted: Array, tolerance: float = BACKWARD_TOLERANCE) -> None:
    assert np.shape(actual) == wanted.shape
    assert np.abs(actual - wanted).max(initial=0) <= tolerance * np.abs(wanted).max(initial=0)


def assert_diffs(net: Any, golden: Behaviour, prefix: str = "") -> None:
    for key, wanted in golden.arrays.items():
        if key.startswith(f"{prefix}blob_diff_"):
            assert_close(net.blobs[key.removeprefix(f"{prefix}blob_diff_")].diff, wanted)
        if key.startswith(f"{prefix}parameter_diff_"):
            layer, _, place = key.removeprefix(f"{prefix}parameter_diff_").rpartition("_")
            assert_close(net.params[layer][int(place)].diff, wanted)


@pytest.fixture
def load(caffe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Build a net in the working directory, whose name files do not show."""
    monkeypatch.chdir(tmp_path)

    def make(prototxt: str, weights: Array | None = None, phase: int = caffe.TEST) -> Any:
        Path("net.prototxt").write_text(prototxt)
        if weights is None:
            return caffe.Net("net.prototxt", phase)
        Path("net.caffemodel").write_bytes(weights.tobytes())
        return caffe.Net("net.prototxt", phase, weights="net.caffemodel")

    return make


@pytest.fixture
def layers(caffe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module with the application's own layers can be imported."""
    (tmp_path / "golden_layers.py").write_text(BY_KIND["python_layer"][0].settings["module"])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("golden_layers", None)


@of("backward")
def test_backward(load: Callable[..., Any], golden: Behaviour) -> None:
    settings, arrays = golden.settings, golden.arrays
    net = load(settings["prototxt"], arrays["weights"])
    net.forward(a=arrays["a"])
    form = {key: settings[key] for key in ("diffs", "start", "end") if key in settings}
    top = {} if "start" in form else {"out": arrays["out_diff"]}
    if not top:
        net.blobs["tanh1"].diff[...] = arrays["tanh1_diff"]
    answer = net.backward(**form, **top)
    assert sorted(answer) == settings["keys"]
    for name, diff in answer.items():
        assert_close(diff, arrays[f"answer_{name}"])
    assert_diffs(net, golden)


def test_forward_backward_all(load: Callable[..., Any]) -> None:
    golden = named("forward_backward_all")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    wanted = {key: golden.settings[key] for key in ("blobs", "diffs")}
    blobs, diffs = net.forward_backward_all(a=golden.arrays["a"], out=golden.arrays["out"], **wanted)
    assert {f"blob_{name}" for name in blobs} | {f"diff_{name}" for name in diffs} == {
        key for key in golden.arrays if key.startswith(("blob_", "diff_"))
    }
    for name, rows in blobs.items():
        assert_close(rows, golden.arrays[f"blob_{name}"], TOLERANCE)
    for name, rows in diffs.items():
        assert_close(rows, golden.arrays[f"diff_{name}"])


def test_parameter_diffs_add_up_until_they_are_cleared(load: Callable[..., Any]) -> None:
    golden = named("accumulation")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    for name in ("first", "second"):
        net.forward(a=golden.arrays[f"a_{name}"])
        net.backward(out=golden.arrays["out_diff"])
        assert_diffs(net, golden, f"{name}_")
    net.backward(out=golden.arrays["out_diff"])
    assert_diffs(net, golden, "again_")
    net.clear_param_diffs()
    assert_diffs(net, golden, "cleared_")


def test_views_of_diffs_follow_the_net(load: Callable[..., Any]) -> None:
    golden = named("accumulation")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    views = {name: net.blobs[name].diff for name in net.blobs}
    weight = net.params["fc1"][0].diff
    net.forward(a=golden.arrays["a_first"])
    net.backward(out=golden.arrays["out_diff"])
    for name, view in views.items():
        assert_close(view, golden.arrays[f"first_blob_diff_{name}"])
    assert_close(weight, golden.arrays["first_parameter_diff_fc1_0"])
    net.clear_param_diffs()
    assert not weight.any()


def test_what_is_written_into_a_parameters_diff_is_added_to(load: Callable[..., Any]) -> None:
    golden = named("accumulation")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    net.params["fc1"][1].diff[...] = 5
    net.forward(a=golden.arrays["a_first"])
    net.backward(out=golden.arrays["out_diff"])
    assert_close(net.params["fc1"][1].diff, golden.arrays["first_parameter_diff_fc1_1"] + 5)


def test_blob_loss_weights(caffe: ModuleType, load: Callable[..., Any]) -> None:
    golden = named("blob_loss_weights")
    net = load(golden.settings["prototxt"], golden.arrays["caffemodel"], caffe.TRAIN)
    assert dict(net.blob_loss_weights) == golden.settings["weights"]
    assert list(net._blob_loss_weights) == list(golden.settings["weights"].values())
    assert net.blobs["loss"].diff == golden.settings["loss_diff_before_forward"]


def test_private_forward_gives_the_loss(caffe: ModuleType, load: Callable[..., Any]) -> None:
    golden = named("blob_loss_weights")
    net = load(golden.settings["prototxt"], golden.arrays["caffemodel"], caffe.TRAIN)
    net.blobs["data"].data[...] = 1
    loss = net._forward(0, len(net.layers) - 1)
    assert loss > 0
    assert loss == net.blobs["loss"].data
    assert net._backward(len(net.layers) - 1, 0) is None


def test_hooks(load: Callable[..., Any]) -> None:
    golden = named("hooks")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
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


def test_a_hook_sees_and_changes_what_the_next_layer_reads(load: Callable[..., Any]) -> None:
    golden = named("hooks")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    names = list(net._layer_names)
    seen = []

    def change(place: int) -> None:
        if names[place] == "fc1":
            seen.append(net.blobs["fc1"].data.copy())
            net.blobs["fc1"].data[...] = 0

    net.after_forward(change)
    net.forward(a=np.ones((2, 3), np.float32))
    assert seen[0].any()
    assert not net.blobs["tanh1"].data.any()


def test_share_with(load: Callable[..., Any]) -> None:
    golden = named("share_with")
    other = load(golden.settings["other"], golden.arrays["other_weights"])
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    net.share_with(other)
    other.params["fc1"][0].data[0, 0] = 7
    net.params["fc1"][1].data[1] = -3
    assert_close(net.params["fc1"][0].data, golden.arrays["fc1_weight"], TOLERANCE)
    assert_close(other.params["fc1"][1].data, golden.arrays["other_fc1_bias"], TOLERANCE)
    assert_close(net.params["fc2"][0].data, golden.arrays["fc2_weight"], TOLERANCE)
    assert_close(net.forward(a=golden.arrays["a"])["out"], golden.arrays["out"], TOLERANCE)


def test_shared_parameters_outlive_the_net_that_lent_them(load: Callable[..., Any]) -> None:
    golden = named("share_with")
    other = load(golden.settings["other"], golden.arrays["other_weights"])
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    net.share_with(other)
    lent = other.params["fc1"][0].data.copy()
    del other
    np.testing.assert_array_equal(net.params["fc1"][0].data, lent)
    net.params["fc1"][0].data[...] = 0
    net.params["fc1"][1].data[...] = 0
    net.forward(a=golden.arrays["a"])
    assert not net.blobs["fc1"].data.any()


@of("save_hdf5")
def test_save_hdf5(load: Callable[..., Any], golden: Behaviour) -> None:
    check_hdf5(load, golden)


@of("save_hdf5_of_named_parameters")
def test_save_hdf5_of_named_parameters(load: Callable[..., Any], golden: Behaviour) -> None:
    check_hdf5(load, golden)


@of("save_hdf5_of_shared_parameters")
def test_save_hdf5_of_shared_parameters(load: Callable[..., Any], golden: Behaviour) -> None:
    check_hdf5(load, golden)


def check_hdf5(load: Callable[..., Any], golden: Behaviour) -> None:
    h5py = pytest.importorskip("h5py")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    net.save_hdf5("saved.h5")
    Path("caffes.h5").write_bytes(golden.arrays["hdf5"].tobytes())
    assert contents(h5py, "saved.h5") == contents(h5py, "caffes.h5")


def contents(h5py: ModuleType, name: str) -> dict[str, object]:
    found: dict[str, object] = {}
    with h5py.File(name) as root:
        root.visititems(lambda key, item: found.update({key: item[()].tolist() if hasattr(item, "shape") else None}))
    return found


def test_load_hdf5(load: Callable[..., Any]) -> None:
    pytest.importorskip("h5py")
    golden = named("save_hdf5")
    net = load(golden.settings["other"])
    kept = net.params["fc3"][0].data.copy()
    Path("caffes.h5").write_bytes(golden.arrays["hdf5"].tobytes())
    net.load_hdf5("caffes.h5")
    assert_close(net.params["fc1"][0].data, golden.arrays["other_fc1_weight"], TOLERANCE)
    np.testing.assert_array_equal(net.params["fc3"][0].data, kept)
    net.params["fc1"][0].data[...] = 0
    net.copy_from("caffes.h5")
    assert_close(net.params["fc1"][0].data, golden.arrays["other_fc1_weight"], TOLERANCE)


def test_save_writes_what_real_caffe_writes(load: Callable[..., Any]) -> None:
    golden = named("hooks")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    net.save("saved.caffemodel")
    assert Path("saved.caffemodel").read_bytes() == golden.arrays["weights"].tobytes()


@of("python_layer")
@pytest.mark.usefixtures("layers")
def test_python_layer(caffe: ModuleType, load: Callable[..., Any], golden: Behaviour) -> None:
    net = load(golden.settings["prototxt"], golden.arrays["weights"], caffe.TRAIN)
    assert dict(net.blob_loss_weights) == golden.settings["loss_weights"]
    for name in ("data", "target"):
        net.blobs[name].data[...] = golden.arrays[name]
    net.forward()
    net.backward()
    for name, blob in net.blobs.items():
        assert_close(blob.data, golden.arrays[f"blob_{name}"], TOLERANCE)
    assert_diffs(net, golden)


@pytest.mark.usefixtures("layers")
def test_what_setup_writes_into_a_parameter_is_its_content_without_weights(
    caffe: ModuleType, load: Callable[..., Any]
) -> None:
    net = load(named("python_layer/in_the_middle").settings["prototxt"], None, caffe.TRAIN)
    (layer,) = [layer for layer in net.layers if layer.type == "Python"]
    assert layer.blobs[0].data[0] == 0.5
    assert layer.param_str == '{"factor": -3}'
    assert layer.phase == caffe.TRAIN
    net.blobs["data"].data[...] = 1
    net.forward()
    np.testing.assert_allclose(net.blobs["scaled"].data, -3 * net.blobs["fc1"].data + 0.5, rtol=1e-5)


ATTEMPTS: dict[str, Callable[[Any, Any, Array], object]] = {
    "top_diff_of_wrong_name": lambda net, solver, frame: net.backward(absent=frame),
    "top_diff_beside_another": lambda net, solver, frame: net.backward(out=frame, fc1=frame),
    "top_diff_of_wrong_batch": lambda net, solver, frame: net.backward(out=frame[:1]),
    "top_diff_of_wrong_shape": lambda net, solver, frame: net.backward(out=np.zeros((2, 5), dtype=np.float32)),
    "backward_start_unknown": lambda net, solver, frame: net.backward(start="absent"),
    "backward_end_unknown": lambda net, solver, frame: net.backward(end="absent"),
    "diff_wanted_unknown": lambda net, solver, frame: net.backward(diffs=["absent"]),
    "diff_of_wrong_shape": lambda net, solver, frame: net.blobs["out"].diff.__setitem__(..., np.zeros((3, 3))),
    "diff_assigned": lambda net, solver, frame: setattr(net.blobs["out"], "diff", frame),
    "share_with_no_net": lambda net, solver, frame: net.share_with("absent"),
    "solver_of_base_class": lambda net, solver, frame: sys.modules["caffe"]._caffe.Solver("solver.prototxt"),
    "solver_without_file": lambda net, solver, frame: sys.modules["caffe"].SGDSolver(),
    "step_by_words": lambda net, solver, frame: solver.step("two"),
    "step_of_nothing": lambda net, solver, frame: solver.step(),
    "callback_alone": lambda net, solver, frame: solver.add_callback(lambda: None),
    "iter_assigned": lambda net, solver, frame: setattr(solver, "iter", 3),
    "lr_assigned": lambda net, solver, frame: setattr(solver, "lr", 3),
    "max_iter_assigned": lambda net, solver, frame: setattr(solver.param, "max_iter", 3),
    "input_arrays_without_memory_data": lambda net, solver, frame: net.set_input_arrays(
        frame[:, :, None, None], frame[:, 0]
    ),
    "raising_callback": lambda net, solver, frame: (
        solver.add_callback(lambda: 1 / 0, lambda: None),
        solver.step(1),
    ),
    "raising_hook": lambda net, solver, frame: (net.after_forward(lambda place: {}["absent"]), net.forward()),
}
BOOST_TYPES = {"ArgumentError": TypeError}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_exception(caffe: ModuleType, load: Callable[..., Any], name: str) -> None:
    golden = named(f"error/{name}")
    load(golden.settings["trained"])
    Path("solver.prototxt").write_text(golden.settings["solver"])
    solver = caffe.get_solver("solver.prototxt")
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    with pytest.raises(Exception) as raised:
        ATTEMPTS[name](net, solver, np.zeros((2, 3), np.float32))
    kind = golden.settings["type"]
    if kind in BOOST_TYPES:
        assert isinstance(raised.value, BOOST_TYPES[kind])
        return
    assert type(raised.value).__name__ == kind
    if kind != "AttributeError":  # Python words these anew in each version
        assert str(raised.value) == golden.settings["text"]


@pytest.mark.parametrize("place", ["setup", "reshape", "forward", "backward"])
@pytest.mark.usefixtures("layers")
def test_what_a_python_layer_raises_passes(caffe: ModuleType, load: Callable[..., Any], place: str) -> None:
    golden = named(f"error/python_layer_raises_in_{place}")
    text = golden.settings["prototxt"] + (
        'layer { name: "failing" type: "Python" bottom: "out" top: "failed" propagate_down: true '
        f'python_param {{ module: "golden_layers" layer: "Failing" param_str: "{place}" }} }}\n'
    )

    def run() -> None:
        net = load(text, None, caffe.TRAIN)
        if place == "forward":
            net.forward()
        net.backward()

    with pytest.raises(KeyError) as raised:
        run()
    assert str(raised.value) == golden.settings["text"]


def test_a_net_saves_the_parameters_that_it_shares(load: Callable[..., Any]) -> None:
    golden = named("share_with")
    other = load(golden.settings["other"], golden.arrays["other_weights"])
    net = load(golden.settings["prototxt"], golden.arrays["weights"])
    net.share_with(other)
    net.params["fc2"][0].data[...] = 3
    for value in (1, 2):
        other.params["fc1"][0].data[...] = value
        net.save("shared.caffemodel")
        found = load(golden.settings["prototxt"])
        found.copy_from("shared.caffemodel")
        assert (found.params["fc1"][0].data == value).all()
        assert (found.params["fc2"][0].data == 3).all()


def test_parameters_that_are_shared_twice_over(load: Callable[..., Any]) -> None:
    golden = named("share_with")
    first, second, third = (load(golden.settings["prototxt"], golden.arrays["weights"]) for _ in range(3))
    second.share_with(first)
    third.share_with(second)
    for name in ("fc1", "fc2"):
        for blob in first.params[name]:
            blob.data[...] = 0
    assert not third.forward(a=golden.arrays["a"])["out"].any()
