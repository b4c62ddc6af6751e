"""The measured program: a plain pycaffe loop over the frames of a clip, which knows nothing of AVEC.

The net is one that a prototxt describes, or one convolution in the place of OpenPose's: 57 maps at an eighth of the
frame's size, in a few milliseconds on a CPU, so that the link and not the net takes the time. Prints one JSON line:
seconds of each frame from writing the input to holding the output, and a digest of all outputs.
"""

import argparse
import hashlib
import json
import tempfile
import time

import caffe
import cv2
import numpy as np

STAND_IN = """
layer { name: "image" type: "Input" top: "image" input_param { shape { dim: 1 dim: 3 dim: HEIGHT dim: WIDTH } } }
layer { name: "net_output" type: "Convolution" bottom: "image" top: "net_output"
  convolution_param { num_output: 57 kernel_size: 9 stride: 8 pad: 4 } }
"""

parser = argparse.ArgumentParser()
parser.add_argument("clip")
parser.add_argument("--model", nargs=2, metavar=("PROTOTXT", "WEIGHTS"), help="in place of one convolution")
parser.add_argument("--width", type=int, default=656)
parser.add_argument("--height", type=int, default=368)
parser.add_argument("--frames", type=int, default=40)
parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, as of a camera's sensor")
arguments = parser.parse_args()

generator = np.random.default_rng(0)
frames = []
clip = cv2.VideoCapture(arguments.clip)
while len(frames) < min(arguments.frames, 30) and (read := clip.read())[0]:
    frame = cv2.resize(read[1], (arguments.width, arguments.height))
    if arguments.noise:
        frame = np.clip(frame + generator.normal(0, arguments.noise, frame.shape), 0, 255).astype(np.uint8)
    frames.append(np.float32(frame.transpose(2, 0, 1)) / 256 - np.float32(0.5))

caffe.set_mode_gpu()
if arguments.model:
    net = caffe.Net(*arguments.model, caffe.TEST)
else:
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(STAND_IN.replace("HEIGHT", str(arguments.height)).replace("WIDTH", str(arguments.width)))
        file.flush()
        net = caffe.Net(file.name, caffe.TEST)
    weights = net.params["net_output"][0].data
    weights[...] = generator.normal(0, 0.05, weights.shape)
blob = net.blobs[net.inputs[0]]
blob.reshape(1, 3, arguments.height, arguments.width)
net.reshape()

frame_s, digest = [], hashlib.sha256()
for index in range(arguments.frames):
    began = time.perf_counter()
    blob.data[...] = frames[index % len(frames)]
    output = net.forward()["net_output"]
    output[0, 0, 0, 0]
    frame_s.append(time.perf_counter() - began)
    digest.update(output.tobytes())

print(json.dumps({"frame_s": frame_s, "digest": digest.hexdigest()}))
