"""The processes of a measurement: a destination on this machine, and the loops that are measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from avec.bench.processes import destination, gpu_hidden

__all__ = ["HERE", "destination", "gpu_hidden", "run", "run_avec"]

HERE = Path(__file__).parent


def run(command: Sequence[str], prefix: Sequence[str] = ()) -> dict:
    """Run one of the loops; give what it printed."""
    output = subprocess.run([*prefix, sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def run_avec(url: str, command: Sequence[str]) -> dict:
    """Run one of the loops under `avec run`, where this machine's GPU, if it has one, is out of its sight."""
    return run(["-m", "avec", "run", "--on", url, *command], gpu_hidden())
