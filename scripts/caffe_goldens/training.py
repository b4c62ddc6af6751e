"""Gradients and solver runs of real Caffe, for `generate.py`.

A gradient case is a net of the other cases with `force_backward`; outputs that are no losses are given a gradient
from the seed. A solver case keeps the parameters and the loss after each iteration.
"""

# ruff: noqa: B905 - Python 3.9 knows no zip(strict=)

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from nets import Group, caffe, captured_log, fill, give, input_values, load

NEEDS_BACKWARD = re.compile(r"(.*) needs backward computation\.")
# Layers with learnable or differentiable behaviour of their own; whole networks and input forms add nothing here.
WITHOUT_GRADIENTS = {"nets", "openpose", "rules", "legacy", "v1", "syntax", "fillers", "Input"}
# Real Caffe writes outside the blob (a window without an element), or reads what in-place work has overwritten.
UNDEFINED = {("Pooling", "max_window_outside"), ("Pooling", "max_window_outside_rows")}


def write_gradients(cases: list[dict], folder: Path) -> None:
    """Write `gradients.npz`, one entry per case."""
    group = Group()
    for case in cases:
        undefined = (case["group"], case["name"]) in UNDEFINED or case["name"].startswith("in_place_product")
        if case["backward"] and case["group"] not in WITHOUT_GRADIENTS and not undefined:
            print("gradients", case["group"], case["name"], flush=True)
            _gradient(case, group)
    group.save(folder / "gradients.npz")


def _gradient(case: dict, group: Group) -> None:
    prototxt = ("force_backward: true\n" if case["forced"] else "") + case["prototxt"]
    with captured_log() as lines:
        net = load(prototxt, case)
    needing = [match[1] for match in map(NEEDS_BACKWARD.match, lines) if match]  # and those of recurrent layers' nets
    if case["fill"]:
        fill(net, case["seed"])
    inputs = give(net, case)
    net.forward()
    weights = net.blob_loss_weights
    outputs = [name for name in net.outputs if not weights[name]]
    given = input_values(case["seed"] + 3, [tuple(net.blobs[name].shape) for name in outputs])
    for name, value in zip(outputs, given):
        net.blobs[name].diff[...] = value
    net.clear_param_diffs()
    net.backward()
    group.descriptions.append(
        {
            **{key: case[key] for key in ("group", "name", "seed", "phase", "fill")},
            "prototxt": prototxt,
            "loss_weights": [[name, weight] for name, weight in weights.items()],
            "needs_backward": [name for name in net._layer_names if name in needing],
            "inputs": [[name, group.place(value)] for name, value in inputs],
            "given": [[name, group.place(value)] for name, value in zip(outputs, given)],
            "blobs": [[name, group.place(blob.diff)] for name, blob in net.blobs.items()],
            "parameters": [
                [layer_place, place, group.place(blob.diff)]
                for layer_place, layer in enumerate(net.layers)
                for place, blob in enumerate(layer.blobs)
            ],
        }
    )


def write_solvers(cases: list[dict], folder: Path) -> None:
    """Write `solvers.npz`, one entry per case."""
    group = Group()
    for case in cases:
        print("solvers", case["name"], flush=True)
        _solve(case, group)
    group.save(folder / "solvers.npz")


def _solve(case: dict, group: Group) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        network, settings = Path(scratch, "train.prototxt"), Path(scratch, "solver.prototxt")
        network.write_text(case["network"])
        settings.write_text(f'net: "{network}" solver_mode: CPU {case["solver"]}')
        solver = caffe.get_solver(str(settings))
    net = solver.net
    fill(net, case["seed"])
    inputs = give(net, {"seed": case["seed"], "input_scale": 1.0, "classes": 0})
    steps = []
    for _ in range(case["iterations"]):
        solver.step(1)
        values = [[group.place(blob.data) for blob in layer.blobs] for layer in net.layers]
        steps.append({"loss": float(net.blobs["loss"].data), "rate": solver.lr, "parameters": values})
    group.descriptions.append(
        {
            **{key: case[key] for key in ("name", "solver", "network", "seed")},
            "inputs": [[name, group.place(value)] for name, value in inputs],
            "steps": steps,
        }
    )
