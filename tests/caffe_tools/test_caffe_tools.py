"""`python -m avec.caffe`: each command against a real destination, its exit statuses, signals, and one-line errors."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avec.formats.caffe.message import Message, message_class
from destinations import Destination
from launching import AVEC, environ, execute

TOOL = (sys.executable, "-m", "avec.caffe")

# Learns t = 0.5 from x = 1; the phases differ in nothing but the batch. The weighted loss begins at (0.3 - 0.5)².
NET = """name: "small"
layer { name: "data" type: "DummyData" top: "x" top: "t" include { phase: TRAIN not_stage: "double" }
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 }
    data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 0.5 } } }
layer { name: "data" type: "DummyData" top: "x" top: "t" include { stage: "double" }
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 }
    data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 1.3 } } }
layer { name: "data" type: "DummyData" top: "x" top: "t" include { phase: TEST not_stage: "double" }
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 1 }
    data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 0.5 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
  inner_product_param { num_output: 1 weight_filler { type: "constant" value: 0.1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "t" top: "loss" loss_weight: 2 }
layer { name: "silent" type: "Silence" bottom: "x" include { stage: "silent" } }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 momentum: 0.5 lr_policy: "fixed" max_iter: 20 display: 10
test_iter: 2 test_interval: 10 snapshot: 10 snapshot_prefix: "small"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a net and a solver in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def variables(destination: Destination) -> dict[str, str]:
    return environ(AVEC_DESTINATION=destination.url, AVEC_CACHE_DIR=os.path.abspath("host"))


def tool(destination: Destination, *arguments: str) -> tuple[int, str, list[str]]:
    """Run a command; its status, its stdout, and what it logged without glog's heads."""
    status, stdout, stderr = execute(*TOOL, *arguments, variables=variables(destination))
    return status, stdout, [re.sub(r"^I\d{4} .*?\] ", "", line) for line in stderr.splitlines()]


def parameters(caffemodel: str) -> list[float]:
    (layer,) = (each for each in _net(caffemodel).layer if each.name == "fc")
    return [float(value) for blob in layer.blobs for value in blob.data]


def _net(caffemodel: str) -> Message:
    return message_class("NetParameter").from_wire(Path(caffemodel).read_bytes(), caffemodel)


def test_time_tells_every_layer(destination: Destination) -> None:
    status, stdout, lines = tool(destination, "time", "-model", "net.prototxt", "-iterations=3")
    assert (status, stdout) == (0, "")
    assert lines[:5] == [
        "Performing Forward",
        "Initial loss: 0.04",
        "Performing Backward",
        "*** Benchmark begins ***",
        "Testing for 3 iterations.",
    ]
    assert lines[-1] == "*** Benchmark ends ***"
    for layer in ("data", "fc", "loss"):
        for way in ("forward", "backward"):
            (found,) = (line for line in lines if re.fullmatch(rf" *{layer}\t{way}: [\d.e-]+ ms\.", line))
            assert 0 < float(found.split()[-2]) < 1000
    for what in ("Average Forward pass", "Average Backward pass", "Average Forward-Backward", "Total Time"):
        assert len([line for line in lines if line.startswith(f"{what}: ")]) == 1


def test_time_runs_the_phase_and_stages_that_are_named(destination: Destination) -> None:
    status, _, lines = tool(
        destination,
        "time",
        "--model",
        "net.prototxt",
        "--phase",
        "TEST",
        "--stage",
        "double,silent",
        "--iterations",
        "1",
    )
    assert status == 0
    assert "Initial loss: 1" in lines
    assert any("silent\tforward" in line for line in lines)


def test_time_counts_layers_of_the_host_s_by_their_time_here(destination: Destination) -> None:
    Path("mine.py").write_text(
        "import caffe, time\nclass Slow(caffe.Layer):\n"
        "    def reshape(self, bottom, top):\n        top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top):\n        time.sleep(0.03)\n        top[0].data[...] = bottom[0].data\n"
        "    def backward(self, top, propagate_down, bottom):\n        pass\n"
    )
    slow = 'layer { name: "slow" type: "Python" bottom: "x" top: "y" python_param { module: "mine" layer: "Slow" } }\n'
    before, after = NET.replace('bottom: "x" top: "fc"', 'bottom: "y" top: "fc"').split('layer { name: "fc"')
    Path("net.prototxt").write_text(f'{before}{slow}layer {{ name: "fc"{after}')
    status, _, lines = tool(destination, "time", "--model", "net.prototxt", "--iterations", "2")
    assert status == 0
    times = {line.split()[0]: float(line.split()[-2]) for line in lines if "\tforward: " in line}
    assert times["slow"] >= 30
    assert times["fc"] < 30


def test_test_averages_the_outputs(destination: Destination) -> None:
    assert tool(destination, "train", "--solver", "solver.prototxt")[0] == 0
    loss = 0.5 * (sum(parameters("small_iter_20.caffemodel")) - 0.5) ** 2
    status, stdout, lines = tool(
        destination, "test", "--model", "net.prototxt", "--weights", "small_iter_20.caffemodel", "--iterations", "2"
    )
    assert (status, stdout, lines[0]) == (0, "", "Running for 2 iterations.")
    values = [float(line.rpartition(" = ")[2]) for line in lines[1:3]]
    assert [line.rpartition(" = ")[0] for line in lines[1:3]] == ["Batch 0, loss", "Batch 1, loss"]
    assert values == pytest.approx([loss, loss], rel=1e-3)
    assert lines[3].startswith("Loss: ")
    assert float(lines[3].split()[1]) == pytest.approx(2 * loss, rel=1e-3)
    assert re.fullmatch(r"loss = \S+ \(\* 2 = \S+ loss\)", lines[4])


def test_train_trains_as_the_solver_says(destination: Destination) -> None:
    status, stdout, lines = tool(destination, "train", "--solver", "solver.prototxt")
    assert (status, stdout) == (0, "")
    assert lines[:3] == ["Starting Optimization", "Solving small", "Learning Rate Policy: fixed"]
    assert lines[-1] == "Optimization Done."
    shown = [line.split(" (")[0] for line in lines if re.match(r"Iteration \d+( \(|, loss)", line)]
    assert [line.split(",")[0] for line in shown] == ["Iteration 0", "Iteration 10", "Iteration 20"]
    tests = [line for line in lines if "Testing net" in line]
    assert tests == [f"Iteration {iteration}, Testing net (#0)" for iteration in (0, 10, 20)]
    written = {path.name for path in Path().glob("small_iter_*")}
    assert written == {f"small_iter_{n}.{kind}" for n in (10, 20) for kind in ("caffemodel", "solverstate")}
    assert sum(parameters("small_iter_20.caffemodel")) == pytest.approx(0.5, abs=0.05)


def test_train_goes_on_from_a_snapshot(destination: Destination) -> None:
    assert tool(destination, "train", "--solver", "solver.prototxt")[0] == 0
    straight = parameters("small_iter_20.caffemodel")
    Path("small_iter_20.caffemodel").unlink()
    status, _, lines = tool(
        destination, "train", "--solver", "solver.prototxt", "--snapshot", "small_iter_10.solverstate"
    )
    assert status == 0
    assert "Restoring previous solver status from small_iter_10.solverstate" in lines
    assert parameters("small_iter_20.caffemodel") == straight


def test_train_begins_with_weights_and_in_the_stage_that_is_named(destination: Destination) -> None:
    assert tool(destination, "train", "--solver", "solver.prototxt")[0] == 0
    learnt = sum(parameters("small_iter_20.caffemodel"))
    status, _, lines = tool(
        destination,
        "train",
        "--solver",
        "solver.prototxt",
        "--weights",
        "small_iter_20.caffemodel",
        "--stage",
        "double",
    )
    assert status == 0
    (first,) = (line for line in lines if re.match(r"Iteration 0 \(.*loss = ", line))
    assert float(first.rpartition(" = ")[2]) == pytest.approx((learnt - 1.3) ** 2, rel=1e-3)


def test_the_loss_is_smoothed_as_in_one_run(destination: Destination) -> None:
    Path("solver.prototxt").write_text(SOLVER + "average_loss: 5\n")
    together = [line for line in tool(destination, "train", "--solver", "solver.prototxt")[2] if ", loss = " in line]
    code = "import caffe; caffe.get_solver('solver.prototxt').step(20)"
    alone = execute(*AVEC, "run", "-c", code, variables=variables(destination))[2].splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in alone if ", loss = " in line]
    assert [float(line.rpartition(" ")[2]) for line in together[:2]] == pytest.approx(losses, rel=1e-5)


def test_the_rates_displayed_are_those_of_all_iterations_in_between(destination: Destination) -> None:
    Path("mine.py").write_text(
        "import caffe, time\nclass Slow(caffe.Layer):\n    def setup(self, bottom, top):\n        top[0].reshape(1)\n"
        "    def forward(self, bottom, top):\n        time.sleep(0.02)\n"
    )
    slow = 'layer { name: "slow" type: "Python" top: "y" python_param { module: "mine" layer: "Slow" } }\n'
    Path("net.prototxt").write_text(slow + NET)
    status, _, lines = tool(destination, "train", "--solver", "solver.prototxt")
    assert status == 0
    (rate,) = (float(found[1]) for line in lines if (found := re.match(r"Iteration 10 \((\S+) iter/s", line)))
    assert 5 < rate < 50


@contextlib.contextmanager
def training(destination: Destination, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A training without an end, which has begun."""
    Path("solver.prototxt").write_text(
        SOLVER.replace("max_iter: 20", "max_iter: 100000000").replace("snapshot: 10", "")
    )
    command = (*TOOL, "train", "--solver", "solver.prototxt", *arguments)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables(destination)) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "Iteration 10 " in line)
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_a_training_after_a_snapshot(destination: Destination) -> None:
    with training(destination) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0
    assert stderr.rstrip().endswith("Optimization stopped early.")
    (state,) = Path().glob("small_iter_*.solverstate")
    assert state.with_suffix(".caffemodel").is_file()


def test_sighup_writes_a_snapshot_and_ctrl_c_may_be_made_to(destination: Destination) -> None:
    with training(destination, "--sigint_effect", "snapshot", "--sighup_effect", "stop") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        next(line for line in process.stderr if "Snapshotting solver state" in line)
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0
    assert stderr.rstrip().endswith("Optimization stopped early.")
    assert len(list(Path().glob("small_iter_*.solverstate"))) == 2


def test_a_terminal_gets_a_progress_bar(destination: Destination) -> None:
    ours, theirs = pty.openpty()
    command = (*TOOL, "train", "--solver", "solver.prototxt")
    process = subprocess.Popen(
        command, stderr=theirs, env={**variables(destination), "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO at the end
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    assert b"20/20" in shown and b"it/s, loss" in shown and b"Optimization Done." in shown


def test_device_query_names_the_accelerator(destination: Destination) -> None:
    status, stdout, lines = tool(destination, "device_query")
    assert (status, lines) == (0, [])
    assert re.fullmatch(rf"Device id: 0\nName: .+ \((cpu|cuda), \d+ GiB\)\nDestination: {destination.url}\n", stdout)


def test_under_avec_run_it_computes_where_that_says(destination: Destination) -> None:
    status, stdout, _ = execute(*AVEC, "run", "--on", destination.url, "-m", "avec.caffe", "device_query")
    assert status == 0
    assert destination.url in stdout


def upgrade(*arguments: str) -> tuple[int, str, str]:
    return execute(*TOOL, "upgrade", *arguments, variables=environ())


def test_upgrade_needs_no_destination() -> None:
    Path("old").write_text('input: "x" input_dim: [1, 2, 3, 4] layers { name: "a" type: RELU bottom: "x" top: "y" }')
    assert upgrade("net_proto_text", "old", "new") == (0, "", "")
    found = message_class("NetParameter").from_text(Path("new").read_text(), "new")
    assert [layer.type for layer in found.layer] == ["Input", "ReLU"]


def test_upgrade_of_a_caffemodel_keeps_its_values() -> None:
    net = message_class("NetParameter")()
    old = net.layers.add(name="fc", type=14)  # INNER_PRODUCT
    old.blobs.add(data=[1.0, 2.5])
    Path("old").write_bytes(net.SerializeToString())
    assert upgrade("net_proto_binary", "old", "new") == (0, "", "")
    assert _net("new").layer[0].type == "InnerProduct"
    assert parameters("new") == np.array([1.0, 2.5], np.float32).tolist()


def test_upgrade_of_a_solver_names_its_type() -> None:
    Path("old").write_text('net: "net.prototxt" solver_type: NESTEROV')
    assert upgrade("solver_proto_text", "old", "new") == (0, "", "")
    found = message_class("SolverParameter").from_text(Path("new").read_text(), "new")
    assert (found.type, found.HasField("solver_type")) == ("Nesterov", False)


USAGE = {
    "unknown_command": (["classify"], "No such command 'classify'."),
    "no_model": (["time"], "Missing option '--model'"),
    "no_weights": (["test", "--model", "net.prototxt"], "Missing option '--weights'"),
    "no_solver": (["train"], "Missing option '--solver'"),
    "weights_and_snapshot": (["train", "--solver", "s", "--weights", "w", "--snapshot", "t"], "give one of them"),
    "no_iterations": (["time", "--model", "net.prototxt", "--iterations", "0"], "'--iterations'"),
    "phase": (["time", "--model", "net.prototxt", "--phase", "BOTH"], "'BOTH' is not one of 'TRAIN', 'TEST'"),
    "effect": (["train", "--solver", "s", "--sigint_effect", "die"], "'die' is not one of"),
    "several_gpus": (["device_query", "--gpu", "0,1"], "a session has one accelerator"),
    "two_places": (["device_query", "--local", "--on", "tcp://127.0.0.1:1"], "exclude each other"),
    "no_such_upgrade": (["upgrade", "mean", "a", "b"], "'mean' is not one of"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(name: str, destination: Destination) -> None:
    arguments, text = USAGE[name]
    status, stdout, lines = tool(destination, *arguments)
    assert (status, stdout, len(lines)) == (2, "", 1)
    assert lines[0].startswith("avec.caffe: ")
    assert text in lines[0]


def test_no_destination_is_wrong_usage() -> None:
    status, _, stderr = execute(*TOOL, "device_query", variables=environ(AVEC_CONFIG=os.devnull))
    assert status == 2
    assert stderr.startswith("avec.caffe: no destination to compute at; ")


FAILURES = {
    "no_net": (["time", "--model", "none.prototxt"], "Could not open file none.prototxt"),
    "bad_net": (
        ["time", "--model", "solver.prototxt"],
        "solver.prototxt:1:1: at 'net': NetParameter has no field 'net'",
    ),
    "no_weights": (["test", "--model", "net.prototxt", "--weights", "none"], "Could not open file none"),
    "bad_weights": (["test", "--model", "net.prototxt", "--weights", "net.prototxt"], "net.prototxt: byte 0 "),
    "no_solver": (["train", "--solver", "none"], "none: No such file or directory"),
    "bad_solver": (["train", "--solver", "net.prototxt"], "net.prototxt:1:1: at 'name': SolverParameter has no field"),
    "no_snapshot": (["train", "--solver", "solver.prototxt", "--snapshot", "none"], "Could not open file none"),
    "nowhere": (["device_query", "--on", "tcp://127.0.0.1:1"], "tcp://127.0.0.1:1"),
    "nothing_to_upgrade": (["upgrade", "net_proto_text", "none", "new"], "none: No such file or directory"),
    "upgrade_of_2013": (["upgrade", "net_proto_text", "v0", "new"], "v0: this is a V0 net of 2013"),
    "upgrade_of_a_binary": (["upgrade", "solver_proto_text", "binary", "new"], "binary: byte 0 is not UTF-8"),
    "upgrade_of_both": (["upgrade", "solver_proto_text", "both", "new"], "both: type and the older solver_type"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_line(name: str, destination: Destination) -> None:
    Path("v0").write_text('layers { layer { name: "a" type: "relu" } }')
    Path("binary").write_bytes(b"\xff\xfe")
    Path("both").write_text('type: "SGD" solver_type: SGD')
    arguments, text = FAILURES[name]
    status, stdout, lines = tool(destination, *arguments)
    failures = [line for line in lines if line.startswith("avec.caffe: ")]
    assert (status, stdout, failures) == (1, "", lines[-1:])
    assert text in lines[-1]
    assert "Traceback" not in "".join(lines)


def test_what_a_layer_of_the_program_s_own_raises_keeps_its_traceback(destination: Destination) -> None:
    Path("mine.py").write_text(
        "import caffe\nclass Mine(caffe.Layer):\n    def setup(self, *blobs):\n        raise RuntimeError('mine')\n"
    )
    Path("net.prototxt").write_text(
        'layer { name: "p" type: "Python" top: "x" python_param { module: "mine" layer: "Mine" } }'
    )
    status, _, lines = tool(destination, "time", "--model", "net.prototxt")
    assert (status, lines[-1]) == (1, "RuntimeError: mine")
    assert any("mine.py" in line for line in lines)
