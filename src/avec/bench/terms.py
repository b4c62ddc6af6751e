"""What a measured time consists of: host issue, destination compute, bytes ÷ bandwidth, waits × round trip.

The terms come from AVEC's report, whose execution cycles are on the clock that the measured program reads too, so that
each belongs to the repetition in which it began.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from avec.bench.calibration import Calibration
from avec.profiling import STAGES

_COMPUTE = STAGES.index("compute")


@dataclass(frozen=True, slots=True)
class Terms:
    """Medians over the repetitions of what one item took; times in milliseconds."""

    host_issue_ms: float  # the time less that for which the program was blocked
    destination_ms: float  # that its worker was busy, transfers to and from the accelerator included
    waits: float  # answers that the program asked for before they were there
    up_nbytes: float  # on the wire, uploads of models included
    down_nbytes: float
    bytes_ms: float  # at the goodput that the link was calibrated to have; 0 where that is not known
    waits_ms: float  # at its round trip

    @property
    def predicted_ms(self) -> float:
        """max(host issue, destination compute, bytes ÷ bandwidth) + waits × round trip."""
        return max(self.host_issue_ms, self.destination_ms, self.bytes_ms) + self.waits_ms


class Report:
    """The cycles and uploads of AVEC's report, found by when they began."""

    def __init__(self, report: dict[str, Any]) -> None:
        self._cycles = sorted(report["cycles"], key=_began_ns)
        self._uploads = sorted(report["transfers"], key=_began_ns)
        self._began_ns = [_began_ns(each) for each in self._cycles]
        self.whole = not report["cycles_dropped"]

    def terms(self, windows_ns: Iterable[Sequence[int]], per: int, link: Calibration) -> Terms:
        """The terms of a measurement whose repetitions took place in these windows, each with `per` items."""
        windows = [self._window(*each) for each in windows_ns]

        def median(name: str) -> float:
            return statistics.median(each[name] for each in windows) / per

        up_rate, down_rate = link.rates
        up_nbytes, down_nbytes, waits = median("up_nbytes"), median("down_nbytes"), median("waits")
        return Terms(
            host_issue_ms=median("issue_ns") / 1e6,
            destination_ms=median("compute_ns") / 1e6,
            waits=waits,
            up_nbytes=up_nbytes,
            down_nbytes=down_nbytes,
            bytes_ms=1e3 * max(up_nbytes / up_rate, down_nbytes / down_rate) if up_rate and down_rate else 0.0,
            waits_ms=1e3 * waits * link.round_trip_s,
        )

    def _window(self, began_ns: int, ended_ns: int) -> dict[str, float]:
        cycles = self._cycles[bisect_left(self._began_ns, began_ns) : bisect_left(self._began_ns, ended_ns)]
        uploads = [each for each in self._uploads if began_ns <= _began_ns(each) < ended_ns]
        blocked_ns = sum(each["blocked_ns"] for each in cycles)
        return {
            "issue_ns": max(0, ended_ns - began_ns - blocked_ns),
            "compute_ns": sum(each["stages_ns"][_COMPUTE] for each in cycles),
            "waits": sum(each["waited"] for each in cycles),
            "up_nbytes": sum(each["wire_nbytes_up"] for each in cycles)
            + sum(each["uploaded_nbytes"] for each in uploads),
            "down_nbytes": sum(each["wire_nbytes_down"] for each in cycles),
        }


def _began_ns(each: dict[str, Any]) -> int:
    return int(each["began_ns"])
