"""The same loop with the destination's executor in this very process: what a frame costs without AVEC in between.

Prints the same JSON line as frame_loop.py.
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
from avec.protocol.caffe import WEIGHTS, BlobRef, Forward, LoadNet, NetDescription, Reshape, Reshaped

parser = argparse.ArgumentParser()
parser.add_argument("prototxt", type=Path)
parser.add_argument("weights", type=Path)
parser.add_argument("--width", type=int, default=656)
parser.add_argument("--height", type=int, default=368)
parser.add_argument("--frames", type=int, default=20)
parser.add_argument("--warm", type=int, default=3)
parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
arguments = parser.parse_args()

accelerator = Accelerator(arguments.numerics, 1024)
accelerator.warm_up()
text = np.frombuffer(arguments.prototxt.read_bytes(), np.uint8)
began = time.perf_counter()
body = msgspec.msgpack.encode(LoadNet(source=arguments.prototxt.name))
model, answer = CaffeExecutor(accelerator).load(body, [text], {WEIGHTS: arguments.weights})
load_s = time.perf_counter() - began
net = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=NetDescription)
image, output = net.inputs[0], net.outputs[0]
shape = (1, 3, arguments.height, arguments.width)
model.run(msgspec.msgpack.encode(Reshape(reshaped=(Reshaped(image, shape),))), [], {})
frames = np.random.default_rng(0).random((2, *shape), dtype=np.float32) - np.float32(0.5)
# The input lies where a received one would lie: page-locked beside a GPU.
buffer = accelerator.host_buffer(frames[0].nbytes).view(np.float32).reshape(shape)
forward = Forward(writes=(BlobRef(image),), end=len(net.layers) - 1, wanted=(BlobRef(output),))
request = msgspec.msgpack.encode(forward)

frame_s = []
for index in range(arguments.warm + arguments.frames):
    began = time.perf_counter()
    buffer[...] = frames[index % 2]
    result = model.run(request, [buffer], {}).arrays[0]
    checksum = float(result[0, 0, 0, 0])
    if index >= arguments.warm:
        frame_s.append(time.perf_counter() - began)

print(
    json.dumps(
        {
            "load_s": load_s,
            "frame_s": frame_s,
            "checksum": [float(np.abs(result).mean()), checksum],
            "accelerator": accelerator.info.name,
        }
    )
)
