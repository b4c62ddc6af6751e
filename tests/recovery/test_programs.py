"""Programs whose workers, or whose whole destination, are killed again and again: they notice nothing but pauses.

What they print is a digest of all that they saw, which is compared with that of an undisturbed run, bit by bit.
`RECOVERY_ROUNDS` makes the programs longer (`make test-recovery`); 350 rounds of each are more than 1000 calls.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from destinations import POLL_S, Destination, await_true, running, start
from launching import AVEC, environ

PROGRAMS = Path(__file__).parent
ROUNDS = os.environ.get("RECOVERY_ROUNDS", "100")
LONG = "RECOVERY_ROUNDS" in os.environ
INFERENCE = ("caffe_state.py", "onnx_state.py", "opencv_state.py")
TORCH = "torch_state.py"
# Snapshots when so many calls have come, not after seconds.
KEEPING = {"AVEC_RECOVERY": "snapshot", "AVEC_JOURNAL_LIMIT_CALLS": "150"}
TIMEOUT_S = 300.0
AT_ANOTHER_WORKER = re.compile(r"the session went on at another worker, where (\d+) calls were made again")

pytestmark = pytest.mark.timeout(600 if LONG else 120)

Disturb = Callable[[list[str]], None]  # is given the lines that the program has printed so far, which grow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers are killed."""
    with running(tmp_path_factory.mktemp("server"), OMP_NUM_THREADS="1") as destination:
        yield destination


def run(url: str, program: str, disturb: Disturb = lambda lines: None) -> tuple[list[str], list[int]]:
    """Run a program; what it printed, and how many calls were made again each time that a worker had died."""
    command = [*AVEC, "run", "-v", "--on", url, str(PROGRAMS / program), ROUNDS]
    variables = environ(OMP_NUM_THREADS="1", **(KEEPING if program == TORCH else {}))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    lines: list[str] = []
    told: list[str] = []
    with subprocess.Popen(command, env=variables, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            threading.Thread(target=lambda: lines.extend(process.stdout or ())),
            threading.Thread(target=lambda: told.extend(process.stderr or ())),
        ]
        for reader in readers:
            reader.start()
        try:
            disturb(lines)
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
            for reader in readers:
                reader.join()
    assert process.returncode == 0, "".join(told)
    return lines, [int(each) for each in AT_ANOTHER_WORKER.findall("".join(told))]


def await_lines(lines: list[str], count: int) -> bool:
    """Block until a program has printed more; False when it is over."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(lines) < count and time.monotonic() < deadline_s:
        if lines and not lines[-1].startswith("at"):
            return False
        time.sleep(POLL_S)
    return True


def killing_workers(server: Destination) -> Disturb:
    """Kill the program's worker again and again, each at a random time after it has done something new."""

    def disturb(lines: list[str]) -> None:
        chance, seen = random.Random(5), 0
        while await_lines(lines, seen + 2):
            time.sleep(chance.uniform(0, 0.05))
            seen = len(lines)
            for worker in server.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)

    return disturb


@pytest.mark.parametrize("program", [*INFERENCE, TORCH])
def test_a_program_whose_workers_are_killed_prints_the_same(server: Destination, program: str) -> None:
    expected, restarts = run(server.url, program)
    assert not restarts
    printed, restarts = run(server.url, program, killing_workers(server))
    assert printed == expected
    assert len(restarts) >= (3 if LONG else 1), "there were too few deaths to show anything"
    if program == TORCH:
        assert max(restarts) <= int(KEEPING["AVEC_JOURNAL_LIMIT_CALLS"]), "a snapshot is there in time"


@pytest.mark.parametrize("program", [*INFERENCE, TORCH] if LONG else INFERENCE[:1])
def test_a_program_whose_destination_is_killed_and_started_again_prints_the_same(tmp_path: Path, program: str) -> None:
    first = start(tmp_path, OMP_NUM_THREADS="1")
    destinations, zygote = [first], first.zygote_pid

    def disturb(lines: list[str]) -> None:
        await_lines(lines, 1)
        first.process.kill()
        first.process.wait()
        await_true(lambda: not _alive(zygote), "its zygote and workers are gone with the server")
        port = urlsplit(first.url).port
        destinations.append(start(tmp_path, "--listen", f"tcp://127.0.0.1:{port}", OMP_NUM_THREADS="1"))

    try:
        printed, restarts = run(first.url, program, disturb)
        assert len(restarts) == 1
        expected, restarts = run(first.url, program)
        assert not restarts
        assert printed == expected
    finally:
        for destination in destinations:
            if destination.process.poll() is None:
                destination.stop()


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
