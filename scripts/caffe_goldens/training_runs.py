"""Training runs of real Caffe, for `generate.py`: losses, rates, parameters, log lines and files."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from nets import Group, caffe, captured_log, expected, fill, np
from seeded_streams import InputStream

KEPT = ("name", "solver", "network", "seed", "iterations", "stride", "classes", "solve")
TIMES = re.compile(r"\(\S+ iter/s, \S+?s/")


def write_runs(cases: list[dict], folder: Path) -> None:
    """Write `runs.npz`, one entry per case."""
    group, before = Group(), Path.cwd()
    for case in cases:
        print("runs", case["name"], flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)  # so that file names in the log are bare
            _run(case, group)
            os.chdir(before)
    group.save(folder / "runs.npz")


class _Watched:
    """A solver, with what is looked at in each of its iterations."""

    def __init__(self, case: dict) -> None:
        Path("net.prototxt").write_text(case["network"])
        Path("solver.prototxt").write_text(f'net: "net.prototxt" solver_mode: CPU {case["solver"]}')
        self.solver = caffe.get_solver("solver.prototxt")
        self.losses: list[float] = []
        self.solver.add_callback(lambda: None, self._observe)

    def _observe(self) -> None:
        self.losses.append(float(self.solver.net.blobs["loss"].data))


def _streams(case: dict, solver: caffe.Solver) -> list[tuple[caffe.Net, InputStream]]:
    """Pair each net with its inputs: the train net's stream has seed + 1, those of test nets seed + 2 and so on."""
    nets = [solver.net, *solver.test_nets]
    return [
        (net, InputStream(case["seed"] + 1 + place, _input_shapes(net), case["classes"]))
        for place, net in enumerate(nets)
    ]


def _input_shapes(net: caffe.Net) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(net.blobs[name].shape)) for name in net.inputs]


def _write(net: caffe.Net, stream: InputStream) -> None:
    for name, value in stream.draw().items():
        net.blobs[name].data[...] = value


def _run(case: dict, group: Group) -> None:
    watched = _Watched(case)
    solver = watched.solver
    fill(solver.net, case["seed"])
    train, *tests = _streams(case, solver)
    for net, stream in tests:
        _write(net, stream)
    steps = []
    with captured_log() as lines:
        if case["solve"]:
            _write(*train)
            solver.solve()
            steps.append(_state(case, group, solver))
        while solver.iter < case["iterations"]:
            _write(*train)
            solver.step(case["stride"])
            if solver.iter in case["kept"]:
                steps.append(_state(case, group, solver))
    group.descriptions.append(
        {
            **{key: case[key] for key in KEPT},
            "losses": group.place(np.array(watched.losses, dtype=np.float32)),
            "log": [TIMES.sub("(R iter/s, Ts/", line) for line in lines],
            "inputs": [_input_shapes(net) for net in (solver.net, *solver.test_nets)],
            "steps": steps,
            "files": {path.name: group.place(path.read_bytes()) for path in sorted(Path().glob("snap_*"))}
            if case["files"] else {},
        }
    )  # fmt: skip


def _state(case: dict, group: Group, solver: caffe.Solver) -> dict:
    return {
        "iteration": solver.iter,
        "rate": solver.lr,
        "parameters": [
            [expected(group, blob.data, case["samples"]) for blob in layer.blobs] for layer in solver.net.layers
        ],
        "updates": [
            [expected(group, blob.diff, case["samples"]) for blob in layer.blobs] for layer in solver.net.layers
        ],
    }
