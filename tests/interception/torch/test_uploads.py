"""Weights cross the link once, whatever program brings them; data that has changed is never mistaken for the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from destinations import running
from launching import AVEC, execute

PROGRAM = str(Path(__file__).parent / "programs" / "weights.py")
WEIGHTS_NBYTES = 4 * 512 * 512 * 4  # the biases are small enough to be sent as they are


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two starts of one program report, each with its output."""
    folder = tmp_path_factory.mktemp("reports")
    found = []
    with running(folder) as destination:
        for number in range(2):
            path = folder / f"{number}.json"
            options = ("--on", destination.url, "--report", str(path))
            status, output, errors = execute(*AVEC, "run", *options, PROGRAM)
            assert (status, errors) == (0, "")
            found.append(json.loads(path.read_text("utf-8")) | {"output": output})
    return found


def test_a_second_start_sends_no_weights(reports: list[dict]) -> None:
    first, second = (sum(each["uploaded_nbytes"] for each in report["transfers"]) for report in reports)
    assert first >= WEIGHTS_NBYTES
    assert second == 0
    assert sum(each["nbytes"] for each in reports[1]["transfers"]) >= WEIGHTS_NBYTES


def test_the_results_are_the_same(reports: list[dict]) -> None:
    assert reports[0]["output"] == reports[1]["output"]


def test_data_that_was_changed_behind_torch_is_sent_anew(reports: list[dict]) -> None:
    sums = json.loads(reports[0]["output"].splitlines()[1].replace("'", '"'))
    assert sums[0] == sums[1]
    assert float(sums[2]) > float(sums[0]) + 900
    assert sums[2] == sums[3]
