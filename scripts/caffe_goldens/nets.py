"""Nets of real Caffe, filled from a seed, described and stored: what generate, training and behaviours share.

Runs inside the unpacked Debian 11, on its Python 3.9 and numpy 1.19.
"""

# ruff: noqa: B905 - Python 3.9 knows no zip(strict=)

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "0")  # before caffe is imported: what it logs is part of what is observed

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from seeded_parameters import input_values, parameter_values

PHASES = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}
LOGGED = re.compile(r"[IWE]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] ?(.*)")  # glog's head and the text after it
HUGE = 1e30  # beyond this a value is a mark, as -FLT_MAX is, and no part of the blob's scale


class Group:
    """The arrays of one .npz file, each stored once however many blobs hold it."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.places: dict[bytes, int] = {}
        self.descriptions: list[dict] = []

    def place(self, value: np.ndarray | bytes) -> int:
        """Store an array, or bytes as uint8, and return its number."""
        array = np.frombuffer(value, dtype=np.uint8) if isinstance(value, bytes) else np.array(value, order="C")
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


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect what Caffe logs meanwhile, without glog's heads; the list is filled at the end."""
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            found = [LOGGED.match(line) for line in file.read().decode().splitlines()]
            lines += [match[1] for match in found if match]


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


def give(net: caffe.Net, case: dict) -> list[tuple[str, np.ndarray]]:
    """Write the case's inputs into the net; labels are class numbers, all else standard normal."""
    shapes = [tuple(net.blobs[name].shape) for name in net.inputs]
    values = input_values(case["seed"] + 1, shapes, case["input_scale"])
    if case.get("rounded"):
        values = [np.round(value) + np.float32(0) for value in values]  # no negative zeros
    if case["classes"]:
        stream = np.random.RandomState(case["seed"] + 2)
        for place, name in enumerate(net.inputs):
            if name == "label":
                values[place] = stream.randint(case["classes"], size=shapes[place]).astype(np.float32)
    for name, value in zip(net.inputs, values):
        net.blobs[name].data[...] = value
    return list(zip(net.inputs, values))
