"""Trains by hand and with a solver, on state that stays and with random numbers; prints what it saw.

`caffe_state.py ROUNDS`
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import caffe
import numpy as np

NET = """name: "state"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 8 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "fc1" top: "fc1" dropout_param { dropout_ratio: 0.3 } }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
SOLVED = """name: "solved"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 8 } shape { dim: 4 dim: 3 } data_filler { type: "gaussian" } data_filler { type: "uniform" } } }
layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }
layer { name: "fc" type: "InnerProduct" bottom: "drop" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SOLVER = 'base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" type: "Adam" momentum2: 0.99 random_seed: 5 net: "{net}"'


def main(folder: Path, rounds: int) -> None:
    """Run, and print a digest of all that was seen."""
    seen = hashlib.sha256()
    caffe.set_random_seed(3)
    stream = np.random.RandomState(0)
    (folder / "net.prototxt").write_text(NET)
    (folder / "solved.prototxt").write_text(SOLVED)
    (folder / "solver.prototxt").write_text(SOLVER.replace("{net}", str(folder / "solved.prototxt")))
    net = caffe.Net(str(folder / "net.prototxt"), caffe.TRAIN)
    steady = caffe.Net(str(folder / "net.prototxt"), caffe.TEST)
    solver = caffe.get_solver(str(folder / "solver.prototxt"))
    for number in range(rounds):
        if number % 10 == 0:
            print("at", number, flush=True)
        net.blobs["data"].data[...] = stream.normal(size=(4, 8))
        seen.update(net.forward()["fc2"].tobytes())
        net.blobs["fc2"].diff[...] = stream.normal(size=(4, 3))
        net.backward()
        net.params["fc1"][0].data[...] -= 0.01 * net.params["fc1"][0].diff
        seen.update(net.params["fc1"][0].data.tobytes())
        steady.blobs["data"].data[...] = stream.normal(size=(4, 8))
        seen.update(steady.forward()["fc2"].tobytes())
        if number % 3 == 0:
            solver.step(1)
            seen.update(solver.net.params["fc"][0].data.tobytes())
        if number % 40 == 39:  # what came before the last passes is needed as well
            seen.update(net.blobs["fc1"].data.tobytes() + steady.blobs["fc1"].data.tobytes())
            steady.blobs["data"].reshape(4, 8)
            steady.share_with(net) if number == 39 else None
    print(seen.hexdigest())


with tempfile.TemporaryDirectory() as name:
    main(Path(name), int(sys.argv[1]))
