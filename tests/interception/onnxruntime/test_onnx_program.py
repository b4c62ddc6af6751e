"""ONNX Runtime programs say the same with and without AVEC."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from destinations import running
from launching import APPS, AVEC, PLAIN, environ, execute

PROGRAM = str(APPS / "onnx_program.py")
BACKEND = str(APPS / "onnx_backend.py")


def outputs(destination: str, tmp_path: Path, *program: str) -> tuple[str, str]:
    """What a program prints plainly and under AVEC; `FOLDER` in its arguments is an empty folder, the same for both."""
    said = []
    for how in (PLAIN, (*AVEC, "run", "--on", destination)):
        folder = tmp_path / "work"
        folder.mkdir()
        arguments = [each.replace("FOLDER", str(folder)) for each in program]
        variables = environ(AVEC_CACHE_DIR=str(tmp_path / "host"), OMP_NUM_THREADS="1")
        status, stdout, stderr = execute(*how, *arguments, variables=variables)
        assert status == 0, stderr
        said.append(stdout)
        folder.rename(tmp_path / f"done-{len(said)}")
    return said[0], said[1]


def test_a_program_says_the_same(destination: str, tmp_path: Path) -> None:
    plainly, under_avec = outputs(destination, tmp_path, PROGRAM, "FOLDER")
    assert plainly.count("\n") > 100
    assert under_avec == plainly


@pytest.fixture(scope="module")
def of_onnx(destination: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What some of ONNX's own cases give plainly and under AVEC, and then what they give with results changed."""
    program = (BACKEND, "--match", "_softmax|sequence|string|optional|Conv2d", "--corrupt", "Conv2d")
    return outputs(destination, tmp_path_factory.mktemp("onnx"), *program)


def test_some_of_onnx_s_own_cases_have_the_same_outcomes(of_onnx: tuple[str, str]) -> None:
    plainly, under_avec = of_onnx
    assert plainly.count(" passed\n") > 20
    assert under_avec == plainly


def test_a_corrupted_result_changes_the_outcomes(of_onnx: tuple[str, str]) -> None:
    corrupted = [line for line in of_onnx[1].splitlines() if line.startswith("corrupted ")]
    assert len(corrupted) > 3
    assert {line.split(" ", 2)[2] for line in corrupted} == {"failed: AssertionError"}


LOSING = """
import sys
import numpy as np, onnxruntime as ort
sys.path.insert(0, sys.argv[1])
from onnx_models import doubling
made = doubling().SerializeToString()
x = np.ones((2, 3), np.float32)
session = ort.InferenceSession(made, providers=["CUDAExecutionProvider"])
value = ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0)
session.run(None, {"x": x})
print("ready", flush=True)
sys.stdin.readline()
for attempt in (lambda: session.run(None, {"x": x}), value.numpy):
    try:
        attempt()
    except ConnectionError as exc:
        print(type(exc).__name__)
session = ort.InferenceSession(made, providers=["CUDAExecutionProvider"])
print(session.run(None, {"x": x})[0].sum())
"""


def test_a_lost_destination_is_a_connection_error_and_the_program_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "destination") as destination:
        command = (*AVEC, "run", "--recovery", "off", "--on", destination.url, "-c", LOSING, str(APPS.parent))
        variables = environ(AVEC_CACHE_DIR=str(tmp_path))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            worker = destination.only_worker()
            os.kill(worker, signal.SIGKILL)
            stdout, _ = program.communicate("\n", timeout=60)
    assert (program.returncode, stdout) == (0, "SessionLost\nSessionLost\n12.0\n")


FORKING = """
import os, sys
import numpy as np, onnxruntime as ort
sys.path.insert(0, sys.argv[1])
from onnx_models import doubling
made = doubling().SerializeToString()
x = np.ones((2, 3), np.float32)
session = ort.InferenceSession(made)
session.run(None, {"x": x})
child = os.fork()
if not child:
    try:
        session.run(None, {"x": x})
    except ConnectionError as exc:
        print(type(exc).__name__, "child" in str(exc), flush=True)
    print(ort.InferenceSession(made).run(None, {"x": x})[0].sum(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(session.run(None, {"x": x})[0].sum())
"""


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_sessions(destination: str, tmp_path: Path) -> None:
    command = (*AVEC, "run", "--on", destination, "-c", FORKING, str(APPS.parent))
    status, stdout, stderr = execute(*command, variables=environ(AVEC_CACHE_DIR=str(tmp_path)))
    assert (status, stdout) == (0, "SessionLost True\n12.0\n12.0\n"), stderr
