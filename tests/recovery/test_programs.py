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

Disturb = Callable[[subprocess.Popen[str]], int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers are killed."""
    with running(tmp_path_factory.mktemp("server"), OMP_NUM_THREADS="1") as destination:
        yield destination


def run(url: str, program: str, disturb: Disturb = lambda process: 0) -> tuple[str, list[int], int]:
    """Run a program; what it printed, the calls made again at other workers each time, how often it was disturbed."""
    command = [*AVEC, "run", "-v", "--on", url, str(PROGRAMS / program), ROUNDS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    variables = environ(OMP_NUM_THREADS="1", **(KEEPING if program == TORCH else {}))
    with subprocess.Popen(command, env=variables, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=TIMEOUT_S)[1]
            count = disturb(process)
            printed, told = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0, told
    return printed, [int(each) for each in AT_ANOTHER_WORKER.findall(told)], count


def killing_workers(server: Destination, least_s: float) -> Disturb:
    """Kill each worker of the program at a random time in its life, but not before it can have done something new."""

    def disturb(process: subprocess.Popen[str]) -> int:
        chance, ends_s = random.Random(5), dict[int, float]()
        count, limit = 0, 200 if LONG else 4
        while process.poll() is None and count < limit:
            for worker in server.workers():
                if time.monotonic() > ends_s.setdefault(worker, time.monotonic() + chance.uniform(1, 3) * least_s):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        count += 1
            time.sleep(POLL_S)
        return count

    return disturb


@pytest.mark.parametrize("program", [*INFERENCE, TORCH])
def test_a_program_whose_workers_are_killed_prints_the_same(server: Destination, program: str) -> None:
    expected, restarts, _ = run(server.url, program)
    assert not restarts
    printed, restarts, kills = run(server.url, program, killing_workers(server, 1.0 if program == TORCH else 0.1))
    assert printed == expected
    assert len(restarts) <= kills
    assert len(restarts) >= (20 if LONG else 1), "there were too few deaths to show anything"
    if program == TORCH:
        assert max(restarts) <= int(KEEPING["AVEC_JOURNAL_LIMIT_CALLS"]), "a snapshot is there in time"


@pytest.mark.parametrize("program", [*INFERENCE, TORCH] if LONG else INFERENCE[:1])
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
        assert len(restarts) == 1
        expected, restarts, _ = run(first.url, program)
        assert not restarts
        assert printed == expected
    finally:
        for destination in destinations:
            if destination.process.poll() is None:
                destination.stop()


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
