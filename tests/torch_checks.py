"""Runs the small checks of `interception/torch/checks`, all by one program: each start of torch takes seconds."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from launching import AVEC, environ

CHECKS = Path(__file__).parent / "interception" / "torch" / "checks"
TIMEOUT_S = 110.0

ALL = os.environ.get("TORCH_COMPILE") == "all"
long = pytest.mark.skipif(not ALL, reason="one of the long tests of `make test-torch-compile`")
compiling = pytest.mark.skipif(
    not ALL or shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="one of the long tests of `make test-torch-compile`, which needs a C++ compiler",
)


def names(modules: Sequence[str]) -> list[str]:
    """The checks in modules, "surface.check_streams", without importing them: torch would be."""
    found = []
    for module in modules:
        tree = ast.parse((CHECKS / f"{module}.py").read_text("utf-8"))
        found += [
            f"{module}.{each.name}"
            for each in tree.body
            if isinstance(each, ast.FunctionDef) and each.name.startswith("check_")
        ]
    return found


def outcomes(
    url: str,
    checks: Sequence[str],
    timeout_s: float = TIMEOUT_S,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Run the checks under `avec run`; the error of each, or nothing.

    Args:
        checks: modules of them, or single ones: "surface.check_streams".
        options: of `avec run`.
        variables: of the host; by default its kernels are those in Python.
    """
    done = subprocess.run(
        [*AVEC, "run", "--on", url, *options, str(CHECKS / "run.py"), *checks],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environ(**(variables or {"AVEC_TORCH_NATIVE": "off"})),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: line["error"] for line in lines}


def graphs(report: Path) -> int:
    """How many graphs were sent, by a run's report."""
    profiles = json.loads(report.read_text("utf-8"))["profiles"]
    return sum(each["count"] for each in profiles if each["name"] == "torch.loadgraph")
