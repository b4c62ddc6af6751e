"""The measured program: a plain pycaffe training, which knows nothing of AVEC.

Prints one JSON line: seconds of an iteration in each call of `step`, the load's seconds, the process's peak resident
memory, and the loss after the last iteration.
"""

import argparse
import json
import resource
import time

import caffe
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("solver")
parser.add_argument("--iterations", type=int, default=5, help="of one call of step")
parser.add_argument("--calls", type=int, default=2)
parser.add_argument("--warm", type=int, default=2)
arguments = parser.parse_args()

caffe.set_mode_gpu()
caffe.init_log(2)
began = time.perf_counter()
solver = caffe.get_solver(arguments.solver)
load_s = time.perf_counter() - began
random = np.random.default_rng(0)
images, labels = solver.net.blobs["data"], solver.net.blobs["label"]
images.data[...] = random.random(images.data.shape, dtype=np.float32) - 0.5
labels.data[...] = random.integers(1000, size=labels.data.shape)
solver.step(arguments.warm)

iteration_s = []
for _ in range(arguments.calls):
    began = time.perf_counter()
    solver.step(arguments.iterations)
    iteration_s.append((time.perf_counter() - began) / arguments.iterations)

print(
    json.dumps(
        {
            "load_s": load_s,
            "iteration_s": iteration_s,
            "peak_resident_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "loss": float(solver.net.blobs["loss"].data),
        }
    )
)
