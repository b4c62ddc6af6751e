"""The processes of a measurement: a destination on this machine, and the programs that are measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avec import config
from avec.errors import ConfigurationError, DestinationUnreachable
from avec.interception import environment

WITHOUT_GPU = Path(__file__).parent / "without_gpu.sh"
PROGRAM = ("-m", "avec.bench.program")


Tell = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Said:
    """What a measured program said: its measurements, and where it computed."""

    measurements: list[dict[str, Any]] = field(default_factory=list)
    where: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] | None = None  # AVEC's own, which is written when the program comes to its end
    failure: str = ""


def has_gpu() -> bool:
    """Whether this machine has a GPU of its own, without asking a library for it."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def gpu_hidden() -> list[str]:
    """What to put before a command so that it sees no GPU; nothing where there is none.

    Raises:
        ConfigurationError: there is one, and hiding it takes root.
    """
    if not has_gpu():
        return []
    if os.geteuid():
        raise ConfigurationError(
            "cannot measure AVEC here: a host is to be without a GPU, and only root can hide this machine's from it;"
            " run `avec bench` as root, or with --on URL on a machine that has none"
        )
    return ["sh", str(WITHOUT_GPU)]


def single_thread() -> dict[str, str]:
    """Variables for both sides. Without a GPU they compute with one thread each: else sums differ in their order."""
    return {"OMP_WAIT_POLICY": "passive", **({} if has_gpu() else {"OMP_NUM_THREADS": "1"})}


@contextlib.contextmanager
def destination(
    settings: config.Settings | None = None,
    variables: Mapping[str, str] | None = None,
    listen: str = "tcp://127.0.0.1:0",
) -> Iterator[str]:
    """A destination of its own process, with an empty model cache; give its URL.

    Args:
        variables: what it finds in its environment beside what this process does.

    Raises:
        DestinationUnreachable: it did not start; what it has logged stands on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="avec-bench-") as folder:
        options = ["--listen", listen, "--log-level", "warning", "--cache-dir", folder]
        environ = {**environment.plain(settings or config.load(), os.environ), **(variables or {})}
        command = [sys.executable, "-P", "-m", "avec", "serve", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
            assert process.stdout is not None  # for mypy
            try:
                words = process.stdout.readline().split()
                if words[:2] != ["avec:", "serving"]:
                    raise DestinationUnreachable(
                        "cannot start a destination on this machine; `avec serve` says why, on stderr"
                    )
                yield words[2]
            finally:
                process.terminate()


def measure_natively(options: Sequence[str], tell: Tell) -> Said:
    """Run the standard workloads on this machine."""
    variables = {**environment.plain(config.load(), os.environ), **single_thread()}
    return _said([sys.executable, *PROGRAM, *options], variables, tell)


def measure_under_avec(settings: config.Settings, options: Sequence[str], tell: Tell) -> Said:
    """Run them under `avec run`, where this machine's GPU, if it has one, is out of their sight."""
    with tempfile.TemporaryDirectory(prefix="avec-bench-") as folder:
        report = Path(folder) / "report.json"
        variables = {**config.environment(settings, os.environ), **single_thread()}
        run = [*gpu_hidden(), sys.executable, "-m", "avec", "run", "--report", str(report)]
        said = _said([*run, *PROGRAM, *options], variables, tell)
        if report.exists():
            said.report = json.loads(report.read_text("utf-8"))
        return said


def _said(command: Sequence[str], variables: Mapping[str, str], tell: Tell) -> Said:
    said = Said()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None  # for mypy
        try:
            for text in process.stdout:
                line = json.loads(text)
                if "accelerator" in line:
                    said.where = line
                    continue
                said.measurements.append(line)
                tell(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode or not said.where:
        said.failure = f"it ended with status {process.returncode}; it says why on stderr"
    return said
