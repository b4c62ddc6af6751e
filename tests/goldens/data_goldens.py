"""Real Caffe's data layers as typed values: what `caffe_data/` holds. scripts/caffe_goldens/make_data.sh makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent / "caffe_data"
FILES = FOLDER / "files"  # what layers read; the working directory of every case
WRITTEN = FOLDER / "written"  # what real Caffe wrote


@dataclass(frozen=True, slots=True)
class DataCase:
    """One layer, its tops' shapes as it was set up, and its first batches."""

    name: str
    prototxt: str
    shapes: tuple[tuple[int, ...], ...]
    batches: tuple[tuple[npt.NDArray[np.float32], ...], ...]


@cache
def data_cases(random: bool = False) -> dict[str, DataCase]:
    """The cases by their names: those that can come in one way only, or those that Caffe draws at random."""
    prototxts = {
        case["name"]: case["prototxt"]
        for case in json.loads((FILES / "cases.json").read_text())
        if case["random"] is random
    }
    with np.load(FOLDER / "batches.npz") as stored:
        descriptions = json.loads(stored["goldens"].tobytes())
        return {
            each["name"]: DataCase(
                each["name"],
                prototxts[each["name"]],
                tuple(tuple(shape) for shape in each["shapes"]),
                tuple(tuple(stored[f"array_{place}"] for place in batch) for batch in each["batches"]),
            )
            for each in descriptions
            if each["name"] in prototxts
        }
