"""Says which way the stripes of pictures run: a plain ONNX Runtime program that asks for CUDA.

Without pictures it draws some, and says how many it got right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import stripes

PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="*", type=Path, help="pictures to classify (needs OpenCV)")
    parser.add_argument("--draw", type=int, default=64, help="how many pictures to draw when none are given")
    parser.add_argument("--size", type=int, default=224, help="of the pictures drawn")
    parser.add_argument("--batch", type=int, default=8, help="pictures in one run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = ort.InferenceSession(stripes.write(Path(folder) / "stripes.onnx"), providers=PROVIDERS)
    print(f"{ort.get_device()}: {', '.join(session.get_providers())}")
    if arguments.pictures:
        return classify_files(session, arguments.pictures)
    classify_drawn(session, arguments)
    return 0


def classify_files(session: ort.InferenceSession, pictures: list[Path]) -> int:
    """Classify pictures one by one; the status is 1 when one cannot be read."""
    import cv2

    status = 0
    for path in pictures:
        image = cv2.imread(str(path))
        if image is None:
            print(f"{path}: cannot be read", file=sys.stderr)
            status = 1
            continue
        (shares,) = session.run(None, {"image": image[None, :, :, ::-1]})
        print(f"{path}: {said(session, shares[0])}")
    return status


def classify_drawn(session: ort.InferenceSession, arguments: argparse.Namespace) -> None:
    """Draw pictures, classify them in batches, and count."""
    random = np.random.default_rng(arguments.seed)
    truth = random.integers(0, len(stripes.CLASSES), arguments.draw)
    images = np.stack([draw(each, arguments.size, random) for each in truth])
    session.run(None, {"image": images[: arguments.batch]})  # the first run is slower than the others
    began = time.perf_counter()
    found = [
        session.run(["shares"], {"image": images[start : start + arguments.batch]})[0].argmax(1)
        for start in range(0, len(images), arguments.batch)
    ]
    seconds = time.perf_counter() - began
    right = int((np.concatenate(found) == truth).sum())
    print(f"{right} of {len(images)} pictures classified rightly")
    print(f"{len(images) / seconds:.1f} pictures per second", file=sys.stderr)


def said(session: ort.InferenceSession, shares: np.ndarray) -> str:
    """The class in words, most likely first."""
    classes = session.get_modelmeta().custom_metadata_map["classes"].split(",")
    return ", ".join(f"{classes[each]} {shares[each]:.0%}" for each in np.argsort(-shares)[:2])


def draw(direction: int, size: int, random: np.random.Generator) -> np.ndarray:
    """A picture of stripes with noise, not quite in the direction of its class."""
    normal = np.radians(stripes.NORMALS[direction] + random.uniform(-12, 12))
    wavelength, phase = random.uniform(7, 18), random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    wave = np.sin((x * np.cos(normal) + y * np.sin(normal)) * 2 * np.pi / wavelength + phase)
    grey = 128 + random.uniform(20, 100) * wave + random.normal(0, 30, (size, size))
    tint = random.uniform(0.6, 1.0, 3)
    return np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
