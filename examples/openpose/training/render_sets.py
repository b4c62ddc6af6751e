"""Renders the evaluation sets: pictures of the sizes that COCO's have, and a clip of walking people; and their truth.

    python training/render_sets.py --output sets [--sets pictures_64 clip]

Each set has its own seed and becomes a folder with its pictures or clip and truth.json, as media has one:
`python accuracy.py RESULTS sets/pictures_64/truth.json` compares what the program found with it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from training import evaluation, scenes
from training.figures import CROWD, Dice, Range
from training.scenes import Scenes

# Height and width; COCO's longer sides are 640 mostly, 500 sometimes.
SIZES = ((480, 640), (427, 640), (640, 480), (426, 640), (640, 427), (375, 500), (360, 640), (500, 375), (640, 640))
CLIP_FRAMES = 204
CLIP_FPS = 15
PEOPLE_IN_CLIP = (4, 4)
CLIP_HEIGHTS = (150.0, 280.0)  # pixels
JPEG_QUALITY = 90
FIRST_SEED = 910_000  # far from training's; a set's own number is added

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One picture or frame, height x width x 3 of blue, green, red, and its people in the form of truth.json."""

    image: Image
    people: list[dict[str, object]]


def pictures(count: int) -> Iterator[Rendered]:
    """Render a set of so many pictures, of all sizes in turn."""
    dice = Dice(torch.Generator().manual_seed(FIRST_SEED + count))
    net_height, net_width = evaluation.SIZE
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        zoom = min(net_height / height, net_width / width)
        tall = tuple(tall / zoom for tall in CROWD.height)
        yield from _rendered(scenes.render(dice, 1, (height, width), Range(height=tall)))


def clip(frames: int = CLIP_FRAMES) -> Iterator[Rendered]:
    """Render the clip's frames."""
    dice = Dice(torch.Generator().manual_seed(FIRST_SEED))
    among = Range(PEOPLE_IN_CLIP, CLIP_HEIGHTS, hips=(0.5, 0.6))
    for some in scenes.render_clip(dice, frames, evaluation.SIZE, among):
        yield from _rendered(some)


def _rendered(some: Scenes) -> Iterator[Rendered]:
    images = some.images.permute(0, 2, 3, 1).contiguous().numpy()
    for image, truths in zip(images, evaluation.truths_of(some), strict=True):
        yield Rendered(
            image,
            [
                {
                    "height": round(truth.height, 1),
                    "joints": [round(float(number), 1) for number in truth.joints.ravel()],
                }
                for truth in truths
            ],
        )


def write_pictures(folder: Path, count: int) -> None:
    records = {}
    for index, rendered in enumerate(pictures(count)):
        name = f"{index:04d}"
        _, jpeg = cv2.imencode(".jpg", rendered.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (folder / f"{name}.jpg").write_bytes(jpeg.tobytes())
        records[name] = rendered.people
    _write_truth(folder, records)


def write_clip(folder: Path, frames: int = CLIP_FRAMES) -> None:
    height, width = evaluation.SIZE
    path = folder / "walkers.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), CLIP_FPS, (width, height))
    if not writer.isOpened():
        raise OSError(f"cannot write {path}: OpenCV opens no mp4 writer for it")
    records = {}
    for index, rendered in enumerate(clip(frames)):
        writer.write(rendered.image)
        records[f"walkers_{index:012d}"] = rendered.people
    writer.release()
    _write_truth(folder, records)


def _write_truth(folder: Path, records: dict[str, list[dict[str, object]]]) -> None:
    lines = (f"{json.dumps(stem)}: {json.dumps(people)}" for stem, people in records.items())
    (folder / "truth.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


SETS: dict[str, Callable[[Path], None]] = {
    "pictures_64": partial(write_pictures, count=64),
    "pictures_128": partial(write_pictures, count=128),
    "pictures_256": partial(write_pictures, count=256),
    "clip": write_clip,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the evaluation sets.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for a folder of each set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="default: all")
    options = parser.parse_args()
    for name in options.sets:
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        SETS[name](folder)
        print(f"{name}: {folder}/", flush=True)


if __name__ == "__main__":
    main()
