"""What the tensor codecs do: their speed and ratio on typical tensors, and a frame loop over links with each of them.

The loop is sent with fixed codecs and with what `auto` chooses, in turn, in one run; the outputs of all runs have to be
equal bit by bit. Writes one record to benchmarks/results. On a CPU: `make bench-codecs`.
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

import cv2
import numpy as np
from processes import HERE, destination, over, run
from record import summary, write

from avec.bench.links import LOOPBACK
from avec.communication import compression
from avec.communication.compression import Learned

MEDIA = HERE.parent / "examples" / "openpose" / "media"
MODEL = HERE.parent / "examples" / "openpose" / "models" / "pose_people"
CLIP = MEDIA / "people.mp4"
SIZE = (656, 368)
NOISE = 2.0  # of a byte: what a camera's sensor adds in daylight; the clip is rendered and has none
LINKS = (LOOPBACK, "10gbit-0.1ms", "1gbit-1ms", "100mbit-5ms")
SETTINGS = {
    "raw": "raw",
    "palette": "frames=palette,results=raw",
    "palette-zstd": "frames=palette-zstd,results=raw",
    "palette, shuffle-zstd": "frames=palette,results=shuffle-zstd",
    "palette-zstd, shuffle-zstd": "frames=palette-zstd,results=shuffle-zstd",
    "auto": "auto",
}
LOSSY = {"palette-zstd, fp16": "frames=palette-zstd,results=fp16", "jpeg, fp16": "frames=jpeg,results=fp16"}
EQUATION_1_NBYTES = 3_756_924  # the paper's Eq. 1 for a COCO frame of 368×656
LEARNING = 10  # first frames of a loop, in which codecs are tried
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", default=",".join(LINKS))
    parser.add_argument("--frames", type=int, default=40, help="of one loop")
    parser.add_argument("--turns", type=int, default=3, help="how often the settings take turns")
    parser.add_argument("--name", default="codecs-cpu", help="the record's name")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    links = arguments.links.split(",")
    results: dict = {
        "tensors": {name: speeds(tensor) for name, tensor in tensors().items()},
        "frame_nbytes": {"frame": 4 * 3 * SIZE[0] * SIZE[1], "maps": 4 * 57 * 46 * 82, "equation_1": EQUATION_1_NBYTES},
        "noise": NOISE,
        "load_average": [os.getloadavg()],  # of all on this machine; at the end once more
    }
    with tempfile.TemporaryDirectory() as folder, destination() as url:
        results["links"] = {link: loops(url, link, arguments, Path(folder)) for link in links}
        results["pose_people"] = pose_people(url, links[-1], Path(folder))
    results["load_average"] += [os.getloadavg()]
    path = write(arguments.name, "cpu", ", ".join(links), results, arguments.results)
    for line in lines(results):
        print(line)
    print(f"record: {path}")


def tensors() -> dict[str, np.ndarray]:
    """What crosses a link: frames as programs normalise them, a network's results, weights."""
    generator = np.random.default_rng(0)
    image = cv2.resize(cv2.VideoCapture(str(CLIP)).read()[1], SIZE).transpose(2, 0, 1)
    noisy = np.clip(image + generator.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
    mean, deviation = (
        np.array(values, np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    dense = generator.standard_normal((1, 57, 46, 82)).astype(np.float32)
    return {
        "frame: bytes/256 - 0.5": np.float32(image)[None] / 256 - np.float32(0.5),
        "frame with noise": np.float32(noisy)[None] / 256 - np.float32(0.5),
        "frame with noise, mean and deviation": ((np.float32(noisy) / 255 - mean) / deviation)[None],
        "frame resized as floats": cv2.resize(np.float32(noisy[0]), (SIZE[0] * 2, SIZE[1]))[None],
        "maps: normal": dense,
        "ReLU, half 0": np.maximum(dense, 0),
        "ReLU, 80 % 0": np.maximum(dense - np.float32(0.84), 0),
        "weights: normal, 0.02": (0.02 * generator.standard_normal((512, 512, 3))).astype(np.float32),
    }


def speeds(tensor: np.ndarray) -> dict[str, object]:
    """Each codec's speed and ratio on one tensor; None where it leaves the tensor alone."""
    tensor = np.ascontiguousarray(tensor)
    found: dict[str, object] = {"nbytes": tensor.nbytes}
    for codec in compression.available():
        learned, into = Learned(), np.empty_like(tensor)
        began = time.perf_counter()
        encoded = compression.encode(codec, tensor, learned)
        first_s = time.perf_counter() - began
        if encoded is None:
            found[codec] = None
            continue
        encode_s = best_s(lambda: compression.encode(codec, tensor, learned))  # noqa: B023  # called here only
        decode_s = best_s(lambda: compression.decode(encoded.spec, encoded.body, into))  # noqa: B023
        found[codec] = {
            "ratio": tensor.nbytes / encoded.nbytes,
            "encode_gb_s": tensor.nbytes / encode_s / 1e9,
            "decode_gb_s": tensor.nbytes / decode_s / 1e9,
            "encode_ms": 1e3 * encode_s,
            "decode_ms": 1e3 * decode_s,
            "first_encode_ms": 1e3 * first_s,
            "same_bits": into.tobytes() == tensor.tobytes(),
            "largest_error": float(np.abs(into.astype(np.float64) - tensor).max()),
        }
    return found


def best_s(work) -> float:
    """The shortest of several runs: others' use of the processor only makes them longer."""
    took_s = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - began)
    return min(took_s)


def loops(url: str, link: str, arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The frame loop over one link with each setting, in turn."""
    frame_s: dict[str, list[float]] = {name: [] for name in SETTINGS}
    total_s: dict[str, list[float]] = {name: [] for name in SETTINGS}
    reports: dict[str, dict] = {}
    digests = set()
    options = ["--frames", str(arguments.frames), "--noise", str(NOISE)]
    with over(url, link) as (link_url, calibration):
        for _ in range(arguments.turns):
            for name, setting in SETTINGS.items():
                said, reports[name] = loop(link_url, setting, options, folder)
                frame_s[name] += said["frame_s"][LEARNING:]
                total_s[name].append(sum(said["frame_s"]))
                digests.add(said["digest"])
        lossy = {name: loop(link_url, setting, options, folder) for name, setting in LOSSY.items()}
    fixed = {name: statistics.median(values) for name, values in frame_s.items() if name != "auto"}
    best = min(fixed, key=lambda name: fixed[name])
    auto_s = statistics.median(frame_s["auto"])
    return {
        "link": {"up_gbit_s": calibration.up_gbit_s, "down_gbit_s": calibration.down_gbit_s,
                 "round_trip_ms": calibration.round_trip_ms},
        "frame_ms": {name: summary([1e3 * value for value in values]) for name, values in frame_s.items()},
        "total_s": total_s,
        "codecs": {name: [per_call(use) for use in report["codecs"]] for name, report in reports.items()},
        "wire_nbytes_per_frame": {name: wire_nbytes(report) for name, report in reports.items()},
        "host_codec_ms_per_frame": {name: host_ms(report) for name, report in reports.items()},
        "best_fixed": best,
        "auto_to_best_fixed": auto_s / fixed[best],
        "auto_to_raw": auto_s / fixed["raw"],
        "same_bits": len(digests) == 1,
        "lossy": {
            name: {"frame_ms": summary([1e3 * value for value in said["frame_s"][LEARNING:]]),
                   "wire_nbytes_per_frame": wire_nbytes(report)}
            for name, (said, report) in lossy.items()
        },
    }  # fmt: skip


def pose_people(url: str, link: str, folder: Path) -> dict[str, object]:
    """The trained pose network's frames and maps over one link, with raw and auto: bytes, not time, are asked here."""
    model = ["--model", f"{MODEL}.prototxt", f"{MODEL}.caffemodel", "--frames", "12", "--noise", str(NOISE)]
    with over(url, link) as (link_url, _):
        raw, _ = loop(link_url, "raw", model, folder)
        auto, report = loop(link_url, "auto", model, folder)
    nbytes = wire_nbytes(report)
    return {
        "link": link,
        "codecs": [per_call(use) for use in report["codecs"]],
        "wire_nbytes_per_frame": nbytes,
        "to_equation_1": nbytes / EQUATION_1_NBYTES,
        "host_codec_ms_per_frame": host_ms(report),
        "same_bits": raw["digest"] == auto["digest"],
    }


def loop(url: str, setting: str, options: list[str], folder: Path) -> tuple[dict, dict]:
    """Run the loop under AVEC; what it said, and the report of its forward passes."""
    path = folder / "report.json"
    avec = ["-m", "avec", "run", "--on", url, "--codec", setting, "--report", str(path)]
    said = run([*avec, str(HERE / "codec_loop.py"), str(CLIP), *options])
    report = json.loads(path.read_text("utf-8"))
    for kind in ("codecs", "cycles"):
        report[kind] = [each for each in report[kind] if each["name"] == "caffe.forward"]
    report["settled"] = report["cycles"][len(report["cycles"]) // 2 :]
    return said, report


def per_call(use: dict) -> dict[str, object]:
    calls = use["calls"]
    return {
        "direction": use["direction"],
        "codec": use["codec"],
        "calls": calls,
        "nbytes": use["nbytes"] // calls,
        "wire_nbytes": use["wire_nbytes"] // calls,
        "encode_ms": use["encode_ns"] / calls / 1e6,
        "decode_ms": use["decode_ns"] / calls / 1e6,
    }


def wire_nbytes(report: dict) -> int:
    """All that crosses the link for a frame, framing included."""
    return int(statistics.median(each["wire_nbytes_up"] + each["wire_nbytes_down"] for each in report["settled"]))


def host_ms(report: dict) -> float:
    """How long a frame's tensors keep the host: to encode the call, and to decode what came back; on the wall clock."""
    encode_ms = statistics.median(each["stages_ns"][0] for each in report["settled"]) / 1e6
    results = [use for use in report["codecs"] if use["direction"] == "results"]
    return encode_ms + max((use["decode_ns"] / use["calls"] / 1e6 for use in results), default=0.0)


def lines(results: dict) -> Iterator[str]:
    """The results for a person."""
    for name, found in results["tensors"].items():
        yield f"{name} ({found['nbytes'] / 1e6:.2f} MB)"
        for codec, figures in found.items():
            if isinstance(figures, dict):
                yield (
                    f"  {codec:13} ratio {figures['ratio']:6.2f}   encode {figures['encode_gb_s']:5.2f} GB/s   "
                    f"decode {figures['decode_gb_s']:5.2f} GB/s" + ("" if figures["same_bits"] else "   lossy")
                )
    for link, found in results["links"].items():
        yield f"{link}: auto takes {found['auto_to_best_fixed']:.3f} of {found['best_fixed']}, the best fixed one, and"
        yield f"  {found['auto_to_raw']:.3f} of raw; same bits: {found['same_bits']}"
        for name, milliseconds in found["frame_ms"].items():
            yield (
                f"  {name:27} {milliseconds['p50']:7.2f} ms a frame (p95 {milliseconds['p95']:.2f}), "
                f"{found['wire_nbytes_per_frame'][name]:,} bytes, host {found['host_codec_ms_per_frame'][name]:.2f} ms"
            )
    found = results["pose_people"]
    yield f"pose_people over {found['link']}: {found['wire_nbytes_per_frame']:,} bytes a frame,"
    yield f"  {found['to_equation_1']:.3f} of Eq. 1, host {found['host_codec_ms_per_frame']:.2f} ms"
    yield f"  same bits: {found['same_bits']}"


if __name__ == "__main__":
    main()
