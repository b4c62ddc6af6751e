"""Programs whose workers, or whose whole destination, are killed again and again: they notice nothing but pauses.

What they print is a digest of all that they saw, which is compared with that of an undisturbed run, bit by bit.
`RECOVERY_ROUNDS` makes the programs longer (`make test-recovery`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from destinations import Destination, await_true, running, start
from launching import AVEC, environ

PROGRAMS = Path(__file__).parent
ROUNDS = os.environ.get("RECOVERY_ROUNDS", "300")
LONG = "RECOVERY_ROUNDS" in os.environ
INFERENCE = ("caffe_state.py", "onnx_state.py", "opencv_state.py")
TIMEOUT_S = 300.0
AT_ANOTHER_WORKER = "the session went on at another worker"

Disturb = Callable[[subprocess.Popen[str]], int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers are killed."""
    with running(tmp_path_factory.mktemp("server"), OMP_NUM_THREADS="1") as destination:
        yield destination


def run(url: str, program: str, disturb: Disturb = lambda process: 0, *options: str) -> tuple[str, int, int]:
    """Run a program; what it printed, how often its session went to another worker, and how often it was disturbed."""
    command = [*AVEC, "run", "-v", "--on", url, *options, str(PROGRAMS / program), ROUNDS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environ(OMP_NUM_THREADS="1"), text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=TIMEOUT_S)[1]
            count = disturb(process)
            printed, told = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0, told
    return printed, told.count(AT_ANOTHER_WORKER), count


def killing_workers(server: Destination, pause_s: float = 0.25) -> Disturb:
    """Kill the worker of the program again and again."""

    def disturb(process: subprocess.Popen[str]) -> int:
        chance, count = random.Random(5), 0
        while process.poll() is None and count < (200 if LONG else 8):
            time.sleep(chance.uniform(0.2, 1.8) * pause_s)  # at random places of the program
            for worker in server.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    count += 1
        return count

    return disturb


@pytest.mark.parametrize("program", INFERENCE)
def test_a_program_whose_workers_are_killed_prints_the_same(server: Destination, program: str) -> None:
    expected, restarts, _ = run(server.url, program)
    assert restarts == 0
    printed, restarts, kills = run(server.url, program, killing_workers(server))
    assert printed == expected
    assert 0 < restarts <= kills
    assert restarts >= 3, "there were too few deaths to show anything"


@pytest.mark.parametrize("program", INFERENCE if LONG else INFERENCE[:1])
def test_a_program_whose_destination_is_killed_and_started_again_prints_the_same(tmp_path: Path, program: str) -> None:
    first = start(tmp_path, OMP_NUM_THREADS="1")
    destinations = [first]

    def disturb(process: subprocess.Popen[str]) -> int:
        time.sleep(0.3)  # somewhere in the program
        before = [first.zygote_pid, *first.workers()]
        first.process.kill()
        first.process.wait()
        await_true(lambda: not any(map(_alive, before)), "its zygote and workers are gone with the server")
        port = urlsplit(first.url).port
        destinations.append(start(tmp_path, "--listen", f"tcp://127.0.0.1:{port}", OMP_NUM_THREADS="1"))
        return 1

    try:
        printed, restarts, _ = run(first.url, program, disturb)
        assert restarts == 1
        expected, restarts, _ = run(first.url, program)
        assert restarts == 0
        assert printed == expected
    finally:
        for destination in destinations:
            if destination.process.poll() is None:
                destination.stop()


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
