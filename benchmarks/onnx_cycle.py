"""What AVEC adds to a run of ONNX Runtime: the executor in-process and AVEC over loopback, in turn, in one run.

Two models: ResNet-50 with random weights, and one that hardly computes, whose runs are what a call costs. Also what a
cold and a warm start upload. Writes one record to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import onnx_resnet
from processes import HERE, destination, gpu_hidden, run
from record import summary, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8], help="batch sizes for ResNet-50")
    parser.add_argument("--runs", type=int, default=50, help="runs measured in each turn")
    parser.add_argument("--turns", type=int, default=2, help="how often native and AVEC take turns")
    parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
    parser.add_argument("--name", help="the record's name; default onnx-cycle-<accelerator>-<numerics>")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    name = arguments.name or f"onnx-cycle-{results['accelerator_kind']}-{arguments.numerics}"
    path = write(name, str(results["accelerator"]), "loopback, no added delay", results, arguments.results)
    for each in results["models"]:
        for line in lines(each):
            print(line)
    print(f"record: {path}")


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    """Run everything; give the record's results."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ["AVEC_CACHE_DIR"] = str(folder / "avec")
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as a destination sets it, so that both compute alike
    small, resnet = onnx_resnet.write_small(folder / "small.onnx"), onnx_resnet.write(folder / "resnet50.onnx")
    time.sleep(2.5)  # digests are only remembered of files that were left alone for a while
    results: dict = {"numerics": arguments.numerics, "models": []}
    with destination() as url:
        for model, batch in ((small, 1), *((resnet, batch) for batch in arguments.batches)):
            measured, origin = compare(arguments, model, batch, url, folder)
            results["models"].append(measured)
            results["accelerator"] = origin["accelerator"]
    results["accelerator_kind"] = "cuda" if "(cuda" in results["accelerator"] else "cpu"
    return results


def compare(arguments: argparse.Namespace, model: Path, batch: int, url: str, folder: Path) -> tuple[dict, dict]:
    """One model at one batch size, natively and under AVEC in turn."""
    loop = [str(model), "--batch", str(batch), "--runs", str(arguments.runs)]
    native, remote, reports = [], [], []
    for turn in range(arguments.turns):
        native.append(run([str(HERE / "onnx_native_loop.py"), *loop, "--numerics", arguments.numerics]))
        report = folder / f"report-{model.stem}-{batch}-{turn}.json"
        options = ["-m", "avec", "run", "--on", url, "--report", str(report), "--numerics", arguments.numerics]
        remote.append(run([*options, str(HERE / "onnx_loop.py"), *loop], gpu_hidden()))
        reports.append(json.loads(report.read_text("utf-8")))
    return evaluate(arguments, model, batch, native, remote, reports), reports[0]["origin"]


def evaluate(
    arguments: argparse.Namespace, model: Path, batch: int, native: list[dict], remote: list[dict], reports: list[dict]
) -> dict:
    """Put one model's results together."""
    native_ms = [1e3 * seconds for each in native for seconds in each["run_s"]]
    remote_ms = [1e3 * seconds for each in remote for seconds in each["run_s"]]
    overhead_ms, stages_ms = [], []
    for report in reports:
        place = report["stages"].index("compute")
        for cycle in [each for each in report["cycles"] if each["name"] == "onnx.run"][-arguments.runs :]:
            stages_ms.append([stage / 1e6 for stage in cycle["stages_ns"]])
            overhead_ms.append(sum(stages_ms[-1]) - stages_ms[-1][place])
    cold, warm = reports[0]["transfers"][0], reports[-1]["transfers"][0]
    return {
        "model": model.stem,
        "batch": batch,
        "engine": native[0]["engine"],
        "native_run_ms": summary(native_ms),
        "avec_run_ms": summary(remote_ms),
        "ratio_p50": statistics.median(remote_ms) / statistics.median(native_ms),
        "cycle_minus_compute_ms": summary(overhead_ms),
        "stages_ms_p50": dict(
            zip(reports[0]["stages"], map(statistics.median, zip(*stages_ms, strict=True)), strict=True)
        ),
        "model_nbytes": model.stat().st_size,
        "first_load_s": remote[0]["load_s"],
        "first_uploaded_nbytes": cold["uploaded_nbytes"],
        "last_load_s": remote[-1]["load_s"],
        "last_uploaded_nbytes": warm["uploaded_nbytes"],
        "host_peak_resident_mb": max(each["peak_resident_nbytes"] for each in remote) / 1e6,
        "same_results": native[0]["checksum"] == remote[0]["checksum"],
        "checksums": {"native": native[0]["checksum"], "avec": remote[0]["checksum"]},
    }


def lines(results: dict) -> list[str]:
    """One model's results for a person."""
    native, remote, cycle = results["native_run_ms"], results["avec_run_ms"], results["cycle_minus_compute_ms"]
    return [
        f"{results['model']}, batch {results['batch']}, {results['engine']}",
        f"  executor in-process   {native['p50']:.3f} ms a run (p95 {native['p95']:.3f}, n {native['n']})",
        f"  AVEC over loopback    {remote['p50']:.3f} ms a run (p95 {remote['p95']:.3f})",
        f"  ratio                 {results['ratio_p50']:.3f}",
        f"  cycle − compute       {cycle['p50']:.3f} ms (p95 {cycle['p95']:.3f})",
        "  stages                " + ", ".join(f"{name} {ms:.3f}" for name, ms in results["stages_ms_p50"].items()),
        f"  first start           {results['first_load_s']:.2f} s, {results['first_uploaded_nbytes']:,} bytes uploaded",
        f"  last start            {results['last_load_s']:.2f} s, {results['last_uploaded_nbytes']:,} bytes uploaded",
        f"  same results          {results['same_results']}",
    ]


if __name__ == "__main__":
    main()
