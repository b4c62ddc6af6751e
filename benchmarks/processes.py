"""The processes of a measurement: a destination on this machine, and the loops that are measured."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent


@contextlib.contextmanager
def destination() -> Iterator[str]:
    """A destination of its own process; give its URL."""
    command = [sys.executable, "-m", "avec", "serve", "--listen", "tcp://127.0.0.1:0", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.split()[2]
        finally:
            process.terminate()


def run(command: Sequence[str], prefix: Sequence[str] = ()) -> dict:
    """Run one of the loops; give what it printed."""
    output = subprocess.run([*prefix, sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def run_avec(url: str, command: Sequence[str]) -> dict:
    """Run one of the loops under `avec run`, where this machine's GPU, if it has one, is out of its sight."""
    hidden = [str(HERE / "without_gpu.sh")] if any(Path("/dev").glob("nvidia[0-9]*")) else []
    return run(["-m", "avec", "run", "--on", url, *command], hidden)
