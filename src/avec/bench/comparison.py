"""What has changed between two records, beyond the noise of both."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avec.bench.measuring import accelerators
from avec.errors import ConfigurationError

SMALLEST_CHANGE = 0.05  # of the earlier median: machines vary by that between runs
STANDARD_ERRORS = 3.0
# Of normally distributed values, the interquartile range is 1.35 standard deviations, and the standard error of a
# median 1.25 of them, divided by the square root of their number.
_MEDIAN_ERROR = 1.25 / 1.35


@dataclass(frozen=True, slots=True)
class Change:
    """A median that has changed."""

    name: str
    where: str  # natively, or a link
    before_ms: float
    now_ms: float


def read(path: Path) -> dict[str, Any]:
    """Read a record of `avec bench`.

    Raises:
        ConfigurationError: it is none, or cannot be read.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"cannot compare with {path}: {exc}") from exc
    if not isinstance(record, dict) or "work" not in record.get("results", {}):
        raise ConfigurationError(f"cannot compare with {path}: it is no record that `avec bench --output` wrote")
    return record


def changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """The medians of two results that differ by more than their noise."""
    for name, row in now["work"].items():
        for where, found in row.items():
            earlier = before["work"].get(name, {}).get(where, {})
            if "ms" in found and "ms" in earlier and _differs(earlier["ms"], found["ms"]):
                yield Change(name, where, earlier["ms"]["p50"], found["ms"]["p50"])


def unlike(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In which respects two results are not of the same thing: "accelerators NVIDIA H200, now CPU"."""
    found = []
    if accelerators(before) != accelerators(now):
        found.append(f"accelerators {accelerators(before)}, now {accelerators(now)}")
    if before["quick"] != now["quick"]:
        found.append("quick sizes" + (", now full ones" if before["quick"] else " now, full ones before"))
    return found


def _differs(before: dict[str, float], now: dict[str, float]) -> bool:
    difference = abs(now["p50"] - before["p50"])
    noise = math.hypot(_error(before), _error(now))
    return difference > max(SMALLEST_CHANGE * before["p50"], STANDARD_ERRORS * noise)


def _error(times: dict[str, float]) -> float:
    return _MEDIAN_ERROR * (times["p75"] - times["p25"]) / math.sqrt(times["n"])
