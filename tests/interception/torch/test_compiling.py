"""torch.compile under AVEC: graphs go to the destination, and are compiled there if there is a compiler."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import torch_checks
from destinations import Destination, running
from launching import AVEC, at_once, environ, execute

PROGRAMS = Path(__file__).parent / "programs"
STEPS = PROGRAMS / "compiled_steps.py"
UNDONE = PROGRAMS / "compilers_undone.py"
TIMEOUT_S = 110.0
NO_COMPILER = "no-such-compiler"


def _run(destination: Destination, report: Path, program: Path, *args: str, **variables: str) -> str:
    """Run a program under AVEC; what it prints."""
    done = subprocess.run(
        [*AVEC, "run", "--on", destination.url, "--report", str(report), str(program), *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environ(**variables),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination that carries graphs out operator by operator, because it finds no compiler."""
    with running(tmp_path_factory.mktemp("plain"), CXX=NO_COMPILER) as destination:
        yield destination


@pytest.fixture(scope="module")
def outcomes(plain: Destination, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error of each check, or nothing; and how many graphs were sent."""
    report = tmp_path_factory.mktemp("report") / "report.json"
    lines = [json.loads(line) for line in _run(plain, report, torch_checks.CHECKS / "run.py", "compiled").splitlines()]
    return {line["check"]: line["error"] for line in lines} | {"graphs": str(torch_checks.graphs(report))}


@pytest.mark.parametrize("name", torch_checks.names(("compiled",)))
def test_compiled(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_most_graphs_are_the_destinations(outcomes: dict[str, str]) -> None:
    # Those that have a branch, flexible attention or a size that depends on data are carried out by operator.
    assert int(outcomes["graphs"]) >= 35


def test_without_a_compiler_or_graphs_by_a_setting_the_numbers_are_those_of_eager(
    plain: Destination, tmp_path: Path
) -> None:
    graphs, no_graphs = tmp_path / "graphs", tmp_path / "no_graphs"
    printed = at_once(
        lambda: _run(plain, graphs, STEPS), lambda: _run(plain, no_graphs, STEPS, AVEC_TORCH_COMPILE="eager")
    )
    for losses in map(json.loads, printed):
        assert losses["compiled"] == losses["eager"]
    assert (torch_checks.graphs(graphs), torch_checks.graphs(no_graphs)) == (2, 0)
    assert "there is no C++ compiler" in plain.log_text()


@torch_checks.compiling
def test_with_a_compiler_graphs_are_compiled_at_the_destination(tmp_path: Path) -> None:
    with running(tmp_path / "compiling") as destination:
        losses = json.loads(_run(destination, tmp_path / "report", STEPS))
        assert "is not compiled" not in destination.log_text()
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-4)
    assert len(list(destination.cache_dir.glob("**/*.cpp"))) >= torch_checks.graphs(tmp_path / "report") == 2


@torch_checks.long
def test_what_stands_in_for_compilers_does_so_until_the_interception_ends(plain: Destination) -> None:
    assert execute(*AVEC, "run", "--on", plain.url, str(UNDONE)) == (0, "", "")
