"""The measured program: a plain loop of OpenCV's DNN module over blobs, which knows nothing of AVEC.

Prints one JSON line: seconds of each setInput and forward together, of the load, and a checksum of the last output.
"""

import argparse
import json
import time

import cv2
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--config", default="")
parser.add_argument("--width", type=int, default=224)
parser.add_argument("--height", type=int, default=224)
parser.add_argument("--frames", type=int, default=200)
parser.add_argument("--warm-up", type=int, default=20)
arguments = parser.parse_args()

began = time.perf_counter()
net = cv2.dnn.readNet(arguments.model, arguments.config)
load_s = time.perf_counter() - began
blob = np.random.default_rng(0).normal(size=(1, 3, arguments.height, arguments.width)).astype(np.float32)
frame_s = []
for _ in range(arguments.warm_up + arguments.frames):
    began = time.perf_counter()
    net.setInput(blob)
    output = net.forward()
    frame_s.append(time.perf_counter() - began)
print(
    json.dumps(
        {
            "opencv": cv2.__version__,
            "load_s": load_s,
            "frame_s": frame_s[arguments.warm_up :],
            "checksum": float(np.abs(output).sum()),
        }
    )
)
