"""The measured program: a plain ONNX Runtime loop over images, which knows nothing of AVEC.

Prints one JSON line: seconds of each run, the load's seconds, the peak resident memory, a checksum of the last output.
"""

import argparse
import json
import resource
import time

import numpy as np
import onnxruntime as ort

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--runs", type=int, default=50)
parser.add_argument("--warm", type=int, default=5)
arguments = parser.parse_args()

began = time.perf_counter()
session = ort.InferenceSession(arguments.model, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
load_s = time.perf_counter() - began
shape = (2, arguments.batch, 3, arguments.size, arguments.size)
images = np.random.default_rng(0).standard_normal(shape, np.float32)

run_s = []
for index in range(arguments.warm + arguments.runs):
    began = time.perf_counter()
    (logits,) = session.run(None, {"image": images[index % 2]})
    ended = time.perf_counter()
    if index >= arguments.warm:
        run_s.append(ended - began)

print(
    json.dumps(
        {
            "load_s": load_s,
            "run_s": run_s,
            "peak_resident_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "checksum": float(np.abs(logits).mean()),
        }
    )
)
