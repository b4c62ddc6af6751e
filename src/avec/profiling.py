"""Execution cycles: where the time and the bytes of each forwarded call went; summary, report and trace of them.

    encode ─ send ─ queue ─ compute ─ return ─ decode
     host    link   destination       link     host

Not here: clocks (the session reads them) and printing (the command line does it).
"""

from __future__ import annotations

import json
import math
import platform
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec

from avec.errors import ConfigurationError

STAGES = ("encode", "send", "queue", "compute", "return", "decode")
CYCLE_LIMIT = 100_000  # cycles kept in full, about 40 MB; later ones are only counted


class ExecutionCycle(msgspec.Struct, frozen=True, gc=False):
    """One forwarded call; times in nanoseconds on the host's clock."""

    call: int
    name: str  # "caffe.forward"
    site: str  # the application's place of call, "app.py:12"
    began_ns: int
    stages_ns: tuple[int, int, int, int, int, int]  # in the order of STAGES
    tensor_nbytes_up: int
    tensor_nbytes_down: int
    wire_nbytes_up: int
    wire_nbytes_down: int
    kernels: int
    waited: bool = False  # whether the application asked for the answer before it was there
    blocked_ns: int = 0  # for how long it could not go on: for credit, for the network to take tensors, for the answer

    @property
    def total_ns(self) -> int:
        """From the application's call to the result in its hands."""
        return sum(self.stages_ns)


@dataclass(frozen=True, slots=True)
class Origin:
    """What was measured, beside what: the head of a report."""

    destination: str
    accelerator: str
    numerics: str
    round_trip_ms: float
    software: str


@dataclass(frozen=True, slots=True)
class ModelTransfer:
    """One model made available at the destination: hashed if it was new, offered, and uploaded as far as missing."""

    name: str
    nbytes: int
    uploaded_nbytes: int
    seconds: float
    began_ns: int = 0  # on the host's clock


Direction = Literal["frames", "results"]  # the tensors of calls, and those that come back


@dataclass(slots=True)
class CodecUse:
    """What one codec did for one tensor of one kind of call, in all."""

    name: str  # of the call
    direction: Direction
    place: int
    dtype: str
    shape: tuple[int, ...]
    codec: str
    lossy: bool
    calls: int = 0
    nbytes: int = 0  # before
    wire_nbytes: int = 0  # and after
    encode_ns: int = 0
    decode_ns: int = 0


class Recorder:
    """Keeps a process's execution cycles and model transfers. Thread-safe."""

    def __init__(self) -> None:
        self._cycles: list[ExecutionCycle] = []
        self._dropped = 0
        self._compute_ns = 0
        self._lock = threading.Lock()
        self.transfers: list[ModelTransfer] = []
        self.origin: Origin | None = None
        self.codecs: Sequence[CodecUse] = ()  # of large tensors, by call site

    def add(self, cycle: ExecutionCycle) -> None:
        """Keep one cycle, or only count it once there are very many."""
        with self._lock:
            self._compute_ns += cycle.stages_ns[STAGES.index("compute")]
            if len(self._cycles) < CYCLE_LIMIT:
                self._cycles.append(cycle)
            else:
                self._dropped += 1

    @property
    def uploaded_nbytes(self) -> int:
        """Model bytes that went over the upload connections."""
        return sum(transfer.uploaded_nbytes for transfer in self.transfers)

    @property
    def cycles(self) -> Sequence[ExecutionCycle]:
        """A copy of what was kept, in the order of completion."""
        with self._lock:
            return tuple(self._cycles)

    @property
    def compute_ns(self) -> int:
        """How long destinations have computed for this process, over all cycles."""
        return self._compute_ns

    @property
    def dropped(self) -> int:
        """How many cycles were too many to keep."""
        return self._dropped


def percentile(values: Iterable[float], fraction: float) -> float:
    """The nearest-rank percentile; 0 for no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)] if ordered else 0.0


def by_name(cycles: Iterable[ExecutionCycle]) -> dict[str, list[ExecutionCycle]]:
    """Group cycles by what was called, in the order of first appearance."""
    groups: dict[str, list[ExecutionCycle]] = defaultdict(list)
    for cycle in cycles:
        groups[cycle.name].append(cycle)
    return dict(groups)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of call cost: times in milliseconds, medians but for `total_p95_ms`."""

    name: str
    count: int
    stages_ms: dict[str, float]
    total_ms: float
    total_p95_ms: float
    tensor_nbytes_up: int
    tensor_nbytes_down: int
    wire_nbytes_up: int
    wire_nbytes_down: int
    kernels: int


def profile(name: str, cycles: Sequence[ExecutionCycle]) -> Profile:
    """Summarise the cycles of one kind of call; byte counts and kernels are per call, medians."""

    def median(values: Iterable[float]) -> float:
        return percentile(values, 0.5)

    return Profile(
        name=name,
        count=len(cycles),
        stages_ms={
            stage: median(cycle.stages_ns[place] / 1e6 for cycle in cycles) for place, stage in enumerate(STAGES)
        },
        total_ms=median(cycle.total_ns / 1e6 for cycle in cycles),
        total_p95_ms=percentile((cycle.total_ns / 1e6 for cycle in cycles), 0.95),
        tensor_nbytes_up=int(median(cycle.tensor_nbytes_up for cycle in cycles)),
        tensor_nbytes_down=int(median(cycle.tensor_nbytes_down for cycle in cycles)),
        wire_nbytes_up=int(median(cycle.wire_nbytes_up for cycle in cycles)),
        wire_nbytes_down=int(median(cycle.wire_nbytes_down for cycle in cycles)),
        kernels=int(median(cycle.kernels for cycle in cycles)),
    )


def profiles(recorder: Recorder) -> list[Profile]:
    """One profile for each kind of call."""
    return [profile(name, cycles) for name, cycles in by_name(recorder.cycles).items()]


def write_report(path: Path, recorder: Recorder) -> None:
    """Write all that was recorded as JSON: origin, codecs, profiles, each cycle.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    report = {
        "origin": asdict(recorder.origin) if recorder.origin else None,
        "host": {"python": platform.python_version(), "platform": platform.platform()},
        "transfers": [asdict(transfer) for transfer in recorder.transfers],
        "stages": STAGES,
        "codecs": [asdict(each) for each in recorder.codecs],
        "profiles": [asdict(each) for each in profiles(recorder)],
        "cycles": [msgspec.structs.asdict(cycle) for cycle in recorder.cycles],
        "cycles_dropped": recorder.dropped,
    }
    _write(path, report)


def write_trace(path: Path, recorder: Recorder) -> None:
    """Write the cycles for chrome://tracing or ui.perfetto.dev, one track for each stage.

    Source: the Trace Event Format, complete events ("ph": "X"), times in microseconds.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": place + 1, "args": {"name": stage}}
        for place, stage in enumerate(STAGES)
    ]
    for cycle in recorder.cycles:
        events.extend(_trace_events(cycle))
    _write(path, {"traceEvents": events, "displayTimeUnit": "ms"})


def _trace_events(cycle: ExecutionCycle) -> Iterable[dict[str, object]]:
    began_ns = cycle.began_ns
    details = {"call": cycle.call, "site": cycle.site, "kernels": cycle.kernels}
    for place, (stage, duration_ns) in enumerate(zip(STAGES, cycle.stages_ns, strict=True)):
        yield {
            "ph": "X",
            "name": cycle.name,
            "cat": stage,
            "pid": 1,
            "tid": place + 1,
            "ts": began_ns / 1e3,
            "dur": duration_ns / 1e3,
            "args": details,
        }
        began_ns += duration_ns


def _write(path: Path, content: object) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc}") from exc
