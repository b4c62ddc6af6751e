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
from launching import AVEC, at_once, environ

PROGRAM = Path(__file__).parent / "programs" / "whole_graphs.py"
CHECKS_S = 150.0
TIMEOUT_S = 110.0
NO_COMPILER = "no-such-compiler"
# Dynamo traces for most of their time; `make test` does without them.
LONG = {
    "whole.check_checkpointing",
    "whole.check_hooks_that_come_and_go",
    "whole.check_lazy_modules",
    "whole.check_modules_that_the_program_compiles_itself",
    "whole.check_only_the_outermost_is_captured",
    "whole.check_the_limit_of_recompilations_is_told_once",
    "whole.check_transforms_and_modules_as_functions",
    "whole.check_what_a_module_keeps",
    "whole.check_who_traces_sees_operators",
}
CHECKS = torch_checks.names(("whole",))

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
def seen(plain: Destination, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], int]]:
    """What the program sees without the mode and with it, by its setting, and how many graphs are sent each time."""
    folder = tmp_path_factory.mktemp("reports")
    without, with_it = folder / "without.json", folder / "with.json"
    programs = at_once(lambda: _run(plain, without), lambda: _run(plain, with_it, AVEC_GRAPH="1"))
    return [*zip(programs, map(torch_checks.graphs, (without, with_it)), strict=True)]


@pytest.fixture(scope="module")
def outcomes(plain: Destination) -> dict[str, str]:
    """The error of each check, or nothing."""
    checks = [name for name in CHECKS if torch_checks.ALL or name not in LONG]
    return torch_checks.outcomes(plain.url, checks, CHECKS_S, options=("--graph",))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=torch_checks.long if name in LONG else ()) for name in CHECKS]
)
def test_whole_graphs(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_the_numbers_are_those_of_eager_where_nothing_is_compiled(seen: list[tuple[dict[str, Any], int]]) -> None:
    assert seen[1][0] == seen[0][0]
    # Training with batches of 8, then of any size; the same evaluated; decoding: the prompt, a token with a cache, with
    # a cache of any size; two pieces for each way of the branch; and what does not fail.
    assert 10 <= seen[1][1] <= 24


def test_an_exception_of_a_module_is_the_programs_own(seen: list[tuple[dict[str, Any], int]]) -> None:
    exception, frames, *_ = seen[0][0]["failing"]  # and with the mode the same, as the test above has seen
    assert exception == "KeyError('too many')"
    assert frames == ["failing", "forward"]


def test_without_it_nothing_is_captured(seen: list[tuple[dict[str, Any], int]]) -> None:
    assert seen[0][1] == 0


@torch_checks.compiling
def test_with_a_compiler_graphs_are_compiled_at_the_destination(
    seen: list[tuple[dict[str, Any], int]], tmp_path: Path
) -> None:
    with running(tmp_path / "compiling") as destination:
        found = _run(destination, tmp_path / "report", "--graph", part="failing")
        assert "is not compiled" not in destination.log_text()
        assert list(destination.cache_dir.glob("**/*.cpp"))
    assert found["failing"][2] == pytest.approx(seen[0][0]["failing"][2], rel=1e-4)
