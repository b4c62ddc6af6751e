"""Small programs, written for CUDA by the book, print the same on a CPU and under AVEC."""

from __future__ import annotations

import contextlib
import math
import re
import subprocess
from collections.abc import Iterator

import pytest

from destinations import running
from launching import APPS, AVEC, PLAIN, environ

# Beside each other on two cores; more threads would sum up in another order.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# The CPU's own operators compute on both sides, yet not always the same ones: on CUDA, torch takes fused cells, other
# attention and other optimizers. Training amplifies the last bits; what is printed has three to five decimals.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 2e-3, 2e-4
TIMEOUT_S = 100.0
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
# test_replay compares the other one, bit by bit too.
PROGRAMS = sorted(path.stem for path in APPS.glob("torch_*.py") if path.stem != "torch_perturbed")


@pytest.fixture(scope="module")
def one_thread_destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a destination that computes with one thread."""
    with running(tmp_path_factory.mktemp("apps"), **ONE_THREAD) as destination:
        yield destination.url


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_prints_under_avec_what_it_prints_plainly(name: str, one_thread_destination: str) -> None:
    program = str(APPS / f"{name}.py")
    with (
        _started(*PLAIN, program) as plain,
        _started(*AVEC, "run", "--on", one_thread_destination, program) as under_avec,
    ):
        expected, expected_errors = plain.communicate(timeout=TIMEOUT_S)
        printed, errors = under_avec.communicate(timeout=TIMEOUT_S)
    assert plain.returncode == 0, expected_errors
    assert under_avec.returncode == 0, errors
    assert errors == expected_errors
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
    different = [
        (a, b)
        for a, b in zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True)
        if not math.isclose(float(a), float(b), rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    ]
    assert different == [], f"of\n{printed}and plainly\n{expected}"


@contextlib.contextmanager
def _started(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=environ(**ONE_THREAD), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
