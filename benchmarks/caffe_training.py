"""What AVEC adds to an iteration of training: an AlexNet-shaped net, the executor's solver in-process and AVEC in turn.

Both train with SGD, momentum and weight decay on one batch that stays at the destination. Writes one record to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from processes import HERE, destination, run
from record import summary, write

CPU_BATCH, GPU_BATCH = 4, 256

SOLVER = """net: "{net}"
base_lr: 0.001 lr_policy: "step" gamma: 0.1 stepsize: 100000 max_iter: 450000 momentum: 0.9 weight_decay: 0.0005
display: 0 random_seed: 1 snapshot_after_train: false
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, help=f"images of a batch; default {GPU_BATCH} on a GPU, else {CPU_BATCH}")
    parser.add_argument("--iterations", type=int, default=5, help="iterations of one call of step")
    parser.add_argument("--calls", type=int, default=2, help="calls of step that are measured in each turn")
    parser.add_argument("--turns", type=int, default=2, help="how often native and AVEC take turns")
    parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
    parser.add_argument("--note", default="", help="what else was going on, for the record")
    parser.add_argument("--name", help="the record's name; default training-alexnet-<batch>-<accelerator>-<numerics>")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    kind = _accelerator_kind()
    batch = arguments.batch or (GPU_BATCH if kind == "cuda" else CPU_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, batch, Path(folder))
    name = arguments.name or f"training-alexnet-{batch}-{kind}-{arguments.numerics}"
    path = write(name, str(results["accelerator"]), "loopback, no added delay", results, arguments.results)
    for line in lines(results):
        print(line)
    print(f"record: {path}")


def _accelerator_kind() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def measure(arguments: argparse.Namespace, batch: int, folder: Path) -> dict[str, object]:
    """Let native and AVEC take turns; give the record's results."""
    os.environ["AVEC_CACHE_DIR"] = str(folder / "avec")
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as a destination sets it, so that both compute alike
    network, solver = folder / "net.prototxt", folder / "solver.prototxt"
    network.write_text("\n".join(alexnet(batch)))
    solver.write_text(SOLVER.format(net=network))
    loop = [str(solver), "--iterations", str(arguments.iterations), "--calls", str(arguments.calls)]
    native, remote, added_ms = [], [], []
    with destination() as url:
        for turn in range(arguments.turns):
            native.append(run([str(HERE / "native_training.py"), *loop, "--numerics", arguments.numerics]))
            report = folder / f"report-{turn}.json"
            options = ["-m", "avec", "run", "--on", url, "--report", str(report), "--numerics", arguments.numerics]
            remote.append(run([*options, str(HERE / "training_loop.py"), *loop]))
            added_ms += added(remote[-1], json.loads(report.read_text("utf-8")), arguments)
    native_ms = [1e3 * seconds for each in native for seconds in each["iteration_s"]]
    remote_ms = [1e3 * seconds for each in remote for seconds in each["iteration_s"]]
    return {
        "model": "AlexNet (grouped convolutions, LRN, dropout), one batch that stays at the destination",
        "batch": batch,
        "numerics": arguments.numerics,
        "iterations_per_step": arguments.iterations,
        "accelerator": native[0]["accelerator"],
        "note": arguments.note,
        "native_iteration_ms": summary(native_ms),
        "avec_iteration_ms": summary(remote_ms),
        "ratio_p50": statistics.median(remote_ms) / statistics.median(native_ms),
        "ratio_min": min(remote_ms) / min(native_ms),
        "iteration_minus_compute_ms": summary(added_ms),
        "native_load_s": native[-1]["load_s"],
        "avec_load_s": remote[-1]["load_s"],
        "host_peak_resident_mb": max(each["peak_resident_nbytes"] for each in remote) / 1e6,
        "losses": {"native": native[0]["loss"], "avec": remote[0]["loss"]},
    }


def added(measured: dict, report: dict, arguments: argparse.Namespace) -> Iterator[float]:
    """What an iteration took beyond the destination's own time, in each call of step."""
    place = report["stages"].index("compute")
    steps = [cycle for cycle in report["cycles"] if cycle["name"] == "caffe.step"][-arguments.calls :]
    for seconds, cycle in zip(measured["iteration_s"], steps, strict=True):
        yield 1e3 * seconds - cycle["stages_ns"][place] / 1e6 / arguments.iterations


def alexnet(batch: int) -> Iterator[str]:
    """The net's prototxt, layer by layer. Source: Krizhevsky et al. 2012, as models/bvlc_alexnet lays it out."""
    yield 'name: "AlexNet"'
    yield 'layer { name: "data" type: "Input" top: "data" top: "label" input_param {'
    yield f"  shape {{ dim: {batch} dim: 3 dim: 227 dim: 227 }} shape {{ dim: {batch} }} }} }}"
    pool = 'type: "Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 }'
    norm = 'type: "LRN" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }'
    yield from _learnt("conv1", "data", "Convolution", "num_output: 96 kernel_size: 11 stride: 4", 0.01, 0)
    yield f'layer {{ name: "norm1" {norm} bottom: "conv1" top: "norm1" }}'
    yield f'layer {{ name: "pool1" {pool} bottom: "norm1" top: "pool1" }}'
    yield from _learnt("conv2", "pool1", "Convolution", "num_output: 256 pad: 2 kernel_size: 5 group: 2", 0.01, 0.1)
    yield f'layer {{ name: "norm2" {norm} bottom: "conv2" top: "norm2" }}'
    yield f'layer {{ name: "pool2" {pool} bottom: "norm2" top: "pool2" }}'
    yield from _learnt("conv3", "pool2", "Convolution", "num_output: 384 pad: 1 kernel_size: 3", 0.01, 0)
    yield from _learnt("conv4", "conv3", "Convolution", "num_output: 384 pad: 1 kernel_size: 3 group: 2", 0.01, 0.1)
    yield from _learnt("conv5", "conv4", "Convolution", "num_output: 256 pad: 1 kernel_size: 3 group: 2", 0.01, 0.1)
    yield f'layer {{ name: "pool5" {pool} bottom: "conv5" top: "pool5" }}'
    for name, bottom in (("fc6", "pool5"), ("fc7", "fc6")):
        yield from _learnt(name, bottom, "InnerProduct", "num_output: 4096", 0.005, 0.1)
        yield f'layer {{ name: "drop_{name}" type: "Dropout" bottom: "{name}" top: "{name}" }}'
    yield from _learnt("fc8", "fc7", "InnerProduct", "num_output: 1000", 0.01, 0, activation=False)
    yield 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }'


def _learnt(
    name: str, bottom: str, kind: str, size: str, deviation: float, bias: float, activation: bool = True
) -> Iterator[str]:
    settings = "convolution_param" if kind == "Convolution" else "inner_product_param"
    yield f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}"'
    yield "  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
    yield f'  {settings} {{ {size} weight_filler {{ type: "gaussian" std: {deviation} }}'
    yield f'    bias_filler {{ type: "constant" value: {bias} }} }} }}'
    if activation:
        yield f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}'


def lines(results: dict) -> Iterator[str]:
    """The results for a person."""
    yield f"AlexNet, batch {results['batch']}, {results['numerics']} on {results['accelerator']}"
    for what, key in (("solver in-process ", "native_iteration_ms"), ("AVEC over loopback", "avec_iteration_ms")):
        found = results[key]
        yield f"  {what}    {found['p50']:.1f} ms an iteration (min {found['min']:.1f}, max {found['max']:.1f})"
    yield f"  ratio                 {results['ratio_p50']:.3f} (of the fastest {results['ratio_min']:.3f})"
    yield f"  beyond compute        {results['iteration_minus_compute_ms']['p50']:.2f} ms an iteration"
    yield f"  host memory           {results['host_peak_resident_mb']:.0f} MB at its peak"
    yield f"  losses                {results['losses']['native']:g} and {results['losses']['avec']:g}"


if __name__ == "__main__":
    main()
