"""Trains a small net: its data in HDF5, its loss the program's own layer; then goes on from a snapshot. Plain pycaffe.

Run in an empty folder, into which all files are written.
"""

import os
import sys

import caffe
import h5py
import numpy as np

NET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "target" hdf5_data_param { source: "files.txt" batch_size: 16 } }
layer { name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "tanh" type: "TanH" bottom: "hidden" top: "hidden" }
layer { name: "out" type: "InnerProduct" bottom: "hidden" top: "out"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "out" bottom: "target" top: "loss" loss_weight: 1
  python_param { module: "caffe_training" layer: "SquaredDistance" } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 60 display: 20 snapshot: 30
snapshot_prefix: "trained" random_seed: 1
"""


class SquaredDistance(caffe.Layer):
    """Half the mean squared distance of two bottoms."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("a distance is between two")

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference**2).sum() / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff[0] * self.difference / bottom[0].num


def main():
    stream = np.random.RandomState(1)
    data = stream.standard_normal((64, 4)).astype(np.float32)
    with h5py.File("data.h5", "w") as file:
        file["data"], file["target"] = data, np.tanh(data[:, :2] - data[:, 2:])
    for name, text in (("files.txt", "data.h5\n"), ("net.prototxt", NET), ("solver.prototxt", SOLVER)):
        with open(name, "w") as file:
            file.write(text)
    solver = caffe.get_solver("solver.prototxt")
    solver.net.forward()
    before = float(solver.net.blobs["loss"].data[0])
    solver.solve()
    print("iterations:", solver.iter, "learned:", float(solver.net.blobs["loss"].data[0]) < before / 10)
    weights = solver.net.params["out"][0].data.copy()
    again = caffe.SGDSolver("solver.prototxt")
    again.restore("trained_iter_60.solverstate")
    print("restored:", again.iter, np.array_equal(again.net.params["out"][0].data, weights))
    print(*sorted(name for name in os.listdir(".") if name.startswith("trained")), sep="\n")


if __name__ == "__main__":
    sys.modules["caffe_training"] = sys.modules["__main__"]
    main()
