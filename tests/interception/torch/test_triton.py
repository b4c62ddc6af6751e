"""Kernels written in Triton, launched at a destination: with Triton where it is installed, else with a stand-in."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from destinations import running
from launching import AVEC, environ, execute

FOLDER = Path(__file__).parent
PROGRAM = str(FOLDER / "programs" / "triton_program.py")
STAND_IN = str(FOLDER / "fake_triton")
EXPECTED = """True
True
True
cuda:0
Pointer argument of combine cannot be accessed from Triton (cpu tensor?)
"""


def _path(folder: str) -> dict[str, str]:
    """Variables that put a folder before all others that modules come from."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (folder, environ()["PYTHONPATH"])))}


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(STAND_IN, id="stand-in"),
        pytest.param("", id="triton", marks=pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")),
    ],
)
def test_kernels_are_launched_at_the_destination(folder: str, tmp_path: Path) -> None:
    with running(tmp_path, "--allow-triton", AVEC_COMPILE_GRAPHS="0", **_path(folder)) as destination:
        outcome = execute(*AVEC, "run", "--on", destination.url, PROGRAM, variables=environ(**_path(folder)))
    assert outcome[:2] == (0, EXPECTED), outcome


def test_a_destination_that_allows_none_says_so(destination: str) -> None:
    status, printed, errors = execute(*AVEC, "run", "--on", destination, PROGRAM, variables=environ(**_path(STAND_IN)))
    assert (status, printed) == (1, "")
    assert "UnsupportedOperation: the Triton kernel 'combine': this destination runs no kernels of hosts" in errors
    assert "avec serve --allow-triton" in errors
