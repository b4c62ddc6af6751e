"""What programs may do with torch under AVEC: small checks, all run by one program."""

from __future__ import annotations

from pathlib import Path

import pytest

import torch_checks
from launching import both_ways

PROGRAMS = Path(__file__).parent / "programs"
MODULES = (
    "unopened",
    "tensors",
    "modules",
    "storages",
    "randomness",
    "loading",
    "devices",
    "forwarded",
    "operators",
    "faults",
)
TIMEOUT_S = 220.0

pytestmark = pytest.mark.timeout(240)  # the first test waits for the whole program


@pytest.fixture(scope="module")
def outcomes(destination: str) -> dict[str, str]:
    """The error of each check, or nothing."""
    return torch_checks.outcomes(destination, MODULES, TIMEOUT_S)


@pytest.mark.parametrize("name", torch_checks.names(MODULES))
def test_feature(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_a_program_for_the_cpu_needs_no_destination() -> None:
    plainly, under_avec = both_ways(str(PROGRAMS / "on_the_host.py"))  # where nothing listens
    assert plainly[0] == 0, plainly[2]
    assert under_avec == plainly
