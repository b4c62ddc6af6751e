"""Makes tests/goldens/opencv_dnn/caffe.npz: what OpenCV 4 gives for Caffe nets. Run it where OpenCV 4 is installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from interception.opencv_dnn import caffe_models, onnx_models, other_models
from interception.opencv_dnn.outcomes import Outcomes

TESTS = Path(__file__).parents[1]
PREFIX = "caffe_"


def main() -> None:
    """Run the conformance program plainly, and keep what it gives for Caffe nets."""
    if not cv2.__version__.startswith("4."):
        sys.exit(f"OpenCV 4 is needed, which has an importer for Caffe nets; this is {cv2.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx_models.write_all(folder)
        other_models.write_all(folder, folder / "classification.onnx")
        caffe_models.write_all(folder)
        output = folder / "outcomes.npz"
        command = [sys.executable, str(TESTS / "apps" / "opencv_conformance.py"), str(folder), str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        Outcomes.load(output).save(TESTS / "goldens" / "opencv_dnn" / "caffe.npz", PREFIX)


if __name__ == "__main__":
    main()
