"""Statistics of what real Caffe draws at random, for `generate.py`."""

from __future__ import annotations

import json
from pathlib import Path

from nets import caffe, load, np


def write_statistics(cases: list[dict], folder: Path) -> None:
    """Write `random.json`, one entry per case."""
    caffe.set_random_seed(1)  # so that the file stays the same
    text = json.dumps([{**case, **_statistics(case)} for case in cases], indent=1)
    (folder / "random.json").write_text(text + "\n")


def _statistics(case: dict) -> dict:
    net = load(case["prototxt"], {**case, "level": 0, "stages": []})
    array = net.blobs[case["blob"]] if case["blob"] else net.params["tested"][0]
    net.forward()
    first = array.data.copy()
    net.forward()
    sums = first.reshape(len(first), -1).sum(1)
    return {
        "shape": list(first.shape),
        "mean": float(first.mean()),
        "deviation": float(first.std()),
        "minimum": float(first.min()),
        "maximum": float(first.max()),
        "zeros": float((first == 0).mean()),
        "row_sums": [float(sums.min()), float(sums.max())],
        "drawn_again": not np.array_equal(first, array.data),
    }
