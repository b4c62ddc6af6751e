"""The terms of a measured time, from the cycles and uploads that began in its repetitions."""

from __future__ import annotations

from typing import Any

import pytest

from avec.bench.calibration import Calibration
from avec.bench.terms import Report

LINK = Calibration({"p50": 2.0}, up_gbit_s=8.0, down_gbit_s=0.8, delay_ms=0.9)
MS = 1_000_000


def cycle(began_ms: int, compute_ms: int = 0, blocked_ms: int = 0, waited: bool = False) -> dict[str, Any]:
    return {
        "began_ns": began_ms * MS,
        "stages_ns": [0, 0, 0, compute_ms * MS, 0, 0],
        "blocked_ns": blocked_ms * MS,
        "waited": waited,
        "wire_nbytes_up": 1000,
        "wire_nbytes_down": 100,
    }


def report(*cycles: dict[str, Any], dropped: int = 0, **uploads_ms: int) -> Report:
    transfers = [{"began_ns": began_ms * MS, "uploaded_nbytes": 5000} for began_ms in uploads_ms.values()]
    return Report({"cycles": list(cycles), "transfers": transfers, "cycles_dropped": dropped})


def test_host_issue_is_the_time_for_which_the_program_was_not_blocked() -> None:
    terms = report(cycle(1), cycle(3, blocked_ms=6, waited=True)).terms([(0, 10 * MS)], 1, LINK)
    assert (terms.host_issue_ms, terms.waits, terms.waits_ms) == (4.0, 1, 2.0)


def test_cycles_count_where_they_began() -> None:
    cycles = [cycle(0, 1), cycle(9, 2), cycle(10, 4), cycle(20, 8)]
    found = report(*cycles)
    assert found.terms([(0, 10 * MS)], 1, LINK).destination_ms == 3
    assert found.terms([(10 * MS, 20 * MS)], 1, LINK).destination_ms == 4


def test_uploads_of_models_are_bytes_on_the_wire() -> None:
    terms = report(cycle(1), inside=2, outside=30).terms([(0, 10 * MS)], 1, LINK)
    assert (terms.up_nbytes, terms.down_nbytes) == (6000, 100)
    assert terms.bytes_ms == pytest.approx(0.006)


def test_terms_are_medians_over_repetitions_for_one_item() -> None:
    cycles = [cycle(0, 2), cycle(10, 4), cycle(20, 90)]
    windows = [(begin * MS, (begin + 10) * MS) for begin in (0, 10, 20)]
    assert report(*cycles).terms(windows, 2, LINK).destination_ms == 2


def test_the_formula_takes_the_largest_of_what_overlaps_and_adds_the_waits() -> None:
    terms = report(cycle(0, compute_ms=3), cycle(5, compute_ms=5, blocked_ms=4, waited=True))
    assert terms.terms([(0, 10 * MS)], 1, LINK).predicted_ms == pytest.approx(8 + 2)


def test_bytes_take_no_time_where_goodput_was_not_measured() -> None:
    unknown = Calibration({"p50": 2.0}, 0.0, 0.0, 0.0)
    assert report(cycle(0)).terms([(0, MS)], 1, unknown).bytes_ms == 0


def test_a_way_to_another_machine_is_part_of_the_round_trip() -> None:
    assert LINK.behind(0.003).round_trip_s == pytest.approx(0.005)


def test_a_report_that_dropped_cycles_is_not_whole() -> None:
    assert report().whole
    assert not report(dropped=1).whole
