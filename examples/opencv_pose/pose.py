"""Find the joints of one person with OpenCV's DNN module, as OpenCV's own OpenPose sample does.

    python pose.py [--input PICTURE_OR_CLIP] [--backend cuda] [--output FOLDER]

A plain OpenCV program: the net is read with cv2.dnn.readNet, and each joint is where its map is largest.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

OPENPOSE = Path(__file__).parents[1] / "openpose"
FAILED = 1

JOINTS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

# The network was trained on pixels as x / 256 - 0.5, in the order blue, green, red.
SCALE, MEAN = 1 / 256, (128, 128, 128)

BACKENDS = {
    "opencv": (cv2.dnn.DNN_BACKEND_OPENCV, cv2.dnn.DNN_TARGET_CPU),
    "cuda": (cv2.dnn.DNN_BACKEND_CUDA, cv2.dnn.DNN_TARGET_CUDA),
}

Point = tuple[int, int]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pose", description="Find the joints of one person with OpenCV.")
    add = parser.add_argument
    add("--input", type=Path, default=OPENPOSE / "media" / "picture_2.jpg", help="a picture or a clip")
    add("--proto", type=Path, default=OPENPOSE / "models" / "pose_people.prototxt", help="the network's prototxt")
    add("--model", type=Path, default=OPENPOSE / "models" / "pose_people.caffemodel", help="the network's weights")
    add("--width", type=int, default=368, help="of the network's input (default: %(default)s)")
    add("--height", type=int, default=368, help="of the network's input (default: %(default)s)")
    add("--threshold", type=float, default=0.1, help="how sure a joint has to be (default: %(default)s)")
    add("--backend", choices=BACKENDS, default="opencv", help="what computes the network (default: %(default)s)")
    add("--output", type=Path, default=Path("out"), metavar="DIR", help="folder for pictures (default: out)")
    return parser.parse_args()


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a clip, or the only one of a picture."""
    picture = cv2.imread(str(path))
    if picture is not None:
        yield picture
        return
    clip = cv2.VideoCapture(str(path))
    try:
        while True:
            there, frame = clip.read()
            if not there:
                return
            yield frame
    finally:
        clip.release()


def find_joints(maps: np.ndarray, size: Point, threshold: float) -> dict[int, tuple[Point, float]]:
    """Where each joint is in a frame of this size, and how sure that is."""
    width, height = size
    found: dict[int, tuple[Point, float]] = {}
    for joint in range(len(JOINTS)):
        heat = maps[0, joint]
        _, sureness, _, (x, y) = cv2.minMaxLoc(heat)
        if sureness > threshold:
            middle = width * (2 * x + 1) // (2 * heat.shape[1]), height * (2 * y + 1) // (2 * heat.shape[0])
            found[joint] = middle, sureness
    return found


def draw(frame: np.ndarray, joints: dict[int, tuple[Point, float]]) -> None:
    """Draw limbs and joints into a frame."""
    for start, end in LIMBS:
        if start in joints and end in joints:
            cv2.line(frame, joints[start][0], joints[end][0], (0, 255, 0), 3)
    for point, _ in joints.values():
        cv2.circle(frame, point, 4, (0, 0, 255), cv2.FILLED)


def main() -> int:
    options = parse_arguments()
    net = cv2.dnn.readNet(str(options.proto), str(options.model))
    backend, target = BACKENDS[options.backend]
    net.setPreferableBackend(backend)
    net.setPreferableTarget(target)
    options.output.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, frame in enumerate(read_frames(options.input), 1):
        net.setInput(cv2.dnn.blobFromImage(frame, SCALE, (options.width, options.height), MEAN))
        joints = find_joints(net.forward(), (frame.shape[1], frame.shape[0]), options.threshold)
        for joint, ((x, y), sureness) in joints.items():
            print(f"{count:4} {JOINTS[joint]:15} {x:5} {y:5} {sureness:6.3f}")
        draw(frame, joints)
        cv2.imwrite(str(options.output / f"{options.input.stem}_{count:04}.png"), frame)
    if not count:
        print(f"pose: cannot read {options.input}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
