"""Makes what is measured with: the network's files, networks of other widths, pictures, a clip. Prints a line of JSON.

    python -m avec.bench.paper.files --application examples/openpose --model coco --output FOLDER --images 64,128

The application renders pictures itself, of people and from seeds of their own for each set, and keeps its networks'
files in the user's cache. Nothing here imports anything of AVEC's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIRST_SEED = 10_000  # sets are so many seeds apart
FIXED_OUTPUTS = (38, 19)  # channels of the maps, which stay as they are
SWEPT = "coco"


def main() -> None:
    """Write files; say where they are and how large."""
    parser = argparse.ArgumentParser(description="Makes what is measured with.")
    parser.add_argument("--application", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sets", default="", help="a folder of sets, in the place of pictures that are rendered here")
    parser.add_argument("--images", type=_numbers(int), default=())
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--widths", type=_numbers(float), default=())
    options = parser.parse_args()
    sys.path.insert(0, str(options.application))
    synthetic: Any = importlib.import_module("synthetic")
    models: Any = importlib.import_module("models")

    options.output.mkdir(parents=True, exist_ok=True)
    sets = {}
    for number, count in enumerate(options.images, 1):
        sets[f"images-{count}"] = folder = options.output / f"images-{count}"
        if options.sets:
            sets[f"images-{count}"] = _found(Path(options.sets) / f"pictures_{count}")
        else:
            synthetic.render_random_pictures(folder, count, number * FIRST_SEED)
    if options.frames and options.sets:
        sets["video"] = _found(Path(options.sets) / "clip" / "walkers.mp4")
    elif options.frames:
        sets["video"] = clip = options.output / "video.mp4"
        for _ in synthetic.render_clip(clip, options.frames):
            pass
    model = models.MODELS[options.model]
    prototxt, weights = model.prototxt(model.resolution), model.caffemodel()
    size = model.resolution.height, model.resolution.width
    found = {
        "prototxt": str(prototxt),
        "weights": str(weights),
        "height": size[0],
        "width": size[1],
        "gflop": flop(prototxt.read_text("utf-8"), *size) / 1e9,
        "model_nbytes": weights.stat().st_size,
        "sets": {name: str(path) for name, path in sets.items()},
        "widths": {str(width): _narrow(width, size, options.output) for width in options.widths},
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _found(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"there is no {path}; training/render_sets.py of the application makes it")
    return path


def _numbers(kind: type) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(kind(each) for each in text.split(",") if each)


def _narrow(width: float, size: tuple[int, int], folder: Path) -> dict[str, object]:
    """Write the COCO topology with so many times its channels; without weights, which do not matter to time."""
    topologies: Any = importlib.import_module("topologies")

    def scaled(match: re.Match[str]) -> str:
        outputs = int(match[1])
        return f"num_output: {outputs if outputs in FIXED_OUTPUTS else max(1, round(outputs * width))}"

    text = re.sub(r"num_output: (\d+)", scaled, topologies.prototxt(SWEPT, *size))
    path = folder / f"{SWEPT}-{width}.prototxt"
    path.write_text(text, "utf-8")
    return {"prototxt": str(path), "gflop": flop(text, *size) / 1e9}


def flop(prototxt: str, height: int, width: int) -> int:
    """Floating-point operations of a net's convolutions on a picture, a multiply-add as two.

    Of nets as the application has them: convolutions that keep the size, pooling that halves it, concatenation.
    """
    channels, scales, total = {"image": 3}, {"image": 1}, 0
    for body in re.split(r"^layer\b", prototxt, flags=re.MULTILINE)[1:]:
        bottoms, top = re.findall(r'bottom: "([^"]+)"', body), re.search(r'\btop: "([^"]+)"', body)
        if top is None or not bottoms:
            continue
        kind = re.search(r'type: "(\w+)"', body)
        inputs, scale = sum(channels[each] for each in bottoms), scales[bottoms[0]]
        outputs = re.search(r"num_output: (\d+)", body)
        channels[top[1]] = int(outputs[1]) if outputs else inputs
        scales[top[1]] = scale * (2 if kind and kind[1] == "Pooling" else 1)
        if outputs:
            kernel = re.search(r"kernel_size: (\d+)", body)
            area = int(kernel[1]) ** 2 if kernel else 1
            total += 2 * int(outputs[1]) * inputs * area * (height // scale) * (width // scale)
    return total


if __name__ == "__main__":
    main()
