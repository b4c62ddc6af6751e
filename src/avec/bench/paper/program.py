"""The measured program: the OpenPose example, and its network alone, frame after frame; it knows nothing of AVEC.

    python -m avec.bench.paper.program --application examples/openpose --model coco TESTS

TESTS is a JSON list. Of each test a line of JSON is printed: when it began and ended, and what each frame took.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import io
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console

FIXED_FRAMES = 4  # of a cycle, in turn; from uint8 values, as pictures are
HOLD_S = 1.0  # for whoever looks at the memory of the accelerator
CENSUS_LIBRARIES = ("cv2", "numpy")

Test = dict[str, Any]
Line = dict[str, Any]


def module(name: str) -> Any:
    """Caffe, or a module of the application, whose folder is known when the program runs."""
    return importlib.import_module(name)


class Program:
    """The application's modules, and its estimators by their depth."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model = module("models").MODELS[model]
        self.folder = folder
        self.estimators: dict[int, Any] = {}

    def estimator(self, depth: int, warm: int) -> Any:
        """An estimator each of whose networks has computed some frames: kernels are chosen, memory is made."""
        if depth not in self.estimators:
            resolution = self.model.resolution
            files = self.model.prototxt(resolution), self.model.caffemodel()
            made = module("estimation").Estimator(*files, self.model.skeleton, resolution, depth=depth)
            blank = made.prepare(np.zeros((resolution.height, resolution.width, 3), np.uint8))
            for _ in range(warm * depth):
                made.begin(blank)()
            self.estimators[depth] = made
        return self.estimators[depth]

    def application(self, test: Test) -> Line:
        """The whole application on pictures or a clip: read, prepare, compute, find, draw, write."""
        openpose = module("openpose")
        output = self.folder / test["name"]
        arguments = [test["input"], "--model", self.model.name, "--output", str(output)]
        limits = {"--limit": test["frames"], "--seconds": test["seconds"], "--depth": test["depth"]}
        arguments += [str(each) for limit in limits.items() for each in limit]
        options = openpose.parse_arguments(arguments)
        # Where Caffe returns from a pass only when it is done, a second net would only delay what comes out.
        depth = 1 if getattr(module("caffe"), "synchronous", False) else test["depth"]
        estimator = self.estimator(depth, test["warm"])
        results = module("results").Results(output, self.model, True, False)
        results.prepare_folder()
        sources = module("frames").list_sources([Path(test["input"])])
        gc.collect()
        began_ns = time.monotonic_ns()
        tally = openpose.run(estimator, sources, results, options, Console(file=io.StringIO()))
        return {
            "window_ns": (began_ns, time.monotonic_ns()),
            "frames": tally.frames,
            "seconds": tally.seconds,
            "ended_s": tally.ended_s,
            "stage_s": dict(tally.stage_s),
            "people": tally.people,
            "problems": tally.problems,
        }

    def cycle(self, test: Test) -> Line:
        """The network alone, one frame after the other: write the input, compute, look at the output."""
        began = time.perf_counter()
        net = load(test)
        load_s = time.perf_counter() - began
        blob = reshaped(net, test)
        frames = pictures(tuple(blob.data.shape))
        outputs: list[np.ndarray] = []
        windows: list[tuple[int, int]] = []
        started = time.perf_counter()
        for index in range(test["warm"] + test["frames"]):
            began_ns = time.monotonic_ns()
            blob.data[...] = frames[index % FIXED_FRAMES]
            output = net.forward()[net.outputs[0]]
            float(output.flat[0])
            ended_ns = time.monotonic_ns()
            if index < test["warm"]:
                started = time.perf_counter()
                continue
            windows.append((began_ns, ended_ns))
            if len(outputs) < FIXED_FRAMES:
                outputs.append(output.copy())
            del output
            if time.perf_counter() - started > test["seconds"]:
                break
        return {
            "load_s": load_s,
            "windows_ns": windows,
            "frames": len(windows),
            "digest": hashlib.sha256(b"".join(each.tobytes() for each in outputs)).hexdigest(),
            "input_nbytes": 4 * int(frames[0].size),
            "output_nbytes": outputs[0].nbytes,
        }

    def load(self, test: Test) -> Line:
        """Load the network and compute one frame; hold it for a moment."""
        began = time.perf_counter()
        net = load(test)
        load_s = time.perf_counter() - began
        blob = reshaped(net, test)
        blob.data[...] = pictures(tuple(blob.data.shape))[0]
        float(net.forward()[net.outputs[0]].flat[0])
        first_s = time.perf_counter() - began
        say({"held": True})
        time.sleep(HOLD_S)
        return {"load_s": load_s, "first_frame_s": first_s}

    def census(self, test: Test) -> Line:
        """Which functions of OpenCV and numpy the application calls for one picture; and the network's layers."""
        self.estimator(1, 1)
        calls: dict[str, int] = {}

        def note(frame: FrameType, event: str, called: Any) -> None:
            if name := called_name(frame, event, called):
                calls[name] = calls.get(name, 0) + 1

        sys.setprofile(note)
        try:
            self.application(test | {"frames": 1, "depth": 1})
        finally:
            sys.setprofile(None)
        caffe, net = module("caffe"), load(test)
        reshaped(net, test)
        kernels = caffe.operators(net.forward) if hasattr(caffe, "operators") else None
        types = [layer.type for layer in net.layers]
        return {"host": calls, "layers": {each: types.count(each) for each in types}, "operators": kernels}


def load(test: Test) -> Any:
    """A network from its files."""
    caffe = module("caffe")
    caffe.set_mode_gpu()
    files = [test["prototxt"], test["weights"]] if test["weights"] else [test["prototxt"]]
    return caffe.Net(*files, caffe.TEST)


def reshaped(net: Any, test: Test) -> Any:
    """The network's input, which has the test's size from now on."""
    blob = net.blobs[net.inputs[0]]
    blob.reshape(1, 3, test["height"], test["width"])
    net.reshape()
    return blob


def pictures(shape: tuple[int, ...]) -> np.ndarray:
    """A few inputs, which are pictures scaled to -0.5..0.5 as the application does it: smooth, with sensor noise."""
    rng = np.random.default_rng(0)
    height, width = shape[-2:]
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / rng.uniform(9, 60) + columns / rng.uniform(9, 60)) for _ in range(FIXED_FRAMES * 3)]
    values = 128 + 90 * np.stack(waves).reshape(FIXED_FRAMES, 1, 3, height, width) + rng.normal(0, 2, (height, width))
    return (values.clip(0, 255).astype(np.uint8) * np.float32(1 / 256) - np.float32(0.5)).astype(np.float32)


def called_name(frame: FrameType, event: str, called: Any) -> str:
    """What a function of the libraries in question is called, where the application calls it; else nothing.

    An operator between arrays is no call that a profiler sees.
    """
    caller = frame if event == "c_call" else frame.f_back
    if caller is None or not caller.f_code.co_filename.startswith(sys.path[0]):
        return ""
    if event == "call":
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    elif event == "c_call":
        owner, name = getattr(called, "__self__", None), called.__name__
        module = getattr(called, "__module__", None) or type(owner).__module__
        if getattr(sys.modules.get("cv2"), name, None) is called:  # OpenCV's functions do not say whose they are
            module = "cv2"
    else:
        return ""
    library = module.partition(".")[0]
    return f"{library}.{name}" if library in CENSUS_LIBRARIES and not name.startswith("_") else ""


def main() -> None:
    """Do the tests that the command line names."""
    parser = argparse.ArgumentParser(description="The measured program.")
    parser.add_argument("--application", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for all tests")
    parser.add_argument("tests", type=json.loads)
    options = parser.parse_args()
    sys.path.insert(0, str(options.application))
    program = Program(options.model, options.output)
    kinds: dict[str, Callable[[Test], Line]] = {
        "application": program.application,
        "cycle": program.cycle,
        "load": program.load,
        "census": program.census,
    }
    say(where())
    ends_s = time.monotonic() + options.budget
    for test in options.tests:
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            say({"left_out": test["name"]})
            continue
        test["seconds"] = min(test["seconds"], left_s)
        say({"test": test["name"], "kind": test["kind"], **kinds[test["kind"]](test)})
    say({"peak_resident_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **peak()})


def where() -> Line:
    """Where it computed, as far as the program can know."""
    described: Callable[[], Line] = getattr(module("caffe"), "described", dict)
    return described()


def peak() -> Line:
    """What the accelerator's memory had to hold, as far as the program can know."""
    found: Callable[[], Line] = getattr(module("caffe"), "peak", dict)
    return found()


def say(line: Line) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
