"""The measured program: a plain pycaffe loop over frames, which knows nothing of AVEC.

Prints one JSON line: seconds of each frame from writing the input to holding the output, the load's seconds, the
process's peak resident memory, and a checksum of the last output.
"""

import argparse
import json
import resource
import time

import caffe
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("prototxt")
parser.add_argument("weights")
parser.add_argument("--width", type=int, default=656)
parser.add_argument("--height", type=int, default=368)
parser.add_argument("--frames", type=int, default=20)
parser.add_argument("--warm", type=int, default=3)
arguments = parser.parse_args()

caffe.set_mode_gpu()
began = time.perf_counter()
net = caffe.Net(arguments.prototxt, arguments.weights, caffe.TEST)
load_s = time.perf_counter() - began
blob = net.blobs[net.inputs[0]]
blob.reshape(1, 3, arguments.height, arguments.width)
net.reshape()
frames = np.random.default_rng(0).random((2, *blob.data.shape), dtype=np.float32) - 0.5

frame_s = []
for index in range(arguments.warm + arguments.frames):
    began = time.perf_counter()
    blob.data[...] = frames[index % 2]
    output = net.forward()["net_output"]
    checksum = float(output[0, 0, 0, 0])
    if index >= arguments.warm:
        frame_s.append(time.perf_counter() - began)

print(
    json.dumps(
        {
            "load_s": load_s,
            "frame_s": frame_s,
            "peak_resident_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "checksum": [float(np.abs(output).mean()), checksum],
        }
    )
)
