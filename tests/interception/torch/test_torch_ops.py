"""PyTorch's OpInfo suite (`make test-torch-ops`) is here only tried: on a few operators, and whether it can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launching import environ

SUITE = Path(__file__).parents[2] / "torch_ops"
OPERATORS = (
    "addmm",
    "cumsum",
    "index_add",
    "linalg.svd",
    "masked_select",
    "nn.functional.layer_norm",
    "sort",
    "uniform",
)

pytest.importorskip("expecttest", reason="PyTorch's OpInfo database needs it")


def outcomes(destination: str, folder: Path, *options: str) -> tuple[int, dict[str, bool]]:
    """Run the suite on the few operators; its status, and which of them pass every check."""
    table = folder / "table.json"
    command = [sys.executable, str(SUITE), "--on", destination, "--hosts", "1", "--samples", "2"]
    command += ["--only", "|".join(OPERATORS), "--table", str(table), *options]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=110, check=False)
    assert table.exists(), done.stdout + done.stderr
    found = json.loads(table.read_text("utf-8"))
    return done.returncode, {each["operator"]: each["checks"] == each["passed"] > 0 for each in found}


def test_operators_compute_at_a_destination_as_on_the_cpu(destination: str, tmp_path: Path) -> None:
    assert outcomes(destination, tmp_path) == (0, dict.fromkeys(OPERATORS, True))


def test_the_suite_fails_where_what_is_fetched_was_changed(destination: str, tmp_path: Path) -> None:
    assert outcomes(destination, tmp_path, "--corrupt") == (0, dict.fromkeys(OPERATORS, False))
