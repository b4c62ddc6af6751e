"""The same training with the destination's solver in this very process: what an iteration costs without AVEC.

Prints the same JSON line as training_loop.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import msgspec
import numpy as np

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.protocol.caffe import BlobRef, LoadSolver, Progress, Read, SolverDescription, Step, Within

parser = argparse.ArgumentParser()
parser.add_argument("solver", type=Path)
parser.add_argument("--iterations", type=int, default=5)
parser.add_argument("--calls", type=int, default=2)
parser.add_argument("--warm", type=int, default=2)
parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
arguments = parser.parse_args()

accelerator = Accelerator(arguments.numerics, 1024)
accelerator.warm_up()
network = arguments.solver.parent / "net.prototxt"
texts = [np.frombuffer(path.read_bytes(), np.uint8) for path in (arguments.solver, network)]
began = time.perf_counter()
body = msgspec.msgpack.encode(LoadSolver(source=arguments.solver.name, nets=(str(network),)))
model, answer = CaffeExecutor(accelerator).load(body, texts, {})
load_s = time.perf_counter() - began
net = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=SolverDescription).nets[0]
places = {blob.name: place for place, blob in enumerate(net.blobs)}
random = np.random.default_rng(0)
shape = net.blobs[places["data"]].shape
images = random.random(shape, dtype=np.float32) - np.float32(0.5)
labels = random.integers(1000, size=net.blobs[places["label"]].shape).astype(np.float32)


def step(iterations: int, writes: tuple[BlobRef, ...] = (), contents: tuple[np.ndarray, ...] = ()) -> None:
    """Make iterations and wait for them."""
    reply = model.run(msgspec.msgpack.encode(Step(writes=writes, iterations=iterations)), list(contents), {})
    msgspec.msgpack.decode(reply.body, type=Progress)


step(arguments.warm, (BlobRef(places["data"]), BlobRef(places["label"])), (images, labels))
iteration_s = []
for _ in range(arguments.calls):
    began = time.perf_counter()
    step(arguments.iterations)
    iteration_s.append((time.perf_counter() - began) / arguments.iterations)

loss = model.run(msgspec.msgpack.encode(Within(0, Read(wanted=(BlobRef(places["loss"]),)))), [], {}).arrays[0]
print(
    json.dumps(
        {"load_s": load_s, "iteration_s": iteration_s, "loss": float(loss), "accelerator": accelerator.info.name}
    )
)
