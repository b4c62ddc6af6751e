"""Whole-graph mode: programs that compile nothing do what they did, by graphs at the destination."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import torch_checks
from destinations import Destination, running
from launching import AVEC, environ

PROGRAM = Path(__file__).parent / "programs" / "whole_graphs.py"
CHECKS_S = 150.0
TIMEOUT_S = 110.0
NO_COMPILER = "no-such-compiler"

pytestmark = pytest.mark.timeout(200)  # the first test waits for the whole program


def _run(destination: Destination, report: Path, *options: str, part: str = "", **variables: str) -> dict[str, Any]:
    """Run the program, or one part of it, under AVEC; what it has seen."""
    done = subprocess.run(
        [*AVEC, "run", "--on", destination.url, "--report", str(report), *options, str(PROGRAM), *part.split()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environ(**variables),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination that carries graphs out operator by operator, because it finds no compiler."""
    with running(tmp_path_factory.mktemp("plain"), CXX=NO_COMPILER) as destination:
        yield destination


@pytest.fixture(scope="module")
def without(plain: Destination, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What the program sees without the mode, and how many graphs are sent."""
    report = tmp_path_factory.mktemp("without") / "report.json"
    return _run(plain, report), torch_checks.graphs(report)


@pytest.fixture(scope="module")
def outcomes(plain: Destination) -> dict[str, str]:
    """The error of each check, or nothing."""
    return torch_checks.outcomes(plain.url, ("whole",), CHECKS_S, options=("--graph",))


@pytest.mark.parametrize("name", torch_checks.names(("whole",)))
def test_whole_graphs(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_the_numbers_are_those_of_eager_where_nothing_is_compiled(
    plain: Destination, without: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    assert _run(plain, tmp_path / "report", "--graph") == without[0]
    # Training with batches of 8, then of any size; the same evaluated; decoding: the prompt, a token with a cache, with
    # a cache of any size; two pieces for each way of the branch; and what does not fail.
    assert 10 <= torch_checks.graphs(tmp_path / "report") <= 24


def test_an_exception_of_a_module_is_the_programs_own(without: tuple[dict[str, Any], int]) -> None:
    exception, frames, *_ = without[0]["failing"]  # and with the mode the same, as the test above has seen
    assert exception == "KeyError('too many')"
    assert frames == ["failing", "forward"]


def test_without_it_nothing_is_captured(without: tuple[dict[str, Any], int]) -> None:
    assert without[1] == 0


def test_it_can_be_a_setting(plain: Destination, tmp_path: Path) -> None:
    _run(plain, tmp_path / "report", part="failing", AVEC_GRAPH="1")
    assert torch_checks.graphs(tmp_path / "report") > 0


@torch_checks.compiling
def test_with_a_compiler_graphs_are_compiled_at_the_destination(
    without: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    with running(tmp_path / "compiling") as destination:
        seen = _run(destination, tmp_path / "report", "--graph", part="failing")
        assert "is not compiled" not in destination.log_text()
        assert list(destination.cache_dir.glob("**/*.cpp"))
    assert seen["failing"][2] == pytest.approx(without[0]["failing"][2], rel=1e-4)
