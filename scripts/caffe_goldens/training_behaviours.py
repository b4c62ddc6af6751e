"""What pycaffe shows around training: backward's answers, hooks, sharing, files, callbacks, Python layers, exceptions.

Runs inside the unpacked Debian 11, called by generate.py. Each observation is written with all that was given, so
that a test repeats it on another implementation.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from behaviours import Recorder
from nets import caffe, fill, input_values, np
from seeded_streams import InputStream

NET = """layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "a" top: "fc1" inner_product_param { num_output: 4 } }
layer { name: "tanh1" type: "TanH" bottom: "fc1" top: "tanh1" }
layer { name: "fc2" type: "InnerProduct" bottom: "tanh1" top: "out" inner_product_param { num_output: 3 } }
"""
FORCED = "force_backward: true\n" + NET
OTHER = NET.replace('"fc2"', '"fc3"')
TRAINED = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "target" type: "Input" top: "target" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1" inner_product_param { num_output: 5 } }
layer { name: "act" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "target" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 4 momentum: 0.9 weight_decay: 0.01
max_iter: 12 snapshot_prefix: "snap" display: 0
"""
PYTHON_LAYERS = '''import json

import caffe
import numpy as np


class Scaled(caffe.Layer):
    """Multiplies by a factor given as param_str, and learns an offset."""

    def setup(self, bottom, top):
        self.factor = json.loads(self.param_str)["factor"] if self.param_str else 2.0
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 0.5

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data + self.blobs[0].data[0]

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.factor * top[0].diff


class Distance(caffe.Layer):
    """A loss: half the mean squared distance of two bottoms."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("a distance is between two")

    def reshape(self, bottom, top):
        self.difference = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference**2).sum() / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for place, sign in ((0, 1), (1, -1)):
            if propagate_down[place]:
                bottom[place].diff[...] = sign * top[0].diff[0] * self.difference / bottom[place].num


class Phase(caffe.Layer):
    """Shows the phase that it runs in."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase

    def backward(self, top, propagate_down, bottom):
        pass


class Failing(caffe.Layer):
    """Raises where its param_str says."""

    def setup(self, bottom, top):
        self._fail("setup")

    def reshape(self, bottom, top):
        self._fail("reshape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        self._fail("forward")

    def backward(self, top, propagate_down, bottom):
        self._fail("backward")

    def _fail(self, place):
        if self.param_str == place:
            raise KeyError("in " + place)
'''


def write(refused: list[dict], folder: Path) -> None:
    record = Recorder()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # so that file names in exceptions are bare
        sys.path.insert(0, scratch)
        Path("golden_layers.py").write_text(PYTHON_LAYERS)
        for observe in (
            _backwards,
            _accumulation,
            _hooks,
            _sharing,
            _files,
            _solvers,
            _python_layers,
            _memory,
            _errors,
        ):
            observe(record)
        found = [_refusal(case) for case in refused]
        os.chdir(before)
    record.save(folder / "pycaffe_training.npz")
    (folder / "refused_solvers.json").write_text(json.dumps(found, indent=1) + "\n")


def _net(prototxt: str, seed: int, phase: int = caffe.TEST) -> tuple[caffe.Net, bytes]:
    Path("net.prototxt").write_text(prototxt)
    net = caffe.Net("net.prototxt", phase)
    fill(net, seed)
    net.save("net.caffemodel")
    return net, Path("net.caffemodel").read_bytes()


def _diffs(net: caffe.Net) -> dict[str, np.ndarray]:
    return {**{f"blob_diff_{name}": blob.diff for name, blob in net.blobs.items()}, **_parameter_diffs(net)}


def _parameter_diffs(net: caffe.Net) -> dict[str, np.ndarray]:
    return {
        f"parameter_diff_{name}_{place}": blob.diff.copy()
        for name, blobs in net.params.items()
        for place, blob in enumerate(blobs)
    }


def _backwards(record: Recorder) -> None:
    """backward's answers and its partial forms; diffs are all that net.blobs and net.params hold after the call."""
    given = input_values(4001, [(2, 3), (2, 3), (2, 4)])
    forms = {
        "plain": {}, "diffs": {"diffs": ["tanh1", "fc1"]}, "start": {"start": "tanh1"}, "end": {"end": "tanh1"},
        "start_and_end": {"start": "tanh1", "end": "tanh1"}, "end_and_diffs": {"end": "fc2", "diffs": ["out"]},
    }  # fmt: skip
    for prototxt, forced in ((NET, ""), (FORCED, "forced_")):
        for name, form in forms.items():
            net, weights = _net(prototxt, 4000)
            net.forward(a=given[0])
            top = {} if "start" in form else {"out": given[1]}
            if not top:
                net.blobs["tanh1"].diff[...] = given[2]
            answer = net.backward(**form, **top)
            arrays = {f"answer_{key}": value for key, value in answer.items()}
            record.add(
                f"backward/{forced}{name}", {"prototxt": prototxt, "keys": sorted(answer), **form}, weights=weights,
                a=given[0], out_diff=given[1], tanh1_diff=given[2], **arrays, **_diffs(net),
            )  # fmt: skip
    net, weights = _net(FORCED, 4010)
    many, tops = input_values(4011, [(5, 3), (5, 3)])
    outs, diffs = net.forward_backward_all(a=many, out=tops, blobs=["fc1"], diffs=["tanh1"])
    record.add("forward_backward_all", {"prototxt": FORCED, "blobs": ["fc1"], "diffs": ["tanh1"]}, weights=weights,
               a=many, out=tops, **{f"blob_{key}": value for key, value in outs.items()},
               **{f"diff_{key}": value for key, value in diffs.items()})  # fmt: skip


def _accumulation(record: Recorder) -> None:
    """Diffs of parameters add up over backward passes until they are cleared; diffs of blobs do not."""
    net, weights = _net(FORCED, 4020)
    first, second, top = input_values(4021, [(2, 3), (2, 3), (2, 3)])
    arrays = {}
    for name, value in (("first", first), ("second", second)):
        net.forward(a=value)
        net.backward(out=top)
        arrays.update({f"{name}_{key}": value.copy() for key, value in _diffs(net).items()})
    net.backward(out=top)
    arrays.update({f"again_{key}": value.copy() for key, value in _diffs(net).items()})
    net.clear_param_diffs()
    arrays.update({f"cleared_{key}": value.copy() for key, value in _diffs(net).items()})
    record.add("accumulation", {"prototxt": FORCED}, weights=weights, a_first=first, a_second=second, out_diff=top,
               **arrays)  # fmt: skip
    trained, weights = _net(TRAINED, 4022, caffe.TRAIN)
    weighted = dict(trained.blob_loss_weights)
    before = float(trained.blobs["loss"].diff)
    record.add("blob_loss_weights", {"prototxt": TRAINED, "weights": weighted, "loss_diff_before_forward": before},
               caffemodel=weights)  # fmt: skip


def _hooks(record: Recorder) -> None:
    """In which order, and with which layer numbers, hooks are called."""
    net, weights = _net(FORCED, 4030)
    calls: list[list[object]] = []
    for name in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, name)(lambda place, name=name: calls.append([name, place]))
    net.forward()
    net.backward()
    whole, calls[:] = list(calls), []
    net.forward(start="tanh1", end="fc2")
    net.backward(start="fc2", end="tanh1")
    record.add("hooks", {"prototxt": FORCED, "calls": whole, "partial_calls": list(calls)}, weights=weights)


def _sharing(record: Recorder) -> None:
    """share_with makes parameters of layers with equal names one memory."""
    other, other_weights = _net(OTHER, 4041)
    net, weights = _net(NET, 4040)
    net.share_with(other)
    other.params["fc1"][0].data[0, 0] = 7
    net.params["fc1"][1].data[1] = -3
    given = input_values(4042, [(2, 3)])[0]
    record.add(
        "share_with", {"prototxt": NET, "other": OTHER}, weights=weights, other_weights=other_weights, a=given,
        fc1_weight=net.params["fc1"][0].data, other_fc1_bias=other.params["fc1"][1].data,
        fc2_weight=net.params["fc2"][0].data, out=net.forward(a=given)["out"],
    )  # fmt: skip


def _files(record: Recorder) -> None:
    """What save and save_hdf5 write, and what loading them into other nets gives."""
    net, weights = _net(NET, 4050)
    net.save_hdf5("net.h5")
    shared = NET.replace('top: "fc1" inner', 'top: "fc1" param { name: "w" } inner').replace(
        'bottom: "tanh1" top: "out"', 'bottom: "tanh1" top: "out" param { name: "w2" }'
    )
    other, _ = _net(OTHER, 4051)
    kept = other.params["fc3"][0].data.copy()
    other.load_hdf5("net.h5")
    record.add("save_hdf5", {"prototxt": NET, "other": OTHER}, weights=weights, hdf5=Path("net.h5").read_bytes(),
               other_fc1_weight=other.params["fc1"][0].data, other_fc3_weight=kept)  # fmt: skip
    named, named_weights = _net(shared, 4052)
    named.save_hdf5("named.h5")
    record.add("save_hdf5_of_named_parameters", {"prototxt": shared}, weights=named_weights,
               hdf5=Path("named.h5").read_bytes())  # fmt: skip
    named_dense = 'type: "InnerProduct" param { name: "w" } inner_product_param { num_output: 3 }'
    siamese = NET.splitlines()[0] + "".join(
        f'\nlayer {{ name: "{name}" bottom: "{bottom}" top: "{name}" {named_dense} }}'
        for name, bottom in (("one", "a"), ("two", "one"))
    )
    twice, twice_weights = _net(siamese, 4053)
    twice.save_hdf5("twice.h5")
    record.add("save_hdf5_of_shared_parameters", {"prototxt": siamese}, weights=twice_weights,
               hdf5=Path("twice.h5").read_bytes())  # fmt: skip


def _solver(text: str = SOLVER, seed: int = 4060) -> tuple[caffe.Solver, bytes]:
    Path("net.prototxt").write_text(TRAINED)
    Path("solver.prototxt").write_text(text)
    solver = caffe.get_solver("solver.prototxt")
    fill(solver.net, seed)
    solver.net.save("start.caffemodel")
    return solver, Path("start.caffemodel").read_bytes()


def _feed(solver: caffe.Solver, seed: int) -> dict[str, np.ndarray]:
    values = InputStream(seed, [("data", (4, 3)), ("target", (4, 2))], 0).draw()
    for name, value in values.items():
        solver.net.blobs[name].data[...] = value
    return values


def _parameters(net: caffe.Net, prefix: str = "") -> dict[str, np.ndarray]:
    return {
        f"{prefix}parameter_{name}_{place}": blob.data.copy()
        for name, blobs in net.params.items()
        for place, blob in enumerate(blobs)
    }


def _solvers(record: Recorder) -> None:
    """Steps, callbacks, snapshot and restore, a hand-driven iteration."""
    solver, weights = _solver()
    inputs = _feed(solver, 4061)
    calls: list[list[object]] = []
    solver.add_callback(
        lambda: calls.append(["on_start", solver.iter]), lambda: calls.append(["on_gradients_ready", solver.iter])
    )
    seen = {"lr": [solver.lr], "iter": [solver.iter]}
    for count in (1, 3, 2):
        solver.step(count)
        seen["lr"].append(solver.lr)
        seen["iter"].append(solver.iter)
    param = solver.param
    settings = {
        "prototxt": TRAINED, "solver": SOLVER, "steps": [1, 3, 2], "calls": calls, **seen,
        "param": {"max_iter": param.max_iter, "display": param.display, "base_lr": param.base_lr,
                  "layer_wise_reduce": param.layer_wise_reduce},
        "type": type(solver).__name__, "test_nets": len(solver.test_nets),
    }  # fmt: skip
    record.add("solver/steps", settings, weights=weights, **inputs, **_parameters(solver.net),
               loss=solver.net.blobs["loss"].data, **_parameter_diffs(solver.net))  # fmt: skip
    _snapshots(record)
    _by_hand(record)
    _weights_of_a_solver(record)


def _snapshots(record: Recorder) -> None:
    for name, text in (("binary", SOLVER), ("hdf5", SOLVER + "snapshot_format: HDF5"),
                       ("with_diffs", SOLVER + "snapshot_diff: true")):  # fmt: skip
        solver, weights = _solver(text)
        inputs = _feed(solver, 4062)
        solver.step(5)
        solver.snapshot()
        files = {path.name: path.read_bytes() for path in sorted(Path().glob("snap_iter_5*"))}
        state = next(file for file in files if ".solverstate" in file)
        solver.step(3)
        again, _ = _solver(text, seed=1)
        again.restore(state)
        restored = {"iter": again.iter, "lr": again.lr}
        _feed(again, 4062)
        again.step(3)
        record.add(
            f"solver/snapshot_{name}", {"prototxt": TRAINED, "solver": text, "files": sorted(files), **restored},
            weights=weights, **inputs, **files, **_parameters(solver.net), **_parameters(again.net, "restored_"),
        )  # fmt: skip
        for file in files:
            Path(file).unlink()


def _by_hand(record: Recorder) -> None:
    """A program that runs forward and backward itself and then applies the update."""
    solver, weights = _solver()
    inputs = _feed(solver, 4063)
    for _ in range(3):
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        solver.apply_update()
    record.add("solver/by_hand", {"prototxt": TRAINED, "solver": SOLVER, "iter": solver.iter, "lr": solver.lr},
               weights=weights, **inputs, **_parameters(solver.net), **_parameter_diffs(solver.net))  # fmt: skip


def _weights_of_a_solver(record: Recorder) -> None:
    """share_weights, copy_from into a solver's net, and parameters changed between steps."""
    solver, weights = _solver()
    inputs = _feed(solver, 4064)
    Path("deploy.prototxt").write_text(TRAINED)
    deployed = caffe.Net("deploy.prototxt", caffe.TEST)
    solver.share_weights(deployed)
    solver.step(2)
    shared = deployed.params["fc1"][0].data.copy()
    solver.net.params["fc1"][0].data[...] = 0.25
    solver.net.params["fc2"][1].diff[...] = 1
    solver.step(1)
    record.add("solver/shared_and_changed", {"prototxt": TRAINED, "solver": SOLVER}, weights=weights, **inputs,
               shared_fc1=shared, deployed_fc1=deployed.params["fc1"][0].data, **_parameters(solver.net))  # fmt: skip


def _python(kind: str, bottoms: str, tops: str, text: str = "", more: str = "") -> str:
    bottom = " ".join(f'bottom: "{name}"' for name in bottoms.split())
    top = " ".join(f'top: "{name}"' for name in tops.split())
    named = f'param_str: "{text}"' if text else ""
    return (
        f'layer {{ name: "{kind.lower()}_{tops}" type: "Python" {bottom} {top} {more} '
        f'python_param {{ module: "golden_layers" layer: "{kind}" {named} }} }}\n'
    )


def _python_layers(record: Recorder) -> None:
    head = TRAINED.split('layer { name: "loss"')[0]
    nets = {
        "in_the_middle": head.replace('bottom: "fc1" top: "fc2"', 'bottom: "scaled" top: "fc2"').replace(
            'layer { name: "fc2"', _python("Scaled", "fc1", "scaled", "{\\\"factor\\\": -3}") + 'layer { name: "fc2"'
        )
        + 'layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "target" top: "loss" }\n',
        "as_loss": head + _python("Distance", "fc2 target", "loss", more="loss_weight: 1"),
        "weighted_loss": head + _python("Distance", "fc2 target", "loss", more="loss_weight: 0.25"),
        "twice": head + _python("Scaled", "fc2", "fc3") + _python("Scaled", "fc3", "fc4")
        + _python("Distance", "fc4 target", "loss", more="loss_weight: 1"),
        "first": _python("Phase", "", "phase") + TRAINED,
    }  # fmt: skip
    for place, (name, prototxt) in enumerate(nets.items()):
        net, weights = _net(prototxt, 4070 + place, caffe.TRAIN)
        inputs = InputStream(4080 + place, [("data", (4, 3)), ("target", (4, 2))], 0).draw()
        for key, value in inputs.items():
            net.blobs[key].data[...] = value
        net.forward()
        net.backward()
        blobs = {f"blob_{key}": blob.data.copy() for key, blob in net.blobs.items()}
        record.add(
            f"python_layer/{name}",
            {"prototxt": prototxt, "module": PYTHON_LAYERS, "loss_weights": dict(net.blob_loss_weights)},
            weights=weights, **inputs, **blobs, **_diffs(net),
        )  # fmt: skip


MEMORY = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 3 height: 2 width: 4 } transform_param { scale: 0.5 } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def _memory(record: Recorder) -> None:
    """set_input_arrays: what it refuses, and the batches of the forward passes after it, which begin again."""
    net, weights = _net(MEMORY, 4092, caffe.TRAIN)
    data = input_values(4093, [(6, 3, 2, 4)])[0]
    labels = np.array([0, 1, 2, 2, 1, 0], dtype=np.float32)
    net.set_input_arrays(data, labels)
    seen = {}
    for number in range(4):
        net.forward()
        seen.update({f"{name}_{number}": net.blobs[name].data.copy() for name in ("data", "label", "loss")})
    record.add("memory_data", {"prototxt": MEMORY, "batches": 4}, weights=weights, data=data, labels=labels, **seen)
    attempts = {
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
    for name, (images, classes) in attempts.items():
        try:
            net.set_input_arrays(images, classes)
        except RuntimeError as error:
            record.add(f"memory_data_refuses/{name}", {"prototxt": MEMORY, "text": str(error)})
        else:
            raise SystemExit(f"training_behaviours.py: pycaffe accepts {name}")


def _errors(record: Recorder) -> None:
    net, weights = _net(FORCED, 4090)
    frame = np.zeros((2, 3), dtype=np.float32)
    solver, _ = _solver()

    def failing(place: str) -> caffe.Net:
        prototxt = NET + _python("Failing", "out", "failed", place, more="propagate_down: true")
        Path("failing.prototxt").write_text("force_backward: true\n" + prototxt)
        return caffe.Net("failing.prototxt", caffe.TRAIN)

    def two_callbacks() -> None:
        solver.add_callback(lambda: None)

    def raising_callback() -> None:
        other, _ = _solver()
        other.add_callback(lambda: 1 / 0, lambda: None)
        other.step(1)

    def raising_hook() -> None:
        other, _ = _net(FORCED, 4091)
        other.after_forward(lambda place: {}["absent"])
        other.forward()

    attempts: dict[str, Callable[[], object]] = {
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
        "callback_alone": two_callbacks,
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
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # every kind is what is being observed
            kinds = [kind.__name__ for kind in type(error).__mro__[:-2]]
            record.add(
                f"error/{name}",
                {"prototxt": FORCED, "trained": TRAINED, "solver": SOLVER, "module": PYTHON_LAYERS, "type": kinds[0],
                 "kinds": kinds, "text": str(error)},
                weights=weights,
            )  # fmt: skip
        else:
            raise SystemExit(f"training_behaviours.py: pycaffe accepts {name}")


def _refusal(case: dict) -> dict:
    """Run a solver that ends the process, in a process of its own, and keep what it said last."""
    child = subprocess.run(
        [sys.executable, __file__], input=json.dumps(case), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    lines = [line for line in child.stderr.splitlines() if re.match(r"F\d{4} ", line)]
    if not lines or child.returncode != -signal.SIGABRT:
        raise SystemExit(f"training_behaviours.py: Caffe accepts {case['name']}: {child.stderr[-600:]}")
    message = re.sub(r" \(0x\w+ vs\. 0x\w+\)", "", lines[0].split("] ", 1)[1].strip())
    return {**case, "message": re.sub(r"/\S+/", "", message)}


def _refuse() -> None:
    case = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        Path("net.prototxt").write_text(case["network"])
        Path("solver.prototxt").write_text(case["solver"])
        solver = caffe.get_solver("solver.prototxt")
        solver.step(3)


if __name__ == "__main__":
    _refuse()
