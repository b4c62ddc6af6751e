"""PyTorch's OpInfo suite (`make test-torch-ops`) is here only tried: on a few operators, and whether it can fail.

Its comparison with native CUDA too, where a second session with a destination stands for that. `make test` has only the
parts of which it consists; `TORCH_OPS=all`, which `make test-torch-ops` sets, makes it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest

from launching import at_once, environ

SUITE = Path(__file__).parents[2] / "torch_ops"
long = pytest.mark.skipif(os.environ.get("TORCH_OPS") != "all", reason="one of the long tests of `make test-torch-ops`")
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


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite's module of that name."""
    monkeypatch.syspath_prepend(SUITE)
    return importlib.import_module("native")


def run(destination: str, folder: Path, *options: str) -> tuple[int, Any]:
    """Run the suite on the few operators; its status, and the table that it writes."""
    table = folder / "table.json"
    command = [sys.executable, str(SUITE), "--on", destination, "--hosts", "1", "--samples", "2"]
    command += ["--only", "|".join(OPERATORS), "--table", str(table), *options]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=110, check=False)
    assert table.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(table.read_text("utf-8"))


def outcomes(destination: str, folder: Path, *options: str) -> tuple[int, dict[str, bool]]:
    """The suite's status, and which operators pass every check."""
    status, found = run(destination, folder, *options)
    return status, {each["operator"]: each["checks"] == each["passed"] > 0 for each in found}


def unlike_natively(destination: str, folder: Path, *options: str) -> tuple[int, dict[str, set[str]]]:
    """The status of its comparison with a second session, and in what each operator differs."""
    status, found = run(destination, folder, "--native", "--reference", destination, *options)
    assert all(each["checks"] and not each["left_out"] for each in found["operators"])
    return status, {
        each["operator"]: {difference["aspect"] for difference in each["differences"]} for each in found["operators"]
    }


def test_operators_compute_as_on_the_cpu_and_fail_where_what_is_fetched_was_changed(
    destination: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = [tmp_path_factory.mktemp(name) for name in ("computed", "corrupted")]
    computed, corrupted = at_once(
        lambda: outcomes(destination, folders[0]), lambda: outcomes(destination, folders[1], "--corrupt")
    )
    assert computed == (0, dict.fromkeys(OPERATORS, True))
    assert corrupted == (0, dict.fromkeys(OPERATORS, False))


@long
def test_two_sessions_give_the_same_bits(destination: str, tmp_path: Path) -> None:
    assert unlike_natively(destination, tmp_path) == (0, dict.fromkeys(OPERATORS, set()))


@long
def test_other_bits_are_told_from_those_of_a_second_session(destination: str, tmp_path: Path) -> None:
    status, unlike = unlike_natively(destination, tmp_path, "--corrupt")
    assert (status, set(unlike)) == (0, set(OPERATORS))
    assert all(unlike.values())


def described(**results: dict[str, object]) -> dict[str, dict[str, object]]:
    """The descriptions of one check."""
    return {"one": {"variant": "", **results}}


DENSE = {"kind": "torch.float32 (2, 3) on cuda:0", "strides": [3, 1], "digest": "01", "sum": "1.0"}


@pytest.mark.parametrize(
    ("given", "aspects", "equal"),
    [
        (described(first=DENSE), [], 1),
        (described(first={**DENSE, "strides": [1, 2]}), ["strides"], 1),
        (described(first={**DENSE, "digest": "02"}), ["value"], 0),
        (described(first={**DENSE, "kind": "torch.float16 (2, 3) on cuda:0"}), ["kind"], 0),
        (described(first=DENSE, second=DENSE), ["count"], 0),
        ({"one": {"variant": "", "raised": "RuntimeError", "text": "no"}}, ["exception"], 0),
        ({}, ["missing"], 0),
        ({"ended": {"variant": "", "text": "signal 6"}}, ["crash"], 0),
    ],
)
def test_the_comparison_with_native_tells_what_differs(
    native: ModuleType, given: dict[str, Any], aspects: list[str], equal: int
) -> None:
    found = native.compare("add", [described(first=DENSE)] * 2, given)
    assert ([each.aspect for each in found.differences], found.checks, found.equal) == (aspects, 1, equal)


def test_what_two_native_runs_differ_in_is_left_out(native: ModuleType) -> None:
    runs = [described(first=DENSE), described(first={**DENSE, "digest": "02"})]
    found = native.compare("add", runs, described(first={**DENSE, "digest": "03"}))
    assert (found.left_out, found.checks, found.passes) == (1, 0, True)


def test_a_process_that_lost_its_device_is_replaced_and_the_rest_is_asked_of_another(native: ModuleType) -> None:
    answers = [{"checks": {"one": {}, "two": {}}, "lost": True}, {"checks": {"three": {}}, "lost": False}]
    host = Mock(ask=Mock(side_effect=answers))
    assert list(native.describe(host, "add")) == ["one", "two", "three"]
    assert [each.args for each in host.ask.call_args_list] == [("add", 0), ("add", 2)]
    host.stop.assert_called_once_with()
