"""Run every case through real Caffe and write the goldens: `generate.py CASES.json FOLDER`.

Runs inside the unpacked Debian 11, on its Python 3.9 and numpy 1.19, beside the other modules that make.sh copies.
A group of cases becomes one .npz, which README.md in tests/goldens/caffe describes.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import behaviours
import random_values
import training
import training_behaviours
import training_runs
from nets import (
    Group,
    caffe,
    copy_weights,
    expected,
    fill,
    give,
    load,
    np,
    saved_weights,
    structure,
    weights_in_v1_layers,
)  # fmt: skip


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
    given = give(net, case)
    net.forward()
    changed = [
        {"layer": layer_place, "index": place, "values": group.place(blob.data)}
        for layer_place, layer in enumerate(net.layers)
        for place, blob in enumerate(layer.blobs)
        if not np.array_equal(blob.data, before[layer_place][place])
    ]
    group.descriptions.append(
        {
            **{key: case[key] for key in ("name", "prototxt", "seed", "phase", "level", "stages", "weights")},
            "caffemodel": None if stored is None else group.place(stored),
            "inputs": [[name, group.place(value)] for name, value in given],
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
        message = re.sub(r"\S+\.prototxt", "FILE", lines[0].split("] ", 1)[1].strip())
        message = re.sub(r" \(0x\w+ vs\. 0x\w+\)", "", message)
        found.append({**case, "caffemodel_hex": model, "message": message})
    return found


def groups_of(cases: list[dict], folder: Path) -> None:
    """Run the cases and write one file for each of their groups."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, Group] = {}
    for case in cases:
        print(case["group"], case["name"], flush=True)
        run(case, groups.setdefault(case["group"], Group()))
    for name, group in groups.items():
        group.save(folder / f"{name.lower()}.npz")


def main() -> None:
    if sys.argv[1] == "--refuse":
        refuse(json.load(sys.stdin))
        return
    document = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    caffe.set_mode_cpu()
    groups_of(document["cases"], folder / "caffe")
    (folder / "caffe" / "refused.json").write_text(json.dumps(refusals(document["refused"]), indent=1) + "\n")
    behaviours.write(folder / "caffe")
    groups_of(document["training"], folder / "caffe_training")
    training.write_gradients(document["cases"] + document["training"], folder / "caffe_training")
    training.write_solvers(document["solvers"], folder / "caffe_training")
    training_runs.write_runs(document["runs"], folder / "caffe_training")
    random_values.write_statistics(document["random"], folder / "caffe_training")
    training_behaviours.write(document["refused_solvers"], folder / "caffe_training")


if __name__ == "__main__":
    main()
