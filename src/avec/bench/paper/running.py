"""The processes of the paper's experiments: the measured program natively and under AVEC, and their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avec import config
from avec.bench.processes import gpu_hidden
from avec.errors import AvecError
from avec.interception import environment

PROGRAM, NATIVE, FILES = (f"avec.bench.paper.{name}" for name in ("program", "native", "files"))
HELD = "held"  # a line of the program's: its model is on the accelerator now
LEFT_OUT = "left_out"  # another: a test for which no time was left
GRACE_S = 30.0  # for the program to come to its end when its time is over; it starts no test then

Line = dict[str, Any]
Tell = Callable[[Line], None]


class OverBudget(AvecError):
    """What was planned takes longer than it may."""

    code = "over-budget"


class Budget:
    """How much time is left for everything."""

    def __init__(self, seconds: float) -> None:
        self._ends_s = time.monotonic() + seconds
        self.seconds = seconds

    @property
    def left_s(self) -> float:
        """Seconds; negative when it is spent."""
        return self._ends_s - time.monotonic()

    def check(self) -> None:
        """Raise OverBudget when it is spent."""
        if self.left_s <= 0:
            raise OverBudget(f"left out: the budget of {self.seconds:g} s was spent")


@dataclass(slots=True)
class Ran:
    """What one run of the program said, and AVEC's own report of it."""

    tests: dict[str, Line] = field(default_factory=dict)
    where: Line = field(default_factory=dict)
    report: Line | None = None
    failure: str = ""


def on_cpu(threads: int) -> dict[str, str]:
    """Variables with which a process computes on so many threads of the CPU, and sees no GPU."""
    count = str(threads)
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "CUDA_VISIBLE_DEVICES": "", **on_any()}


def on_any() -> dict[str, str]:
    """Variables of every measured process: threads that wait take no core from those that work."""
    return {"OMP_WAIT_POLICY": "passive"}


def natively(options: Sequence[str], numerics: str, variables: Mapping[str, str], tell: Tell, budget: Budget) -> Ran:
    """Run the program with the executor in its own process."""
    budget.check()
    command = [sys.executable, "-P", "-m", NATIVE, "--numerics", numerics, PROGRAM, *_within(budget), *options]
    return _ran(command, {**environment.plain(config.load(), os.environ), **variables}, tell, budget)


def under_avec(settings: config.Settings, options: Sequence[str], cache: Path, tell: Tell, budget: Budget) -> Ran:
    """Run it under `avec run`, where this machine's GPU, if it has one, is out of its sight.

    Args:
        cache: the host's folder of what it remembers from run to run.
    """
    budget.check()
    with tempfile.TemporaryDirectory(prefix="avec-bench-") as folder:
        report = Path(folder) / "report.json"
        variables = {**config.environment(settings, os.environ), **on_any(), "AVEC_CACHE_DIR": str(cache)}
        run = [*gpu_hidden(), sys.executable, "-P", "-m", "avec", "run", "--report", str(report), "-m", PROGRAM]
        ran = _ran([*run, *_within(budget), *options], variables, tell, budget)
        if report.exists():
            ran.report = json.loads(report.read_text("utf-8"))
        return ran


def _within(budget: Budget) -> list[str]:
    return ["--budget", f"{budget.left_s:.1f}"]


def made(options: Sequence[str]) -> Line:
    """Make the files to measure with."""
    command = [sys.executable, "-P", "-m", FILES, *options]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise AvecError("the files to measure with cannot be made; it says why on stderr")
    found: Line = json.loads(finished.stdout)
    return found


def _ran(command: Sequence[str], variables: Mapping[str, str], tell: Tell, budget: Budget) -> Ran:
    ran = Ran()
    left_out: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(variables)) as process:
        assert process.stdout is not None  # for mypy
        timer = threading.Timer(budget.left_s + GRACE_S, process.terminate)
        timer.start()
        try:
            for text in process.stdout:
                line = json.loads(text)
                tell(line)
                if "test" in line:
                    ran.tests[line["test"]] = line
                elif LEFT_OUT in line:
                    left_out.append(line[LEFT_OUT])
                elif HELD not in line:
                    ran.where |= line
            process.wait()
        except BaseException:
            process.terminate()
            raise
        finally:
            timer.cancel()
            timer.join()
    if left_out:
        ran.failure = f"no time was left for {', '.join(left_out)}: the budget of {budget.seconds:g} s was spent"
    elif process.returncode:
        ran.failure = f"it ended with status {process.returncode}; it says why on stderr"
    return ran


def accelerator_memory_nbytes(kind: str) -> int | None:
    """Memory in use on this machine's GPU, if that can be known; of a destination on the CPU, its largest process's."""
    if kind == "cuda":
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        try:
            found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=10).stdout
            return sum(int(each) for each in found.split()) << 20
        except (OSError, subprocess.SubprocessError, ValueError):  # it is not there, or knows nothing
            return None
    return max((_resident_nbytes(each) for each in _descendants(os.getpid()) if _is_destination(each)), default=0)


def _descendants(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(entry.joinpath("stat").read_text("utf-8").rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
    found = [root]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def _is_destination(pid: int) -> bool:
    try:
        return b"avec.destination.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _resident_nbytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS")), 0)
