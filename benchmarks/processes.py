"""The processes of a measurement: a destination on this machine, a link to it, and the loops that are measured."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from avec.bench.calibration import Calibration, calibrate_direct, calibrate_relay
from avec.bench.links import LOOPBACK, profile, relayed
from avec.bench.processes import destination, gpu_hidden

__all__ = ["HERE", "destination", "gpu_hidden", "over", "run", "run_avec"]

HERE = Path(__file__).parent


@contextlib.contextmanager
def over(url: str, link: str) -> Iterator[tuple[str, Calibration]]:
    """The destination's URL behind a link, and what the link was measured to be."""
    if link == LOOPBACK:
        yield url, calibrate_direct()
        return
    calibration = calibrate_relay(profile(link))
    with relayed(url, profile(link), calibration.delay_ms / 1e3) as link_url:
        yield link_url, calibration


def run(command: Sequence[str], prefix: Sequence[str] = ()) -> dict:
    """Run one of the loops; give what it printed."""
    output = subprocess.run([*prefix, sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def run_avec(url: str, command: Sequence[str]) -> dict:
    """Run one of the loops under `avec run`, where this machine's GPU, if it has one, is out of its sight."""
    return run(["-m", "avec", "run", "--on", url, *command], gpu_hidden())
