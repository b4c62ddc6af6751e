"""The models, a destination whose OpenCV may be another, and what the conformance program gives plainly and under AVEC.

OPENCV_DESTINATION_PYTHON names an interpreter with another OpenCV, for the destination; see the target test-opencv.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interception.opencv_dnn import caffe_models, onnx_models, other_models
from interception.opencv_dnn.outcomes import Outcomes
from launching import APPS, AVEC, PLAIN, environ, serving

PROGRAM = str(APPS / "opencv_conformance.py")
DESTINATION_PYTHON = os.environ.get("OPENCV_DESTINATION_PYTHON", sys.executable)
PROGRAM_TIMEOUT_S = 110.0


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all models."""
    folder = tmp_path_factory.mktemp("models")
    onnx_models.write_all(folder)
    other_models.write_all(folder, folder / "classification.onnx")
    caffe_models.write_all(folder)
    return folder


@pytest.fixture(scope="session")
def opencv_destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a destination; it runs in OPENCV_DESTINATION_PYTHON if that is set."""
    with serving(DESTINATION_PYTHON, AVEC_CACHE_DIR=str(tmp_path_factory.mktemp("cache"))) as url:
        yield url


@pytest.fixture(scope="session")
def plain_outcomes(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What the program gives without AVEC."""
    return _outcomes(PLAIN, models, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def avec_outcomes(models: Path, opencv_destination: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What it gives under AVEC."""
    under_avec = (*AVEC, "run", "--on", opencv_destination)
    return _outcomes(under_avec, models, tmp_path_factory.mktemp("avec"))


@pytest.fixture(scope="session")
def cuda_outcomes(models: Path, opencv_destination: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What it gives under AVEC when it asks for CUDA."""
    under_avec = (*AVEC, "run", "--on", opencv_destination)
    return _outcomes(under_avec, models, tmp_path_factory.mktemp("cuda"), "cuda")


def _outcomes(prefix: tuple[str, ...], models: Path, folder: Path, *options: str) -> Outcomes:
    output = folder / "outcomes.npz"
    command = [*prefix, PROGRAM, str(models), str(output), *options]
    done = subprocess.run(
        command, env=environ(), capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"it ended in {done.stdout[-200:]!r}:\n{done.stderr[-4000:]}"
    return Outcomes.load(output)
