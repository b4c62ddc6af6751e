"""Destinations that go away, have no OpenCV, or do not answer: typed errors, and a program that can go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from destinations import running
from launching import APPS, AVEC, NOWHERE, environ, execute

LOST = str(APPS / "opencv_lost.py")


def test_a_lost_worker_is_told_and_the_program_goes_on(models: Path, tmp_path: Path) -> None:
    # Its child ends without a goodbye, and that worker is not to wait for it.
    with running(tmp_path, AVEC_RESUME_TIMEOUT_S="0") as destination:
        command = [*AVEC, "run", "--on", destination.url, LOST, str(models / "classification.onnx")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ()
        ) as program:
            assert program.stdin is not None and program.stdout is not None
            said = [program.stdout.readline().strip() for _ in range(4)]
            assert said == [
                "before: (1, 5)",
                "child, its parent's net: avec.errors.SessionLost",
                "child, its own net: (1, 5)",
                "ready",
            ]
            os.kill(destination.only_worker(), signal.SIGKILL)
            stdout, stderr = program.communicate("\n", timeout=60)
        assert stdout.splitlines() == [
            "after: avec.errors.SessionLost",
            "again: avec.errors.SessionLost",
            "read again: (1, 5)",
        ]
        assert program.returncode == 0, stderr


def test_no_destination_is_told_where_a_net_is_read(models: Path) -> None:
    code = f"import cv2\ncv2.dnn.readNet({str(models / 'classification.onnx')!r})"
    status, _, stderr = execute(*AVEC, "run", *NOWHERE, "-c", code)
    assert status == 1
    assert stderr.splitlines()[-1].startswith("avec.errors.DestinationUnreachable: ")


def test_a_destination_without_opencv_says_so(models: Path, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('this machine has no OpenCV')")
    hidden = os.pathsep.join((str(tmp_path), environ()["PYTHONPATH"]))
    model = str(models / "classification.onnx")
    with running(tmp_path / "destination", PYTHONPATH=hidden) as destination:
        code = f"import cv2; cv2.dnn.readNet({model!r})"
        status, _, stderr = execute(*AVEC, "run", "--on", destination.url, "-c", code)
        assert "the format opencv is not offered: this machine has no OpenCV" in destination.log_text()
    assert status == 1
    last = stderr.splitlines()[-1]
    assert last.startswith("avec.errors.UnsupportedOperation: ")
    assert last.endswith("install opencv-python-headless at the destination")


def test_a_model_is_uploaded_once(models: Path, opencv_destination: str, tmp_path: Path) -> None:
    contents = (models / "classification.onnx").read_bytes()
    model = tmp_path / "own.onnx"
    model.write_bytes(contents + b"\x7a\x07" + os.urandom(7))  # an unknown field: a model that nobody has sent yet
    code = f"import cv2\ncv2.dnn.readNet({str(model)!r}).getLayerNames()"
    uploaded = []
    for run in ("first", "second"):
        report = tmp_path / f"{run}.json"
        command = (*AVEC, "run", "--on", opencv_destination, "--report", str(report), "-c", code)
        status, _, stderr = execute(*command)
        assert status == 0, stderr
        (transfer,) = json.loads(report.read_text())["transfers"]
        uploaded.append(transfer["uploaded_nbytes"])
    assert uploaded == [model.stat().st_size, 0]


@pytest.mark.parametrize("stage", ["setInput", "forward"])
def test_errors_name_the_application_and_come_from_opencv(stage: str, models: Path, opencv_destination: str) -> None:
    code = f"""
import cv2, numpy as np, traceback
net = cv2.dnn.readNet({str(models / "classification.onnx")!r})
try:
    net.setInput(np.zeros((1, 3, 16, 16), np.float32), {"'nothing'" if stage == "setInput" else "''"})
    net.forward({"''" if stage == "setInput" else "'nothing'"})
except cv2.error as exc:
    print(exc.code, exc.func != "", exc.err != "", exc.msg == str(exc))
    traceback.print_exc()
"""
    status, stdout, stderr = execute(*AVEC, "run", "--on", opencv_destination, "-c", code)
    assert status == 0
    assert stdout.split()[1:] == ["True", "True", "True"]
    assert int(stdout.split()[0]) < 0
    assert f"The failing call was opencv.{stage}, made at <string>:" in stderr
    assert sys.executable not in stdout
