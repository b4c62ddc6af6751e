"""`avec bench` as a user calls it, against a real destination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launching import AVEC, execute

EARLIER = Path(__file__).parents[2] / "benchmarks" / "results" / "bench-h200.json"
MEASURED = ("W2.latency", "W2.back_to_back", "W6.tiny_operator", "W6.item", "W6.synchronize")
LINKS = ("loopback", "5ms")
TIMEOUT_S = 240.0  # half a minute on two idle cores

pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A record, and what was printed."""
    path = tmp_path_factory.mktemp("bench") / "record.json"
    options = ["--quick", "--work", "W2,W6", "--link", ",".join(LINKS), "--output", str(path), "--note", "a test"]
    options += ["--compare", str(EARLIER)]
    status, stdout, stderr = execute(*AVEC, "bench", *options, timeout_s=TIMEOUT_S)
    assert status == 0, stderr
    return path, stdout


@pytest.fixture(scope="module")
def results(benched: tuple[Path, str]) -> dict[str, Any]:
    """The record's results."""
    found: dict[str, Any] = json.loads(benched[0].read_text("utf-8"))["results"]
    return found


def test_a_record_says_where_when_and_how(benched: tuple[Path, str]) -> None:
    environment = json.loads(benched[0].read_text("utf-8"))["environment"]
    assert {"date", "command", "accelerator", "processor", "cores", "system", "versions"} <= set(environment)
    assert environment["command"].startswith("avec bench --quick --work W2,W6")
    assert environment["link"] == ", ".join(LINKS)


def test_everything_was_measured_natively_and_over_each_link(results: dict[str, Any]) -> None:
    assert results["failures"] == {}
    assert tuple(results["work"]) == MEASURED
    assert {tuple(row) for row in results["work"].values()} == {("native", *LINKS)}
    times = [found["ms"] for row in results["work"].values() for found in row.values()]
    assert all({"p50", "p95", "min", "max", "n"} <= set(each) and each["n"] >= 2 for each in times)


def test_native_and_avec_have_the_same_bits(results: dict[str, Any]) -> None:
    equal = {(name, link): results["work"][name][link]["equal"] for name in MEASURED for link in LINKS}
    assert equal == {(name, link): None if name == "W6.synchronize" else True for name, link in equal}


def test_the_terms_of_a_number_read_are_one_wait_and_few_bytes(results: dict[str, Any]) -> None:
    terms = results["work"]["W6.item"]["5ms"]["terms"]
    assert terms["waits"] == 1
    assert terms["waits_ms"] == results["calibration"]["5ms"]["round_trip_ms"]["p50"]
    assert 0 < terms["up_nbytes"] < 1000
    assert results["work"]["W6.item"]["5ms"]["ms"]["p50"] >= 4.5


def test_links_and_a_control_were_calibrated(results: dict[str, Any]) -> None:
    assert set(results["calibration"]) == {"control", *LINKS}
    assert results["calibration"]["5ms"]["round_trip_ms"]["p50"] == pytest.approx(5, abs=1)


def test_a_table_of_ratios_and_one_of_terms_for_each_link_are_printed(benched: tuple[Path, str]) -> None:
    printed = benched[1].partition("The records are of unlike things")[0]
    lines = printed.splitlines()
    assert [sum(line.startswith(f"  {name} ") for line in lines) for name in MEASURED] == [3] * len(MEASURED)
    assert benched[1].splitlines()[-1] == f"record: {benched[0]}"


def test_an_earlier_record_is_compared_with(benched: tuple[Path, str]) -> None:
    assert "The records are of unlike things: quick sizes now, full ones before" in benched[1]
    assert "hanges beyond noise" in benched[1] or "Nothing has changed beyond noise." in benched[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--work", "W9"], "there is no workload 'W9'; there are W1, W2, W3, W4, W5, W6, W7"),
        (["--link", "fast"], "there is no link 'fast'; allowed is loopback,"),
        (["--local", "--on", "tcp://127.0.0.1:1"], "--local and --on exclude each other"),
        (["--compare", "/nowhere.json"], "cannot compare with /nowhere.json: "),
    ],
)
def test_wrong_usage_is_one_line(options: list[str], message: str) -> None:
    status, stdout, stderr = execute(*AVEC, "bench", *options)
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"avec: {message}") and stderr.count("\n") == 1
