"""Run data layers, savers and snapshots of real Caffe: `data_values.py FOLDER OUT`, FOLDER as data_files.py wrote it.

Runs inside the unpacked Debian 11, on its Python 3.9. OUT gets `batches.npz`, with what each case's layer gave, and
`written/`, with the files that real Caffe writes.
"""

# ruff: noqa: B905 - Python 3.9 knows no zip(strict=)

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from nets import Group, caffe, fill, input_values, np

SHARED = """
name: "siamese"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "target" type: "Input" top: "target" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "left" type: "InnerProduct" bottom: "data" top: "left" inner_product_param { num_output: 2 }
  param { name: "w" } param { name: "b" lr_mult: 2 } }
layer { name: "right" type: "InnerProduct" bottom: "data" top: "right" inner_product_param { num_output: 2 }
  param { name: "w" } param { name: "b" } }
layer { name: "norm" type: "BatchNorm" bottom: "left" top: "norm" }
layer { name: "sum" type: "Eltwise" bottom: "norm" bottom: "right" top: "sum" }
layer { name: "score" type: "InnerProduct" bottom: "sum" top: "score" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "score" bottom: "target" top: "loss" }
layer { name: "aside" type: "Silence" bottom: "left" include { phase: TEST } }
"""
SOLVERS = {
    "sgd": 'type: "SGD" momentum: 0.9 lr_policy: "multistep" gamma: 0.5 stepvalue: 1 stepvalue: 2',
    "adam": 'type: "Adam" momentum: 0.9 momentum2: 0.99 lr_policy: "fixed"',
}
OUTPUT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer { name: "out" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param { file_name: "out.h5" } }
"""


def write_batches(cases: list[dict], folder: Path) -> None:
    group = Group()
    for case in cases:
        print("data", case["name"], flush=True)
        Path("/tmp/case.prototxt").write_text(case["prototxt"])
        net = caffe.Net("/tmp/case.prototxt", caffe.TEST)
        tops = net.top_names["source"]
        shapes = [list(net.blobs[top].shape) for top in tops]
        batches = []
        for _ in range(case["batches"]):
            net.forward()
            batches.append([group.place(net.blobs[top].data) for top in tops])
        group.descriptions.append({"name": case["name"], "shapes": shapes, "batches": batches})
    group.save(folder / "batches.npz")


def write_snapshots(folder: Path) -> None:
    """Weights by name in both formats, and what solvers leave behind after three iterations."""
    (folder / "net.prototxt").write_text(SHARED)
    for name, settings in SOLVERS.items():
        for snapshot_format in ("BINARYPROTO", "HDF5"):
            text = (
                f'net: "net.prototxt" solver_mode: CPU base_lr: 0.1 {settings} snapshot_diff: true '
                f'snapshot_format: {snapshot_format} snapshot_prefix: "{name}" snapshot_after_train: false '
                "random_seed: 3"
            )
            (folder / f"{name}.solver.prototxt").write_text(text)
            solver = caffe.get_solver(f"{name}.solver.prototxt")
            fill(solver.net, 5)
            for blob, values in zip(("data", "target"), input_values(6, [(4, 3), (4, 2)])):
                solver.net.blobs[blob].data[...] = values
            solver.step(3)
            solver.snapshot()
    solver.net.save("saved.caffemodel")
    solver.net.save_hdf5("saved.caffemodel.h5")
    values = [[np.array(blob.data) for blob in layer.blobs] for layer in solver.net.layers]
    diffs = [[np.array(blob.diff) for blob in layer.blobs] for layer in solver.net.layers]
    named = {
        f"{kind}/{name}/{place}": array
        for kind, arrays in (("data", values), ("diff", diffs))
        for name, blobs in zip(solver.net._layer_names, arrays)
        for place, array in enumerate(blobs)
    }
    np.savez(folder / "weights.npz", names=list(solver.net._layer_names), **named)


def write_output(folder: Path) -> None:
    (folder / "output.prototxt").write_text(OUTPUT)
    net = caffe.Net("output.prototxt", caffe.TEST)
    net.blobs["data"].data[...] = np.arange(12).reshape(3, 4) / 8
    net.blobs["label"].data[...] = [4, 0, 7]
    net.forward()


def main() -> None:
    out = Path(sys.argv[2]).resolve()
    written = out / "written"
    written.mkdir(parents=True, exist_ok=True)
    caffe.set_mode_cpu()
    os.chdir(sys.argv[1])
    write_batches(json.loads(Path("cases.json").read_text()), out)
    os.chdir(written)
    write_snapshots(written)
    write_output(written)


if __name__ == "__main__":
    main()
