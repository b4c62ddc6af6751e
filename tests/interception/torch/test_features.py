"""What programs may do with torch under AVEC: small checks, all run by one program."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from launching import AVEC, both_ways, environ

CHECKS = Path(__file__).parent / "checks"
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


def _names() -> list[str]:
    """The checks, without importing them: torch would be."""
    names = []
    for module in MODULES:
        tree = ast.parse((CHECKS / f"{module}.py").read_text("utf-8"))
        names += [
            f"{module}.{each.name}"
            for each in tree.body
            if isinstance(each, ast.FunctionDef) and each.name.startswith("check_")
        ]
    return names


@pytest.fixture(scope="module")
def outcomes(destination: str) -> dict[str, str]:
    """The error of each check, or nothing."""
    done = subprocess.run(
        [*AVEC, "run", "--on", destination, str(CHECKS / "run.py"), *MODULES],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environ(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: line["error"] for line in lines}


@pytest.mark.parametrize("name", _names())
def test_feature(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_a_program_for_the_cpu_needs_no_destination() -> None:
    plainly, under_avec = both_ways(str(PROGRAMS / "on_the_host.py"))  # where nothing listens
    assert plainly[0] == 0, plainly[2]
    assert under_avec == plainly
