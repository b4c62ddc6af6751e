"""Measures some workloads and prints a line of JSON for each measurement, and one for where they computed."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator

import torch

from . import language, primitives, vision
from .measurement import Effort, Measurement, measured
from .place import Place

WORK: dict[str, Callable[[Place], Iterator[Measurement]]] = {
    "W1": vision.frame,
    "W2": vision.forward,
    "W3": language.tokens,
    "W4": vision.step,
    "W5": language.step,
    "W6": primitives.small,
    "W7": primitives.transfers,
}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default=",".join(WORK), help="comma list")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--limit", type=float, default=1.5, help="seconds of one measurement's repeats")
    options = parser.parse_args()
    place = Place(options.small)
    effort = Effort(options.repeats, options.limit)
    for name in options.work.split(","):
        try:
            for each in WORK[name](place):
                _say(measured(each, effort))
        except Exception as exc:  # that one workload cannot be done is a result, and the next may go
            traceback.print_exc()
            _say({"name": name, "error": f"{type(exc).__name__}: {exc}"})
    _say({"accelerator": place.name, "torch": torch.__version__, "libraries": place.libraries})


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
