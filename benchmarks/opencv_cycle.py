"""What AVEC adds to a forward pass of OpenCV's DNN module: the same loop plainly and over loopback, in turn.

By default the net is a small convolutional one over 1×3×224×224, so that what is measured is not drowned in compute.
Writes one record to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from processes import HERE, destination, run
from record import summary, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model that OpenCV reads; default a small ONNX net")
    parser.add_argument("--config", default="", help="a second file of the model")
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--frames", type=int, default=200, help="frames measured in each turn")
    parser.add_argument("--turns", type=int, default=3, help="how often native and AVEC take turns")
    parser.add_argument("--name", help="the record's name; default opencv-<model>-<accelerator>")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    name = arguments.name or f"opencv-{results['model']}-{results['accelerator_kind']}"
    path = write(name, str(results["accelerator"]), "loopback, no added delay", results, arguments.results)
    for line in lines(results):
        print(line)
    print(f"record: {path}")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run everything; give the record's results."""
    os.environ["AVEC_CACHE_DIR"] = str(folder / "avec")
    model = arguments.model or small_net(folder / "small.onnx", arguments.height, arguments.width)
    loop = [str(HERE / "opencv_loop.py"), str(model), "--frames", str(arguments.frames)]
    loop += ["--width", str(arguments.width), "--height", str(arguments.height), "--config", arguments.config]
    native, remote, reports = [], [], []
    with destination() as url:
        for turn in range(arguments.turns):
            native.append(run(loop))
            report = folder / f"report-{turn}.json"
            remote.append(run(["-m", "avec", "run", "--on", url, "--report", str(report), *loop]))
            reports.append(json.loads(report.read_text("utf-8")))
            time.sleep(0.5)  # what the last one left running shall not disturb the next
    return evaluate(arguments, model, native, remote, reports)


def evaluate(
    arguments: argparse.Namespace, model: Path, native: list[dict], remote: list[dict], reports: list[dict]
) -> dict[str, object]:
    """Put the record's results together."""
    native_ms = [1e3 * seconds for each in native for seconds in each["frame_s"]]
    remote_ms = [1e3 * seconds for each in remote for seconds in each["frame_s"]]
    place = reports[0]["stages"].index("compute")
    cycles = [
        cycle
        for report in reports
        for cycle in [each for each in report["cycles"] if each["name"] == "opencv.forward"][-arguments.frames :]
    ]
    computed_ms = [cycle["stages_ns"][place] / 1e6 for cycle in cycles]
    overhead_ms = [sum(cycle["stages_ns"]) / 1e6 - compute for cycle, compute in zip(cycles, computed_ms, strict=True)]
    frame_overhead_ms = [total - compute for total, compute in zip(remote_ms, computed_ms, strict=True)]
    accelerator = reports[0]["origin"]["accelerator"]
    return {
        "model": model.stem,
        "opencv": remote[0]["opencv"],
        "input": f"1x3x{arguments.height}x{arguments.width}",
        "accelerator": accelerator,
        "accelerator_kind": "cuda" if "(cuda" in accelerator else "cpu",
        "native_frame_ms": summary(native_ms),
        "avec_frame_ms": summary(remote_ms),
        "ratio_p50": statistics.median(remote_ms) / statistics.median(native_ms),
        "compute_ms": summary(computed_ms),
        "cycle_minus_compute_ms": summary(overhead_ms),
        "frame_minus_compute_ms": summary(frame_overhead_ms),
        "wire_nbytes_up": cycles[-1]["wire_nbytes_up"],
        "wire_nbytes_down": cycles[-1]["wire_nbytes_down"],
        "cold_load_s": remote[0]["load_s"],
        "warm_load_s": remote[-1]["load_s"],
        "same_results": native[0]["checksum"] == remote[0]["checksum"],
    }


def small_net(path: Path, height: int, width: int) -> Path:
    """An ONNX net of three convolutions and a classifier, with seeded weights."""
    random = np.random.default_rng(0)
    nodes, weights, data, channels = [], [], "image", 3
    for index, outputs in enumerate((8, 16, 32)):
        kernel = (random.normal(size=(outputs, channels, 3, 3)) * (9 * channels) ** -0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{index}"))
        shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node("Conv", [data, f"w{index}"], [f"c{index}"], **shape))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        data, channels = f"r{index}", outputs
    weights.append(numpy_helper.from_array(random.normal(size=(10, channels)).astype(np.float32), "w"))
    nodes.append(helper.make_node("GlobalAveragePool", [data], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "w"], ["scores"], transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, height, width))
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 10))
    model = helper.make_model(
        helper.make_graph(nodes, "small", [image], [scores], weights), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, path)
    return path


def lines(results: dict) -> Iterator[str]:
    """The results for a person."""
    native, remote = results["native_frame_ms"], results["avec_frame_ms"]
    cycle, frame = results["cycle_minus_compute_ms"], results["frame_minus_compute_ms"]
    yield f"{results['model']} {results['input']}, OpenCV {results['opencv']} on {results['accelerator']}"
    yield f"  plainly             {native['p50']:.3f} ms a frame (p95 {native['p95']:.3f}, n {native['n']})"
    yield f"  AVEC over loopback  {remote['p50']:.3f} ms a frame (p95 {remote['p95']:.3f})"
    yield f"  compute             {results['compute_ms']['p50']:.3f} ms there"
    yield f"  cycle − compute     {cycle['p50']:.3f} ms (p95 {cycle['p95']:.3f})"
    yield f"  frame − compute     {frame['p50']:.3f} ms (p95 {frame['p95']:.3f}), setInput included"
    yield f"  bytes               {results['wire_nbytes_up']:,} up, {results['wire_nbytes_down']:,} down"
    yield f"  load                {results['cold_load_s']:.3f} s cold, {results['warm_load_s']:.3f} s warm"
    yield f"  same results        {results['same_results']}"


if __name__ == "__main__":
    main()
