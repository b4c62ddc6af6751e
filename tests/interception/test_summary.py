"""What `avec run -v` leaves on stderr."""

from __future__ import annotations

import pytest

from avec.interception.summary import MODELS_SHOWN, size, summary
from avec.profiling import CodecUse, ExecutionCycle, ModelTransfer, Origin, Recorder


def cycle(number: int, compute_ms: int) -> ExecutionCycle:
    stages_ns = (1_000_000, 2_000_000, 0, compute_ms * 1_000_000, 0, 500_000)
    return ExecutionCycle(
        number, "caffe.forward", "app.py:12", 0, stages_ns, 2_583_072, 1_173_852, 2_600_000, 1_200, 150
    )


def test_each_kind_of_call_has_a_row_of_medians() -> None:
    recorder = Recorder()
    recorder.origin = Origin("tcp://box:7700", "H200 (cuda, 139 GiB)", "strict", 0.1234, "avec 0.1.0")
    recorder.transfers.append(ModelTransfer("pose.caffemodel", 209_000_000, 0, 0.51))
    for number, compute_ms in enumerate((10, 20, 30)):
        recorder.add(cycle(number, compute_ms))
    assert summary(recorder).splitlines() == [
        "avec: computed at tcp://box:7700 on H200 (cuda, 139 GiB), numerics strict, round trip 0.123 ms",
        "avec: model pose.caffemodel: 209 MB, was there already",
        "avec: call           count  p50 ms  p95 ms  encode  send  queue  compute  return  decode"
        "    sent  received  kernels",
        "avec: caffe.forward      3   23.50   33.50    1.00  2.00   0.00    20.00    0.00    0.50"
        "  2.6 MB    1.2 kB      150",
        "avec: medians per call; the stages in milliseconds",
    ]


def test_what_codecs_have_written_is_told_and_what_is_lossy_by_name() -> None:
    recorder = Recorder()
    recorder.add(cycle(0, 1))
    frame = ("caffe.forward", "frames", 0, "float32", (1, 3, 368, 656))
    recorder.codecs = (
        CodecUse(*frame, "raw", False, 1, 2_900_000, 2_900_000),
        CodecUse(*frame, "palette", False, 3, 8_700_000, 2_175_000),
        CodecUse("caffe.forward", "results", 1, "float32", (57,), "fp16", True, 1, 860_000, 430_000),
    )
    assert summary(recorder).splitlines()[-2:] == [
        "avec: codec palette: 3 frames of caffe.forward, float32 1×3×368×656, 2.9 MB as 725 kB",
        "avec: codec fp16 (lossy): 1 results of caffe.forward, float32 57, 860 kB as 430 kB",
    ]


def test_a_session_without_calls_says_so() -> None:
    assert summary(Recorder()) == "avec: no call was forwarded\n"


def test_many_models_are_counted() -> None:
    recorder = Recorder()
    recorder.transfers += [ModelTransfer(f"model {n}", 1, 1, 0.0) for n in range(MODELS_SHOWN + 2)]
    assert "avec: and 2 models more\n" in summary(recorder)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (999, "999 B"), (1_000, "1 kB"), (3_756_924, "3.76 MB"), (5 * 10**12, "5 TB")]
)
def test_sizes_are_written_for_people(nbytes: int, text: str) -> None:
    assert size(nbytes) == text
