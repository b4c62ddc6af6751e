"""What AVEC adds to a frame of OpenPose: the executor in-process and AVEC over loopback, in turn, in one run.

Also what a cold and a warm start upload, the bytes of a cycle beside the paper's Eq. 1, the host's memory, and what
the interception adds to an interpreter's start. Writes one record to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from processes import HERE, destination, run
from record import summary, write

sys.path.insert(0, str(HERE.parent / "examples" / "openpose"))

# The paper's Eq. 1: 8 + 4 bytes of metadata, the frame, and the maps at 1/8 of its size (57 of 3 channels for COCO).
METADATA_NBYTES = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="coco", help="a topology of examples/openpose, or pose_people")
    parser.add_argument("--width", type=int, default=656)
    parser.add_argument("--height", type=int, default=368)
    parser.add_argument("--frames", type=int, default=10, help="frames measured in each turn")
    parser.add_argument("--turns", type=int, default=2, help="how often native and AVEC take turns")
    parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
    parser.add_argument("--name", help="the record's name; default cycle-<model>-<accelerator>-<numerics>")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    name = arguments.name or f"cycle-{arguments.model}-{results['accelerator_kind']}-{arguments.numerics}"
    path = write(name, results["accelerator"], "loopback, no added delay", results, arguments.results)
    for line in lines(results):
        print(line)
    print(f"record: {path}")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run everything; give the record's results."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ["AVEC_CACHE_DIR"] = str(folder / "avec")
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as a destination sets it, so that both compute alike
    prototxt, weights = model_files(arguments)
    time.sleep(2.5)  # digests are only remembered of files that were left alone for a while
    size = ["--width", str(arguments.width), "--height", str(arguments.height)]
    loop = [str(prototxt), str(weights), *size, "--frames", str(arguments.frames)]
    native, remote, reports = [], [], []
    with destination() as url:
        for turn in range(arguments.turns):
            native.append(run([str(HERE / "native_loop.py"), *loop, "--numerics", arguments.numerics]))
            report = folder / f"report-{turn}.json"
            options = ["-m", "avec", "run", "--on", url, "--report", str(report), "--numerics", arguments.numerics]
            remote.append(run([*options, str(HERE / "frame_loop.py"), *loop]))
            reports.append(json.loads(report.read_text("utf-8")))
    return evaluate(arguments, native, remote, reports, weights.stat().st_size)


def evaluate(
    arguments: argparse.Namespace, native: list[dict], remote: list[dict], reports: list[dict], model_nbytes: int
) -> dict[str, object]:
    """Put the record's results together."""
    native_ms = [1e3 * seconds for each in native for seconds in each["frame_s"]]
    remote_ms = [1e3 * seconds for each in remote for seconds in each["frame_s"]]
    frame_overhead_ms, cycle_overhead_ms, stages_ms, cycles = [], [], [], []
    for each, report in zip(remote, reports, strict=True):
        forwards = [cycle for cycle in report["cycles"] if cycle["name"] == "caffe.forward"][-arguments.frames :]
        cycles += forwards
        place = report["stages"].index("compute")
        computed = [cycle["stages_ns"][place] / 1e6 for cycle in forwards]
        frame_overhead_ms += [1e3 * total - compute for total, compute in zip(each["frame_s"], computed, strict=True)]
        cycle_overhead_ms += [
            sum(cycle["stages_ns"]) / 1e6 - compute for cycle, compute in zip(forwards, computed, strict=True)
        ]
        stages_ms += [[stage / 1e6 for stage in cycle["stages_ns"]] for cycle in forwards]
    up, down = cycles[-1]["tensor_nbytes_up"], cycles[-1]["tensor_nbytes_down"]
    cold, warm = (
        next(each for each in report["transfers"] if each["nbytes"] == model_nbytes)
        for report in (reports[0], reports[-1])
    )
    return {
        "model": arguments.model,
        "resolution": f"{arguments.width}x{arguments.height}",
        "numerics": arguments.numerics,
        "accelerator": reports[0]["origin"]["accelerator"],
        "accelerator_kind": "cuda" if "(cuda" in reports[0]["origin"]["accelerator"] else "cpu",
        "native_frame_ms": summary(native_ms),
        "avec_frame_ms": summary(remote_ms),
        "ratio_p50": statistics.median(remote_ms) / statistics.median(native_ms),
        "cycle_minus_compute_ms": summary(cycle_overhead_ms),
        "frame_minus_compute_ms": summary(frame_overhead_ms),
        "stages_ms_p50": dict(
            zip(reports[0]["stages"], map(statistics.median, zip(*stages_ms, strict=True)), strict=True)
        ),
        "kernels": cycles[-1]["kernels"],
        "tensor_nbytes_up": up,
        "tensor_nbytes_down": down,
        "equation_1_nbytes": METADATA_NBYTES + up + down,
        "framing_nbytes": cycles[-1]["wire_nbytes_up"] + cycles[-1]["wire_nbytes_down"] - up - down,
        "model_nbytes": model_nbytes,
        "cold_load_s": remote[0]["load_s"],
        "cold_uploaded_nbytes": cold["uploaded_nbytes"],
        "cold_upload_gb_per_s": model_nbytes / cold["seconds"] / 1e9,
        "warm_load_s": remote[-1]["load_s"],
        "warm_uploaded_nbytes": warm["uploaded_nbytes"],
        "host_peak_resident_mb": max(each["peak_resident_nbytes"] for each in remote) / 1e6,
        "host_memory_bound_mb": model_nbytes / 1e6 + 100,
        "interpreter_start": interpreter_start(),
        "same_results": native[0]["checksum"] == remote[0]["checksum"],
        "checksums": {"native": native[0]["checksum"], "avec": remote[0]["checksum"]},
    }


def model_files(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The prototxt and the weights, random ones for a topology."""
    from models import MODELS, Resolution

    model = MODELS[arguments.model]
    return model.prototxt(Resolution(arguments.width, arguments.height)), model.caffemodel()


def interpreter_start() -> dict[str, object]:
    """An empty program's wall time, with and without the bootstrap in its environment, in turn."""
    from avec import config
    from avec.interception.environment import intercepted as environment_of_run

    plain, intercepted = [], []
    for _ in range(30):
        plain.append(empty_program_ms(dict(os.environ)))
        intercepted.append(empty_program_ms(environment_of_run(config.load(), os.environ)))
    added_ms = statistics.median(intercepted) - statistics.median(plain)
    return {"plain_ms": summary(plain), "intercepted_ms": summary(intercepted), "added_ms_p50": added_ms}


def empty_program_ms(environ: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], env=environ, check=True)
    return 1e3 * (time.perf_counter() - began)


def lines(results: dict) -> Iterator[str]:
    """The results for a person."""
    native, remote = results["native_frame_ms"], results["avec_frame_ms"]
    cycle, frame = results["cycle_minus_compute_ms"], results["frame_minus_compute_ms"]
    yield f"{results['model']} {results['resolution']} {results['numerics']} on {results['accelerator']}"
    yield f"  executor in-process   {native['p50']:.2f} ms a frame (p95 {native['p95']:.2f}, n {native['n']})"
    yield f"  AVEC over loopback    {remote['p50']:.2f} ms a frame (p95 {remote['p95']:.2f})"
    yield f"  ratio                 {results['ratio_p50']:.3f}"
    yield f"  cycle − compute       {cycle['p50']:.2f} ms (p95 {cycle['p95']:.2f})"
    yield f"  frame − compute       {frame['p50']:.2f} ms (p95 {frame['p95']:.2f}), writing the input included"
    yield "  stages                " + ", ".join(f"{name} {ms:.2f}" for name, ms in results["stages_ms_p50"].items())
    yield f"  bytes                 {results['equation_1_nbytes']:,} by Eq. 1, framing {results['framing_nbytes']}"
    yield f"  cold start            {results['cold_load_s']:.2f} s, {results['cold_upload_gb_per_s']:.2f} GB/s"
    yield f"  warm start            {results['warm_load_s']:.2f} s, {results['warm_uploaded_nbytes']} model bytes"
    peak, bound = results["host_peak_resident_mb"], results["host_memory_bound_mb"]
    yield f"  host memory           {peak:.0f} MB at its peak (bound {bound:.0f})"
    yield f"  interpreter start     +{results['interpreter_start']['added_ms_p50']:.1f} ms"
    yield f"  same results          {results['same_results']}"


if __name__ == "__main__":
    main()
