"""The same loop with the destination's executor in this very process: what a run costs without AVEC in between.

Prints the same JSON line as onnx_loop.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import msgspec
import numpy as np

from avec.destination.accelerators import Accelerator
from avec.destination.executors.onnx import OnnxExecutor
from avec.protocol.onnx import MODEL, LoadSession, OpenSpace, RunSession, SessionDescription, Tensor

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--runs", type=int, default=50)
parser.add_argument("--warm", type=int, default=5)
parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
arguments = parser.parse_args()

accelerator = Accelerator(arguments.numerics, 1024)
accelerator.warm_up()
executor = OnnxExecutor(accelerator)
executor.load(msgspec.msgpack.encode(OpenSpace()), (), {})
began = time.perf_counter()
load = LoadSession(source=arguments.model.name, providers=(("CUDAExecutionProvider", {}),))
session, answer = executor.load(msgspec.msgpack.encode(load), (), {MODEL: arguments.model})
load_s = time.perf_counter() - began
description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=SessionDescription)
shape = (arguments.batch, 3, arguments.size, arguments.size)
images = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
# The input lies where a received one would lie: page-locked beside a GPU.
buffer = accelerator.host_buffer(images[0].nbytes).view(np.float32).reshape(shape)
request = msgspec.msgpack.encode(RunSession(outputs=("logits",), feeds={"image": Tensor(0)}))

run_s = []
for index in range(arguments.warm + arguments.runs):
    began = time.perf_counter()
    buffer[...] = images[index % 2]
    logits = session.run(request, [buffer], {}).arrays[0]
    ended = time.perf_counter()
    if index >= arguments.warm:
        run_s.append(ended - began)

print(
    json.dumps(
        {
            "load_s": load_s,
            "run_s": run_s,
            "checksum": float(np.abs(logits).mean()),
            "accelerator": accelerator.info.name,
            "engine": f"{description.engine.name} {description.engine.version}, {description.providers[0]}",
        }
    )
)
