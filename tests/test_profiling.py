"""Execution cycles: percentiles, reports and traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avec import profiling
from avec.errors import ConfigurationError
from avec.host.progress import Progress
from avec.profiling import STAGES, CodecUse, ExecutionCycle, Origin, Recorder, percentile, profile, profiles
from avec.protocol.messages import Timings


def cycle(call: int, name: str = "caffe.forward", scale: int = 1_000_000) -> ExecutionCycle:
    """Stages of 1 to 6 milliseconds at the default scale."""
    stages = (scale, 2 * scale, 3 * scale, 4 * scale, 5 * scale, 6 * scale)
    return ExecutionCycle(call, name, f"app.py:{call}", call * 10**9, stages, 100, 200, 140, 260, 7)


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        ([], 0.5, 0.0),
        ([7], 0.0, 7),
        ([7], 0.95, 7),
        ([1, 2], 0.5, 1),
        ([3, 1, 2], 0.5, 2),
        (range(1, 101), 0.5, 50),
        (range(1, 101), 0.95, 95),
        (range(1, 101), 1.0, 100),
        (range(1, 21), 0.95, 19),
    ],
)
def test_percentiles_are_by_nearest_rank(values: list[float], fraction: float, expected: float) -> None:
    assert percentile(values, fraction) == expected


def test_a_recorder_counts_what_is_too_many_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "CYCLE_LIMIT", 2)
    recorder = Recorder()
    for number in range(5):
        recorder.add(cycle(number))
    assert ([each.call for each in recorder.cycles], recorder.dropped) == ([0, 1], 3)
    assert recorder.compute_ns == 5 * cycle(0).stages_ns[profiling.STAGES.index("compute")] > 0


def test_cycles_are_profiled_by_what_was_called_in_the_order_of_first_appearance() -> None:
    recorder = Recorder()
    for number, name in enumerate(("caffe.load", "caffe.forward", "caffe.load")):
        recorder.add(cycle(number, name))
    assert [(each.name, each.count) for each in profiles(recorder)] == [("caffe.load", 2), ("caffe.forward", 1)]


def test_a_profile_has_medians_and_the_95th_percentile() -> None:
    found = profile("x", [cycle(number, scale=number * 1_000_000) for number in range(1, 21)])
    assert found.stages_ms == {stage: 10.0 * (place + 1) for place, stage in enumerate(STAGES)}
    assert (found.total_ms, found.total_p95_ms) == (210.0, 399.0)
    assert (found.tensor_nbytes_up, found.wire_nbytes_down, found.kernels) == (100, 260, 7)


def _recorder() -> Recorder:
    recorder = Recorder()
    recorder.origin = Origin("tcp://box:7700", "GPU", "strict", 0.5, "avec 0.1.0")
    for number in range(3):
        recorder.add(cycle(number))
    return recorder


def test_a_report_holds_origin_codecs_profiles_and_cycles(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    recorder = _recorder()
    recorder.codecs = [CodecUse("caffe.forward", "results", 0, "float32", (57, 46), "fp16", True, 3, 600, 300)]
    profiling.write_report(path, recorder)
    report = json.loads(path.read_text())
    (use,) = report["codecs"]
    assert (use["codec"], use["lossy"], use["calls"], use["nbytes"], use["wire_nbytes"]) == ("fp16", True, 3, 600, 300)
    assert report["origin"]["destination"] == "tcp://box:7700"
    assert report["stages"] == list(STAGES)
    assert [each["call"] for each in report["cycles"]] == [0, 1, 2]
    assert report["profiles"][0]["stages_ms"]["compute"] == 4.0


def test_a_trace_shows_each_stage_after_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    profiling.write_trace(path, _recorder())
    events = json.loads(path.read_text())["traceEvents"]
    tracks = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert tracks == list(STAGES)
    stages = [event for event in events if event["ph"] == "X" and event["args"]["call"] == 1]
    assert [event["cat"] for event in stages] == list(STAGES)
    assert [event["ts"] for event in stages] == [1e6, 1e6 + 1e3, 1e6 + 3e3, 1e6 + 6e3, 1e6 + 10e3, 1e6 + 15e3]
    assert stages[-1]["ts"] + stages[-1]["dur"] == 1e6 + cycle(1).total_ns / 1e3


@pytest.mark.parametrize("write", [profiling.write_report, profiling.write_trace])
def test_a_path_that_cannot_be_written_is_a_configuration_error(write: object, tmp_path: Path) -> None:
    assert callable(write)
    with pytest.raises(ConfigurationError, match="cannot write .*none/x.json"):
        write(tmp_path / "none" / "x.json", _recorder())


NS = st.integers(0, 10**10)


@given(NS, NS, NS, NS, NS, NS, st.integers(-(10**12), 10**12), st.integers(0, 10**12))
def test_stages_add_up_to_the_whole_whatever_the_clocks_say(
    encode: int, send: int, queue: int, compute: int, back: int, decode: int, offset: int, error: int
) -> None:
    began = 10**12
    received = began + encode + send + offset + error
    timings = Timings(received, queue, compute, received + queue + compute)
    ended = began + encode + send + queue + compute + back
    progress = Progress(began, began + encode, ended, offset_ns=offset, timings=timings)
    stages = progress.stages_ns(ended + decode)
    assert sum(stages) == ended + decode - began
    assert min(stages) >= 0


def test_with_a_true_clock_offset_the_links_shares_are_told_apart() -> None:
    timings = Timings(received_ns=1_000_000 + 130, queue_ns=20, compute_ns=400, sent_ns=1_000_000 + 550)
    progress = Progress(100, 110, 600, offset_ns=1_000_000, timings=timings)
    assert progress.stages_ns(605) == (10, 20, 20, 400, 50, 5)


def test_without_timings_all_time_away_is_the_links() -> None:
    assert Progress(100, 110, 600).stages_ns(605) == (10, 490, 0, 0, 0, 5)
