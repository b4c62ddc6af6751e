"""Runs beside real Caffe, on Python 3.9: what NetSpec, coord_map and Detector give. Usage: api.py FOLDER"""

import json
import sys
from pathlib import Path

import caffe
import net_specs
import numpy as np

WINDOWS = [[2, 3, 14, 17], [0, 0, 8, 8], [5, 1, 29, 31]]
DETECTOR = """name: "detector"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 4 stride: 4 } }
"""


def main(folder):
    folder.mkdir(exist_ok=True)
    for name, spec in net_specs.SPECS.items():
        (folder / (name + ".prototxt")).write_text(str(spec(caffe)))
    answers = {"maps": net_specs.coordinate_maps(caffe), "crops": net_specs.crops(caffe)}
    (folder / "coordinates.json").write_text(json.dumps(answers, indent=1) + "\n")
    detect(folder)


def detect(folder):
    """Windows of a picture, given as an array in place of load_image's result."""
    (folder / "detector.prototxt").write_text(DETECTOR)
    weights = folder / "none.caffemodel"
    weights.write_bytes(caffe.proto.caffe_pb2.NetParameter(name="none").SerializeToString())
    image = np.random.RandomState(7).rand(30, 32, 3).astype(np.float32)
    caffe.io.load_image = lambda filename: image.copy()
    mean = np.array([0.1, 0.2, 0.3])
    detector = caffe.Detector(
        str(folder / "detector.prototxt"),
        str(weights),
        mean=mean,
        raw_scale=2.0,
        input_scale=0.5,
        channel_swap=(2, 1, 0),
    )
    found = detector.detect_windows([("picture", np.array(WINDOWS[:2])), ("picture", np.array(WINDOWS[2:]))])
    predictions = np.array([each["prediction"] for each in found])
    np.savez(folder / "detector.npz", image=image, mean=mean, windows=np.array(WINDOWS), predictions=predictions)
    weights.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
