"""Programs whose workers, or whose whole destination, are killed again and again: they notice nothing but pauses.

What they print is a digest of all that they saw, which is compared with that of an undisturbed run, bit by bit.
`RECOVERY_ROUNDS` makes the programs longer (`make test-recovery`); 350 rounds of each are more than 1000 calls.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from destinations import Destination, await_true, running, start
from recovery import programs
from recovery.programs import Output

ROUNDS = os.environ.get("RECOVERY_ROUNDS", "100")
LONG = "RECOVERY_ROUNDS" in os.environ
INFERENCE = ("caffe_state.py", "onnx_state.py", "opencv_state.py")
TORCH = "torch_state.py"
# Snapshots when so many calls have come, not after seconds.
KEEPING = {"AVEC_RECOVERY": "snapshot", "AVEC_JOURNAL_LIMIT_CALLS": "150"}

pytestmark = pytest.mark.timeout(600 if LONG else 120)

Disturb = Callable[[Output], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers are killed."""
    with running(tmp_path_factory.mktemp("server"), OMP_NUM_THREADS="1") as destination:
        yield destination


def run(url: str, program: str, disturb: Disturb = lambda output: None) -> tuple[list[str], list[int]]:
    """Run a program; what it printed, and how many calls were made again each time that a worker had died."""
    output = programs.run(url, program, ROUNDS, disturb=disturb, **(KEEPING if program == TORCH else {}))
    return output.lines, output.made_again


def killing_workers(server: Destination) -> Disturb:
    """Kill the program's worker again and again, each at a random time after it has done something new."""

    def disturb(output: Output) -> None:
        chance, seen = random.Random(5), 0
        while output.await_lines(seen + 2):
            time.sleep(chance.uniform(0, 0.05))
            seen = len(output.lines)
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

    def disturb(output: Output) -> None:
        output.await_lines(1)
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
