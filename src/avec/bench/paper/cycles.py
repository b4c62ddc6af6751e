"""What one run of the measured program came to: its tests, with the execution cycles that AVEC's report has of each."""

from __future__ import annotations

import statistics
from typing import Any

from avec.bench.paper.running import Line, Ran
from avec.bench.record import summary
from avec.profiling import STAGES

FORWARD = "caffe.forward"
# The parts of a frame's time in the paper's figures 8 and 9; what is not in them is "other", the host's own work.
PARTS = {"send": ("encode", "send"), "compute": ("queue", "compute"), "receive": ("return", "decode")}


def evaluated(ran: Ran, files: Line) -> Line:
    """The results of a run as a record holds them."""
    found: Line = {"where": ran.where, "tests": {name: _test(line, ran) for name, line in ran.tests.items()}}
    if ran.failure:
        found["failure"] = ran.failure
    if ran.report is not None:
        origin = ran.report["origin"] or {}
        found["where"] = {**ran.where, **{name: origin.get(name) for name in ("accelerator", "round_trip_ms")}}
        sizes = {files["model_nbytes"]}
        found["transfers"] = [each for each in ran.report["transfers"] if each["nbytes"] in sizes]
        loads = [each for each in ran.report["cycles"] if each["name"] == "caffe.load"]
        found["first_load_ms"] = sum(loads[0]["stages_ns"]) / 1e6 if loads else None
    return found


def _test(line: Line, ran: Ran) -> Line:
    kept = {name: value for name, value in line.items() if name not in ("test", "windows_ns", "window_ns", "ended_s")}
    match line["kind"]:
        case "cycle":
            frames_ms = [(ended - began) / 1e6 for began, ended in line["windows_ns"]]
            kept["frame_ms"] = summary(frames_ms)
            window = line["windows_ns"][0][0], line["windows_ns"][-1][1]
        case "application":
            steps = [later - earlier for earlier, later in zip([0.0, *line["ended_s"]], line["ended_s"], strict=False)]
            kept["frame_ms"] = summary([1e3 * each for each in steps]) if steps else None
            kept["fps"] = line["frames"] / line["seconds"] if line["seconds"] else 0.0
            window = line["window_ns"]
        case _:
            return kept
    if ran.report is not None:
        kept["cycle"] = _cycle(ran.report, *window)
    return kept


def _cycle(report: Line, began_ns: int, ended_ns: int) -> Line | None:
    """Medians over the frames that were forwarded in a window."""
    cycles = [each for each in report["cycles"] if each["name"] == FORWARD and began_ns <= each["began_ns"] < ended_ns]
    if not cycles:
        return None

    def median(name: str) -> float:
        return float(statistics.median(each[name] for each in cycles))

    stages_ms = [dict(zip(STAGES, (each / 1e6 for each in cycle["stages_ns"]), strict=True)) for cycle in cycles]
    over_ms: list[Any] = [sum(each.values()) - each["compute"] for each in stages_ms]
    counts = ("tensor_nbytes_up", "tensor_nbytes_down", "wire_nbytes_up", "wire_nbytes_down", "kernels")
    return {
        "count": len(cycles),
        "stages_ms": {name: summary([each[name] for each in stages_ms]) for name in STAGES},
        "over_compute_ms": summary(over_ms),
        "total_ms": summary([sum(each.values()) for each in stages_ms]),
        **{name: median(name) for name in counts},
    }
