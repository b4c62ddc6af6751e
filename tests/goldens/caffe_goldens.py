"""The golden files of real Caffe as typed values: what the tests of the Caffe executor and front-end compare with.

The files in `caffe/` are described in `caffe/README.md` and made by `scripts/caffe_goldens/make.sh`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goldens.seeded_parameters import parameter_values

FOLDER = Path(__file__).parent / "caffe"
BEHAVIOURS = "pycaffe"  # the file that holds pycaffe's behaviours, not networks
HUGE = 1e30  # beyond this a value is a mark, as -FLT_MAX is, and no part of the blob's scale

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """One blob after the forward pass: its shape, and every `step`-th of its values in C order."""

    shape: tuple[int, ...]
    step: int
    maximum: float  # the largest magnitude in the whole blob, marks left out
    values: npt.NDArray[np.float32]

    def error(self, actual: Array) -> float:
        """Return the worst difference relative to `maximum`; inf where shape, NaN, infinity or mark differs."""
        if actual.shape != self.shape:
            return float("inf")
        sample = np.asarray(actual, dtype=np.float64).ravel()[:: self.step]
        wanted = self.values.astype(np.float64)
        exact = ~(np.abs(wanted) < HUGE)  # marks, infinities and NaNs
        if not np.array_equal(sample[exact], wanted[exact], equal_nan=True):
            return float("inf")
        worst = float(np.abs(sample - wanted)[~exact].max(initial=0.0))
        if not np.isfinite(worst):
            return float("inf")
        return worst / self.maximum if self.maximum else worst


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as pycaffe shows it: names of blobs, with automatic splits, and the shapes of its parameters."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ChangedParameter:
    """A parameter that the forward pass itself wrote (BatchNorm's moving averages)."""

    layer: int
    index: int
    values: Array


@dataclass(frozen=True, slots=True)
class Golden:
    """One network, what it was given, and what real Caffe showed after one forward pass."""

    group: str
    name: str
    prototxt: str
    caffemodel: bytes | None  # as real Caffe wrote it; None: see parameters()
    seed: int
    phase: str
    level: int
    stages: tuple[str, ...]
    inputs: Mapping[str, Array]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    layers: tuple[Layer, ...]
    blobs: Mapping[str, Expected]
    changed_parameters: tuple[ChangedParameter, ...]

    def __str__(self) -> str:
        return f"{self.group}-{self.name}"

    def parameters(self) -> list[list[Array]] | None:
        """Draw the parameters of each layer from the seed; None when the caffemodel holds them."""
        if self.caffemodel is not None:
            return None
        return parameter_values(self.seed, [(layer.type, list(layer.parameters)) for layer in self.layers])


@dataclass(frozen=True, slots=True)
class Refused:
    """What real Caffe ends the process at: loading `prototxt`, then `caffemodel`, then a forward at a new shape."""

    name: str
    prototxt: str
    caffemodel: bytes | None
    reshaped: tuple[int, ...]  # of blob "data"; empty: left as it is
    message: str  # of real Caffe's failed check

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One observation of pycaffe's own Python or binding code: settings and arrays by name."""

    name: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, Array]

    def __str__(self) -> str:
        return self.name


def read_file(path: Path) -> tuple[list[dict[str, Any]], list[Array]]:
    """Read one file: its list of descriptions, and the arrays that they name by number."""
    with np.load(path, allow_pickle=False) as file:
        descriptions = json.loads(file["goldens"].tobytes())
        return descriptions, [file[f"array_{place}"] for place in range(len(file.files) - 1)]


def _golden(group: str, given: dict[str, Any], arrays: list[Array]) -> Golden:
    model = given["caffemodel"]
    return Golden(
        group=group,
        name=given["name"],
        prototxt=given["prototxt"],
        caffemodel=None if model is None else arrays[model].tobytes(),
        seed=given["seed"],
        phase=given["phase"],
        level=given["level"],
        stages=tuple(given["stages"]),
        inputs={name: arrays[place] for name, place in given["inputs"]},
        input_names=tuple(given["input_names"]),
        output_names=tuple(given["output_names"]),
        layers=tuple(
            Layer(
                each["name"],
                each["type"],
                tuple(each["bottoms"]),
                tuple(each["tops"]),
                tuple(tuple(shape) for shape in each["parameters"]),
            )
            for each in given["layers"]
        ),
        blobs={
            each["name"]: Expected(tuple(each["shape"]), each["step"], each["maximum"], arrays[each["values"]])
            for each in given["blobs"]
        },
        changed_parameters=tuple(
            ChangedParameter(each["layer"], each["index"], arrays[each["values"]])
            for each in given["changed_parameters"]
        ),
    )


def read_networks(path: Path) -> list[Golden]:
    """Read the networks of one file; the file's name is their group."""
    descriptions, arrays = read_file(path)
    return [_golden(path.stem, given, arrays) for given in descriptions]


@cache
def goldens() -> tuple[Golden, ...]:
    """Read every network's golden, group after group in the order of their names."""
    paths = [path for path in sorted(FOLDER.glob("*.npz")) if path.stem != BEHAVIOURS]
    return tuple(golden for path in paths for golden in read_networks(path))


@cache
def refusals() -> tuple[Refused, ...]:
    """Read what real Caffe refuses."""
    return tuple(
        Refused(
            each["name"],
            each["prototxt"],
            bytes.fromhex(each["caffemodel_hex"]) or None,
            tuple(each["reshaped"]),
            each["message"],
        )
        for each in json.loads((FOLDER / "refused.json").read_text())
    )


def read_behaviours(path: Path) -> tuple[Behaviour, ...]:
    """Read one file of behaviours."""
    descriptions, arrays = read_file(path)
    return tuple(
        Behaviour(each["name"], each["settings"], {name: arrays[place] for name, place in each["arrays"].items()})
        for each in descriptions
    )


@cache
def behaviours() -> tuple[Behaviour, ...]:
    """Read pycaffe's behaviours."""
    return read_behaviours(FOLDER / f"{BEHAVIOURS}.npz")
