"""Run every case through real Caffe and write the goldens: `generate.py CASES.json FOLDER`.

Runs inside the unpacked Debian 11, on its Python 3.9 and numpy 1.19, beside `behaviours.py` and
`seeded_parameters.py`. A group of cases becomes one .npz, which README.md in tests/goldens/caffe describes.
"""

# ruff: noqa: B905 - Python 3.9 knows no zip(strict=)

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # before caffe is imported

import behaviours
import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from seeded_parameters import input_values, parameter_values

PHASES = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}
HUGE = 1e30  # beyond this a value is a mark, as -FLT_MAX is, and no part of the blob's scale


class Group:
    """The arrays of one .npz file, each stored once however many blobs hold it."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.places: dict[bytes, int] = {}
        self.descriptions: list[dict] = []

    def place(self, array: np.ndarray) -> int:
        key = hashlib.sha256(repr((array.dtype.str, array.shape)).encode() + array.tobytes()).digest()
        if key not in self.places:
            self.places[key] = len(self.places)
            self.arrays[f"array_{self.places[key]}"] = array
        return self.places[key]

    def save(self, path: Path) -> None:
        text = json.dumps(self.descriptions).encode()
        np.savez_compressed(path, goldens=np.frombuffer(text, dtype=np.uint8), **self.arrays)


def load(prototxt: str, case: dict) -> caffe.Net:
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", newline="") as file:
        file.write(prototxt)
        file.flush()
        return caffe.Net(file.name, PHASES[case["phase"]], level=case["level"], stages=list(case["stages"]))


def saved_weights(net: caffe.Net) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".caffemodel") as file:
        net.save(file.name)
        return Path(file.name).read_bytes()


def weights_in_v1_layers(prototxt: str, net: caffe.Net) -> bytes:
    """Write the net's parameters as Caffe did before blobs had shapes: four axes, dense weights 1 x 1 x out x in."""
    message = text_format.Parse(prototxt, caffe_pb2.NetParameter())
    for old_layer in message.layers:
        for blob in net.params.get(old_layer.name, ()):
            stored = old_layer.blobs.add()
            shape = (1,) * (4 - len(blob.data.shape)) + tuple(blob.data.shape)
            stored.num, stored.channels, stored.height, stored.width = shape
            stored.data.extend(blob.data.ravel().tolist())
    return message.SerializeToString()


def copy_weights(net: caffe.Net, weights: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".caffemodel") as file:
        file.write(weights)
        file.flush()
        net.copy_from(file.name)


def fill(net: caffe.Net, seed: int) -> None:
    layers = [(layer.type, [tuple(blob.shape) for blob in layer.blobs]) for layer in net.layers]
    for layer, values in zip(net.layers, parameter_values(seed, layers)):
        for blob, value in zip(layer.blobs, values):
            blob.data[...] = value


def structure(net: caffe.Net) -> list[dict]:
    names = list(net._layer_names)
    return [
        {
            "name": name,
            "type": layer.type,
            "bottoms": list(net.bottom_names[name]),
            "tops": list(net.top_names[name]),
            "parameters": [list(blob.shape) for blob in layer.blobs],
        }
        for name, layer in zip(names, net.layers)
    ]


def expected(group: Group, data: np.ndarray, samples: int) -> dict:
    """Describe one blob: every value, or `samples` of them evenly spread."""
    flat = data.ravel()
    step = max(1, flat.size // samples) if samples else 1
    while step > 1 and any(math.gcd(step, size) > 1 for size in data.shape):
        step += 1  # else the samples would stay in a few columns or channels
    ordinary = np.abs(flat[np.abs(flat) < HUGE])
    return {
        "shape": list(data.shape),
        "step": step,
        "maximum": float(ordinary.max()) if ordinary.size else 0.0,
        "values": group.place(flat[::step].copy()),
    }


def run(case: dict, group: Group) -> None:
    prototxt = case["prototxt"]
    net = load(prototxt, case)
    if case["fill"]:
        fill(net, case["seed"])
    stored = None
    if case["weights"] == "caffemodel":
        stored = saved_weights(net)
    elif case["weights"] == "v1":
        stored = weights_in_v1_layers(prototxt, net)
        net = load(prototxt, case)
        copy_weights(net, stored)
    before = [[blob.data.copy() for blob in layer.blobs] for layer in net.layers]
    shapes = [tuple(net.blobs[name].shape) for name in net.inputs]
    given = input_values(case["seed"] + 1, shapes, case["input_scale"])
    for name, value in zip(net.inputs, given):
        net.blobs[name].data[...] = value
    net.forward()
    changed = [
        {"layer": layer_place, "index": place, "values": group.place(blob.data.copy())}
        for layer_place, layer in enumerate(net.layers)
        for place, blob in enumerate(layer.blobs)
        if not np.array_equal(blob.data, before[layer_place][place])
    ]
    group.descriptions.append(
        {
            **{key: case[key] for key in ("name", "prototxt", "seed", "phase", "level", "stages", "weights")},
            "caffemodel": None if stored is None else group.place(np.frombuffer(stored, dtype=np.uint8)),
            "inputs": [[name, group.place(value)] for name, value in zip(net.inputs, given)],
            "input_names": list(net.inputs),
            "output_names": list(net.outputs),
            "layers": structure(net),
            "blobs": [
                {"name": name, **expected(group, blob.data, case["samples"])} for name, blob in net.blobs.items()
            ],
            "changed_parameters": changed,
        }
    )


def refuse(case: dict) -> None:
    """Do what real Caffe is expected to abort at; runs in a process of its own."""
    net = load(case["prototxt"], {"phase": "TEST", "level": 0, "stages": []})
    if case["weights_of"]:
        other = load(case["weights_of"], {"phase": "TEST", "level": 0, "stages": []})
        copy_weights(net, saved_weights(other))
    if case["reshaped"]:
        net.blobs["data"].reshape(*case["reshaped"])
    net.forward()


def refusals(cases: list[dict]) -> list[dict]:
    found = []
    for case in cases:
        child = subprocess.run(
            [sys.executable, __file__, "--refuse"], input=json.dumps(case), capture_output=True, text=True
        )
        lines = [line for line in child.stderr.splitlines() if re.match(r"F\d{4} ", line)]
        weights = case.pop("weights_of")
        model = saved_weights(load(weights, {"phase": "TEST", "level": 0, "stages": []})).hex() if weights else ""
        if not lines or child.returncode != -signal.SIGABRT:
            raise SystemExit(f"generate.py: Caffe accepts {case['name']}: {child.stderr}")
        message = re.sub(r"\S*/tmp\S+", "FILE", lines[0].split("] ", 1)[1].strip())
        message = re.sub(r" \(0x\w+ vs\. 0x\w+\)", "", message)
        found.append({**case, "caffemodel_hex": model, "message": message})
    return found


def main() -> None:
    if sys.argv[1] == "--refuse":
        refuse(json.load(sys.stdin))
        return
    document = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    caffe.set_mode_cpu()
    groups: dict[str, Group] = {}
    for case in document["cases"]:
        print(case["group"], case["name"], flush=True)
        run(case, groups.setdefault(case["group"], Group()))
    for name, group in groups.items():
        group.save(folder / f"{name.lower()}.npz")
    (folder / "refused.json").write_text(json.dumps(refusals(document["refused"]), indent=1) + "\n")
    behaviours.write(folder)


if __name__ == "__main__":
    main()
