"""Find people in pictures and clips with an OpenPose network on Caffe, and draw their skeletons.

    python openpose.py [--model MODEL] [--output FOLDER] [picture, folder or clip ...]

A plain pycaffe program: the network is a `caffe.Net`, everything else is OpenCV and numpy. While the network computes,
the next frames are read and prepared, and the last ones are drawn and written.
"""

import argparse
import contextlib
import itertools
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from finding import Box, Tally, found
from frames import InputError, Source, list_sources
from models import MODELS, Model, Resolution
from results import OutputError, Results
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from estimation import Estimator

BUNDLED_MEDIA = Path(__file__).parent / "media"
MAX_SCALES = 4  # the fifth would have no size
MAX_DEPTH = 8  # each has the network's blobs once more on the accelerator
USAGE_ERROR, FAILED, INTERRUPTED = 2, 1, 130


class OneLineParser(argparse.ArgumentParser):
    """Reports a usage error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"openpose: {message}\n")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = OneLineParser(prog="openpose", description="Find people in pictures and clips, and draw their skeletons.")
    add = parser.add_argument
    add("inputs", nargs="*", type=Path, help="pictures, folders and clips (default: the bundled ones)")
    add("--model", choices=MODELS, default="pose_people", help="network (default: %(default)s)")
    add("--weights", type=Path, help="a .caffemodel for the network instead of its own")
    add("--net-resolution", type=_resolution, metavar="WxH", help="network input (default: 656x368)")
    add("--scales", type=int, default=1, help="sizes of the picture to average over (default: 1)")
    add("--box", type=_box, action="append", metavar="X,Y,W,H", help="where a hand or face is; may be repeated")
    add("--output", type=Path, default=Path("out"), metavar="DIR", help="folder for results (default: out)")
    add("--write-json", action="store_true", help="write keypoints in OpenPose's format")
    add("--no-render", action="store_true", help="draw no skeletons")
    add("--limit", type=int, metavar="N", help="stop after N frames")
    add("--seconds", type=float, metavar="S", help="stop after S seconds")
    add("--depth", type=int, default=2, metavar="N", help="frames in the network at once; 1: all in turn (default: 2)")
    add("--cpu", action="store_true", help="run Caffe on the CPU")
    options = parser.parse_args(arguments)
    if not 1 <= options.scales <= MAX_SCALES:
        parser.error(f"argument --scales: {options.scales} is not in 1..{MAX_SCALES}")
    if options.limit is not None and options.limit < 1:
        parser.error(f"argument --limit: {options.limit} is not a positive number")
    if not 1 <= options.depth <= MAX_DEPTH:
        parser.error(f"argument --depth: {options.depth} is not in 1..{MAX_DEPTH}")
    if options.box and MODELS[options.model].skeleton.fields:
        parser.error(f"argument --box: {options.model} finds people in the whole picture; use hand or face")
    return options


def _resolution(text: str) -> Resolution:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) % 8 == int(height) % 8 == 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in multiples of 8, such as 656x368")
    if not (int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is an empty picture")
    return Resolution(int(width), int(height))


def _box(text: str) -> Box:
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers) or "0" in numbers[2:]:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,WIDTH,HEIGHT in pixels")
    return Box(*map(int, numbers))


def main() -> int:
    options = parse_arguments()
    # A damaged clip is reported in one line here; FFmpeg would write hundreds (AV_LOG_QUIET is -8).
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    model = MODELS[options.model]
    results = Results(options.output, model, not options.no_render, options.write_json)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        sources = list_sources(options.inputs or [BUNDLED_MEDIA])
        results.prepare_folder()
        estimator = _load(model, options, messages)
        tally = run(estimator, sources, results, options, messages)
    except (InputError, OutputError) as error:
        messages.print(f"openpose: {error}", markup=False)
        return FAILED
    except KeyboardInterrupt:
        messages.print("openpose: interrupted")
        return INTERRUPTED
    _print_summary(tally, results)
    return FAILED if tally.problems else 0


def _load(model: Model, options: argparse.Namespace, messages: Console) -> "Estimator":
    """Load Caffe and the network. Caffe takes its time, so a mistyped argument has been answered before."""
    if options.weights is not None and not options.weights.is_file():
        raise InputError(f"{options.weights}: no such file of weights")
    try:
        from estimation import Estimator
    except ImportError as error:
        raise InputError(f"Caffe's Python module cannot be imported: {error}") from error
    if options.weights is None and model.topology is not None:
        messages.print(f"openpose: {model.name} runs with random weights: good for timing, finds nobody")
    resolution = options.net_resolution or model.resolution
    try:
        prototxt, caffemodel = model.prototxt(resolution), options.weights or model.caffemodel()
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot keep {model.name}'s files: {error.strerror}") from error
    return Estimator(prototxt, caffemodel, model.skeleton, resolution, options.scales, not options.cpu, options.depth)


def run(
    estimator: "Estimator",
    sources: list[Source],
    results: Results,
    options: argparse.Namespace,
    messages: Console,
) -> Tally:
    """Take every frame through the network; a source that breaks is reported, and the next one goes on."""
    claimed = sum(source.frame_count for source in sources)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} frames/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=messages) as progress:
        bar = progress.add_task("starting", total=min(claimed, options.limit or claimed), rate=0.0)
        tally = Tally()
        with contextlib.closing(found(estimator, sources, options.box, tally, options.depth > 1)) as frames:
            for place, of_source in itertools.groupby(frames, lambda each: each.place):
                with results.open(sources[place]) as source_results:
                    progress.update(bar, description=sources[place].path.name)
                    for each in of_source:
                        if each.error is not None:
                            messages.print(f"openpose: {each.error}", markup=False)
                            continue
                        with tally.taking("write"):
                            source_results.write(each.frame, each.keypoints)
                        tally.count(each)
                        progress.update(bar, advance=1, rate=tally.frames_per_second)
                        if tally.frames == options.limit or tally.seconds > (options.seconds or math.inf):
                            return tally
    return tally


def _print_summary(tally: Tally, results: Results) -> None:
    finds = "people" if results.model.skeleton.fields else f"{results.model.name}s"
    rate = f"{tally.frames_per_second:.1f} frames per second"
    print(f"{tally.people} {finds} found in {tally.frames} frames, {rate}")
    if results.pictures:
        print(f"pictures   {len(results.pictures)} in {results.folder}/")
    for clip in results.clips:
        print(f"clip       {clip}")
    if results.keypoint_files:
        print(f"keypoints  {results.keypoint_files} files in {results.folder}/")


if __name__ == "__main__":
    sys.exit(main())
