"""What the paper reports of its own test-bed: a Jetson Nano as device, a Jetson TX2 as edge, a desktop's GPU as cloud.

Other machines, another Caffe: these values stand beside ours to be read, not to be compared digit by digit. The paper's
tables do not agree with each other everywhere; what stands here is named by its place. Source: J. Kennedy, B. Varghese,
C. Reaño, arXiv:2103.04930.
"""

from __future__ import annotations

ACCELERATORS = {"device": "Jetson Nano", "edge": "Jetson TX2", "cloud": "a GPU of 1920 cores, 6.5 TFLOP/s"}
FRAME_S = {"device": 2.5, "edge": 1.24, "cloud": 0.1}  # figure 8: a frame on each accelerator
COMMUNICATION_S = {"edge": 0.24, "cloud": 0.05}  # figure 8: what forwarding adds to it
FPS = {  # table V; (images, video)
    ("device", "native"): (None, 0.4),
    ("edge", "native"): (1.1, None),
    ("cloud", "native"): (10.5, None),
    ("cloud", "forwarded"): (2.0, 3.1),
}
SPEED_UP = {"cloud": ("2.8 to 3.1", "7.48")}  # table IV; (images, video)
EFFICIENCY = {"cloud": (0.19, 0.34)}  # of the cloud's own rate; (images, video), from table V
MODEL_MEMORY_GB = 5.5  # table III
FRAME_NBYTES = 3.75e6  # equation 1
KERNELS = {"native": 27, "host": 13, "destination": 17, "shared": 3}
EQUATION_METADATA_NBYTES = 12  # equation 1: 8 bytes and 4 bytes beside the frame and the maps
