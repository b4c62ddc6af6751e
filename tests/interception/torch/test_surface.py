"""torch.cuda under AVEC: what it answers, what it refuses, and that torch is given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import torch_checks
from destinations import running
from launching import PLAIN, both_ways, execute

PROGRAMS = Path(__file__).parent / "programs"
MODULES = ("surface", "graphs", "several", "unavailable")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A destination that shows its CPU as two accelerators."""
    with running(tmp_path_factory.mktemp("destination"), AVEC_CPU_ACCELERATORS="2") as destination:
        yield destination.url


@pytest.fixture(scope="module")
def outcomes(url: str) -> dict[str, str]:
    """The error of each check, or nothing."""
    return torch_checks.outcomes(url, MODULES)


@pytest.mark.parametrize("name", torch_checks.names(MODULES))
def test_surface(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_what_stands_in_is_called_as_what_it_stands_in_for() -> None:
    plainly, under_avec = both_ways(str(PROGRAMS / "signatures.py"))
    assert under_avec == plainly
    assert plainly[1].count("\n") > 300


def test_a_program_that_hides_all_gpus_has_none_and_connects_to_nothing() -> None:
    plainly, under_avec = both_ways(str(PROGRAMS / "hidden.py"))
    assert under_avec == plainly
    assert plainly[1].splitlines()[0] == "False 0 False"


def test_torch_is_given_back_as_it_was(url: str) -> None:
    status, stdout, stderr = execute(*PLAIN, str(PROGRAMS / "releasing.py"), url)
    assert (status, stderr) == (0, "")
    assert stdout.splitlines() == ["[2.0, 2.0] True True 2", "[]", "False False 0"] * 2


def test_processes_meet_over_their_hosts(url: str) -> None:
    plainly, under_avec = both_ways(str(PROGRAMS / "processes.py"), options=("--on", url))
    assert plainly[0] == 0, plainly[2]
    assert under_avec[:2] == plainly[:2], under_avec[2]
