"""The OpenCV example under AVEC: it asks for CUDA, and finds the joints that the picture's renderer wrote down."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from destinations import Destination
from launching import AVEC, PLAIN, execute

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = str(EXAMPLES / "opencv_pose" / "pose.py")
MEDIA = EXAMPLES / "openpose" / "media"
NEAR = 0.05  # of the person's height
ENOUGH = 12  # joints of 18 that have to be near; the network knows no better


def found(stdout: str) -> dict[str, tuple[float, float]]:
    """The joints that the program printed."""
    fields = (line.split() for line in stdout.splitlines())
    return {name: (float(x), float(y)) for _, name, x, y, _ in fields}


@pytest.mark.parametrize("backend", ["opencv", "cuda"])
def test_it_finds_the_joints(backend: str, destination: Destination, tmp_path: Path) -> None:
    options = ("--backend", backend, "--output", str(tmp_path))
    status, stdout, stderr = execute(*AVEC, "run", "--on", destination.url, PROGRAM, *options)
    assert (status, stderr) == (0, "")
    (person,) = json.loads((MEDIA / "truth.json").read_text())["picture_2"]
    truth = np.array(person["joints"]).reshape(-1, 3)[:, :2]
    joints = np.array(list(found(stdout).values()))
    assert len(joints) == len(truth)
    distances = np.linalg.norm(joints - truth, axis=1)
    assert (distances < NEAR * person["height"]).sum() >= ENOUGH
    drawn = cv2.imread(str(tmp_path / "picture_2_0001.png"))
    assert drawn is not None and (drawn != cv2.imread(str(MEDIA / "picture_2.jpg"))).any()


def test_without_avec_it_needs_an_opencv_that_can(tmp_path: Path, destination: Destination) -> None:
    plainly = execute(*PLAIN, PROGRAM, "--output", str(tmp_path))
    if cv2.__version__.startswith("5."):
        assert plainly[0] == 1
        assert "Caffe importer has been removed" in plainly[2]
    else:
        assert plainly == execute(*AVEC, "run", "--on", destination.url, PROGRAM, "--output", str(tmp_path))


def test_what_is_no_picture_is_said_in_one_line(tmp_path: Path, destination: Destination) -> None:
    nothing = tmp_path / "nothing.jpg"
    command = (*AVEC, "run", "--on", destination.url, PROGRAM, "--input", str(nothing), "--output", str(tmp_path))
    status, stdout, stderr = execute(*command)
    assert (status, stdout) == (1, "")
    assert stderr.splitlines()[-1] == f"pose: cannot read {nothing}"
