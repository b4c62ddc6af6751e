"""Measure how long a session takes to go on at another worker, and what being able to costs the calls.

`python benchmarks/recovery.py` prints a table; `--output FILE` writes the record as JSON. Host and destination are
processes of this machine, on loopback. Costs are measured in turns, with recovery and without: calls by two sessions
in one process, PyTorch training by one program after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import msgspec
import numpy as np

from avec import config
from avec.bench import processes
from avec.config import Settings
from avec.host.calls import Call
from avec.host.journal import CHANGES, Effect
from avec.host.session import Session
from avec.protocol.caffe import BlobRef, Forward, LoadNet

BLOCK = 200  # calls in a row, before it is the other session's turn
SMALL, LARGE = 64, 2 << 20  # floats
TRAINING = """
import os, sys, time
import torch
from torch import nn

torch.manual_seed(0)
width, batch, seconds = (int(each) for each in sys.argv[1:])
layers = [each for _ in range(4) for each in (nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))]
model = nn.Sequential(*layers, nn.Linear(width, 10)).cuda()
optimizer = torch.optim.AdamW(model.parameters())

def step():
    x, y = torch.randn(batch, width, device="cuda"), torch.randint(0, 10, (batch,), device="cuda")
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss

for _ in range(20):
    step()
float(step())
steps, began, cpu = 0, time.perf_counter(), time.process_time()
while time.perf_counter() - began < seconds:
    for _ in range(10):
        loss = step()
    loss.item()
    steps += 10
rate = steps / (time.perf_counter() - began)
cpu = 1000 * (time.process_time() - cpu) / steps
from avec.interception.active import session
print(rate, cpu, session().snapshots)
"""


class Relu:
    """A net that computes max(0, x)."""

    def __init__(self, session: Session, count: int) -> None:
        self._session = session
        self._handle = session.new_handle()
        text = (
            f'layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ dim: {count} }} }} }}\n'
            'layer { name: "out" bottom: "in" top: "out" type: "ReLU" }\n'
        )
        body = msgspec.msgpack.encode(LoadNet("relu.prototxt"))
        session.load(self._handle, "caffe", body, [np.frombuffer(text.encode(), np.uint8)]).wait()
        self._alone = Effect(frozenset({(self._handle, "pass")}), frozenset())

    def forward(self, x: np.ndarray, alone: bool = True) -> Call:
        """Compute; `alone` says that passes before it are needless then, as a front-end does of such a net."""
        body = msgspec.msgpack.encode(Forward(writes=(BlobRef(0),), wanted=(BlobRef(1),)))
        effect = self._alone if alone else CHANGES
        return self._session.run(self._handle, "caffe.forward", body, [x], effect=effect)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--seconds", type=int, default=20, help="of training, each time")
    parser.add_argument("--rounds", type=int, default=3, help="of training")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    record: dict[str, object] = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/recovery.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load": os.getloadavg()[0],
        "link": "loopback",
        "versions": f"Python {platform.python_version()}, numpy {np.__version__}",
    }
    with tempfile.TemporaryDirectory() as folder, processes.destination() as url:
        settings = replace(config.load(), cache_dir=Path(folder))
        record["next_result_ms_after_a_killed_worker"] = next_results(url, settings, options.kills)
        record["small_call_us"] = in_turns(url, settings, options.calls, SMALL)
        record["call_of_8_MiB_ms"] = in_turns(url, settings, 200, LARGE, unit=1e3, block=10)
        record["training"] = training(url, options.rounds, options.seconds)
    for name, values in record.items():
        print(f"{name}: {values}")
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=2) + "\n")


def spread(times_s: list[float], unit: float) -> dict[str, float]:
    """Median and 95th percentile of times."""
    times_s = sorted(times_s)
    return {
        "median": round(unit * statistics.median(times_s), 1),
        "p95": round(unit * times_s[int(0.95 * len(times_s))], 1),
        "most": round(unit * times_s[-1], 1),
    }


def next_results(url: str, settings: Settings, kills: int) -> dict[str, dict[str, float]]:
    """From the death of a worker to the answer of a call that was made after it."""
    found: dict[str, dict[str, float]] = {}
    for name, count, alone in (("a net's last pass", 0, True), ("1000 calls that build on one another", 1000, False)):
        times_s = []
        x = np.zeros(SMALL, np.float32)
        with Session(url, settings) as session:
            net = Relu(session, SMALL)
            for _ in range(count):
                net.forward(x, alone).wait()
            for _ in range(kills):
                net.forward(x, alone).wait()
                worker = _workers()[-1]
                began_s = time.perf_counter()
                os.kill(worker, signal.SIGKILL)
                net.forward(x, alone).wait()
                times_s.append(time.perf_counter() - began_s)
            assert session.restarted == kills
        found[name] = spread(times_s, 1e3)
    return found


def _workers() -> list[int]:
    """The workers of the destination that this process has started, oldest first."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()[1:]]
    below: dict[int, list[int]] = {}
    for pid, parent, state in rows:
        if not state.startswith("Z"):
            below.setdefault(int(parent), []).append(int(pid))
    servers = below.get(os.getpid(), [])
    zygotes = [each for server in servers for each in below.get(server, [])]
    return sorted(each for zygote in zygotes for each in below.get(zygote, []))


def in_turns(
    url: str, settings: Settings, calls: int, count: int, unit: float = 1e6, block: int = BLOCK
) -> dict[str, dict[str, float]]:
    """One call after another, with recovery and without."""
    times_s: dict[str, list[float]] = {}
    x = np.zeros(count, np.float32)
    able, unable = Session(url, settings), Session(url, replace(settings, recovery="off"))
    with able, closing(unable):
        nets = {"off": Relu(unable, count), "resume": Relu(able, count)}

        def forwards(name: str, forward: Callable[[np.ndarray], Call]) -> None:
            for _ in range(block):
                began_s = time.perf_counter()
                forward(x).wait()
                times_s.setdefault(name, []).append(time.perf_counter() - began_s)

        for _ in range(calls // block):
            for name, net in nets.items():
                forwards(name, net.forward)
    return {name: spread(each, unit) for name, each in times_s.items()}


def training(url: str, rounds: int, seconds: int) -> dict[str, dict[str, object]]:
    """Steps of AdamW with dropout, and the host's processor time for each, in turns without and with snapshots."""
    found: dict[str, dict[str, object]] = {}
    for name, width, batch in (("small", 128, 64), ("1 million parameters", 512, 256)):
        rates: dict[str, list[float]] = {"off": [], "snapshot": []}
        cpu_ms: dict[str, list[float]] = {"off": [], "snapshot": []}
        snapshots = 0
        for _ in range(rounds):
            for recovery in rates:
                command = [sys.executable, "-m", "avec", "run", "--on", url, "--recovery", recovery, "-c", TRAINING]
                command += [str(width), str(batch), str(seconds)]
                printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
                rates[recovery].append(round(float(printed[0]), 1))
                cpu_ms[recovery].append(round(float(printed[1]), 3))
                snapshots += int(printed[2])
        found[name] = {"steps_per_s": rates, "host_cpu_ms_per_step": cpu_ms, "snapshots": snapshots}
    return found


if __name__ == "__main__":
    main()
