"""A pycaffe program in a process of its own, started with `avec run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from destinations import running
from launching import APPS, AVEC, environ, execute

PROGRAM = str(APPS / "caffe_program.py")
OUTPUT = """['data'] ['prob'] [('data', (2, 3, 6, 6)), ('conv', (2, 4, 1, 1)), ('prob', (2, 4, 1, 1))]
worst difference below 1e-6: True
forward_all: True
Exception: Input blob arguments do not match net inputs.
"""


def test_a_pycaffe_program_runs_unchanged(destination: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = (*AVEC, "run", "--on", destination, "--report", str(report), PROGRAM)
    assert execute(*command, cwd=tmp_path, variables=environ(AVEC_CACHE_DIR=str(tmp_path))) == (0, OUTPUT, "")
    cycles = json.loads(report.read_text())["cycles"]
    frames = [cycle for cycle in cycles if cycle["name"] == "caffe.forward"]
    assert len(frames) == 5 + 3
    assert all(f"{PROGRAM}:" in cycle["site"] for cycle in cycles)


TRAINING = str(APPS / "caffe_training.py")
TRAINED = """iterations: 60 learned: True
restored: 60 True
trained_iter_30.caffemodel
trained_iter_30.solverstate
trained_iter_60.caffemodel
trained_iter_60.solverstate
"""


def test_a_program_that_trains_runs_unchanged(destination: str, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    command = (*AVEC, "run", "--on", destination, TRAINING)
    status, stdout, stderr = execute(*command, cwd=tmp_path, variables=environ(AVEC_CACHE_DIR=str(tmp_path)))
    assert (status, stdout) == (0, TRAINED)
    lines = [line.split("] ", 1)[1] for line in stderr.splitlines() if "]" in line]
    assert [line.split(" (")[0] for line in lines if line.startswith("Iteration") and "lr" not in line][:3] == [
        "Iteration 0", "Iteration 20", "Iteration 40"
    ]  # fmt: skip
    assert lines[-1] == "SGDSolver: restoring history"


LOSING = """
import caffe, sys
net = caffe.Net(sys.argv[1], caffe.TEST)
net.forward()["fc"].copy()
print("ready", flush=True)
sys.stdin.readline()
try:
    net.forward()["fc"].copy()
except ConnectionError as exc:
    print(type(exc).__name__)
"""


def test_a_worker_that_dies_is_a_connection_error(tmp_path: Path) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(
        'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc" inner_product_param { num_output: 4 } }'
    )
    with running(tmp_path / "destination") as destination:
        command = (*AVEC, "run", "--recovery", "off", "--on", destination.url, "-c", LOSING, str(prototxt))
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ(AVEC_CACHE_DIR=str(tmp_path)),
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            worker = destination.only_worker()
            os.kill(worker, signal.SIGKILL)
            stdout, _ = program.communicate("\n", timeout=60)
    assert (program.returncode, stdout) == (0, "SessionLost\n")
