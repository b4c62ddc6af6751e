"""What counts as a change between two records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avec.bench.comparison import Change, changes, read, unlike
from avec.errors import ConfigurationError


def results(p50: float, spread: float = 0.0, accelerator: str = "CPU", **others: Any) -> dict[str, Any]:
    times = {"p50": p50, "p25": p50 - spread / 2, "p75": p50 + spread / 2, "n": 25}
    where = {"native": {"accelerator": accelerator}}
    return {"quick": False, "where": where, "work": {"W2.latency": {"native": {"ms": times}}}, **others}


@pytest.mark.parametrize("now_ms", [10.0, 10.4, 9.6])
def test_a_change_of_less_than_five_percent_is_none(now_ms: float) -> None:
    assert list(changes(results(10.0), results(now_ms))) == []


@pytest.mark.parametrize("now_ms", [11.0, 8.0])
def test_a_change_beyond_the_noise_is_told(now_ms: float) -> None:
    expected = [Change("W2.latency", "native", 10.0, now_ms)]
    assert list(changes(results(10.0, 0.5), results(now_ms, 0.5))) == expected


def test_a_change_within_the_noise_of_either_record_is_none() -> None:
    assert list(changes(results(10.0, 8.0), results(12.0))) == []
    assert list(changes(results(10.0), results(12.0, 8.0))) == []


def test_what_only_one_record_has_is_no_change() -> None:
    assert (
        list(changes(results(10.0), {**results(10.0), "work": {"W6.item": {"native": {"error": "RuntimeError"}}}}))
        == []
    )


def test_records_of_unlike_things_are_told_apart() -> None:
    assert unlike(results(1.0), results(1.0)) == []
    assert unlike(results(1.0, accelerator="H200"), results(1.0)) == ["accelerators H200, now CPU"]
    assert unlike(results(1.0), results(1.0, quick=True)) == ["quick sizes now, full ones before"]


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"results": {}})])
def test_only_records_are_compared_with(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="cannot compare with .*record.json"):
        read(path)
