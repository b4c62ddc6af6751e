"""What goes wrong at a destination and on the link: a clear error each, and no hang.

What goes wrong within a program that goes on is in `checks/faults.py`.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from destinations import Destination, running
from launching import AVEC, environ, execute
from relay import Relay

PROGRAMS = Path(__file__).parent / "programs"
MEMORY_LIMIT_NBYTES = 4_000_000_000  # address space; torch itself takes a part of it
NOTICED_S = 20.0  # a silent link is noticed in 2.4 s; the rest is for a busy machine
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers may be killed."""
    with running(tmp_path_factory.mktemp("faults"), OMP_NUM_THREADS="1") as destination:
        yield destination


@contextlib.contextmanager
def started(url: str, *args: str, variables: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program under AVEC; it has printed its first line."""
    command = [*AVEC, "run", "--on", url, str(PROGRAMS / args[0]), *args[1:]]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environ(OMP_NUM_THREADS="1", **(variables or {})), text=True, **pipes)
    with process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, process.communicate(timeout=TIMEOUT_S)[1]
            yield process
        finally:
            process.kill()


def kill_worker(server: Destination) -> None:
    """End the one worker there is, as a crash would."""
    worker = server.only_worker()
    subprocess.run(["kill", "-KILL", str(worker)], check=True)


def test_out_of_memory_is_raised_at_its_operator_and_the_program_goes_on_with_less(tmp_path: Path) -> None:
    limit = ("prlimit", f"--as={MEMORY_LIMIT_NBYTES}")
    program = str(PROGRAMS / "out_of_memory.py")
    with running(tmp_path, prefix=limit, OMP_NUM_THREADS="1") as destination:
        status, printed, errors = execute(*AVEC, "run", "--on", destination.url, program)
    assert (status, errors) == (0, "")
    *failures, end = printed.splitlines()
    steps, batch, *fine = end.split()
    assert (steps, fine) == ("3", ["True", "True"])
    assert [int(each.split()[0]) for each in failures] == [int(batch) << 2 * n for n in range(len(failures), 0, -1)]
    assert all("CUDA out of memory" in each for each in failures)
    assert "Tried to allocate 4.00 GiB. GPU 0 has a total capacity of 3.73 GiB" in failures[0]
    late = re.search(r"\((aten::\w+)[^)]*\).* The operator was called at (\S+):(\d+)\.$", failures[1])
    assert late is not None, failures[1]
    assert (late[1], late[2]) == ("aten::relu", program)
    assert "torch.relu(x * scale)" in Path(program).read_text("utf-8").splitlines()[int(late[3]) - 1]


@pytest.mark.parametrize("fault", ["killed", "cut", "silent"])
def test_a_session_that_is_lost_is_a_connection_error_at_each_wait(fault: str, server: Destination) -> None:
    final = {} if fault == "killed" else {"AVEC_RESUME_TIMEOUT_S": "0", "AVEC_HEARTBEAT_S": "0.2"}
    with Relay(server.url) as relay, started(relay.url, "losing.py", "catch", variables=final) as program:
        began_s = time.monotonic()
        {"killed": lambda: kill_worker(server), "cut": relay.cut, "silent": relay.silence}[fault]()
        printed, errors = program.communicate(timeout=TIMEOUT_S)
        assert time.monotonic() - began_s < NOTICED_S
    *outcomes, on_the_host = printed.splitlines()
    assert len(outcomes) == 6
    assert all(each.startswith("SessionLost: the session with tcp://") for each in outcomes), printed
    assert (on_the_host, program.returncode, errors) == ("[2.0, 2.0]", 0, "")


def test_a_lost_session_that_nothing_catches_is_one_traceback(server: Destination) -> None:
    with started(server.url, "losing.py") as program:
        kill_worker(server)
        printed, errors = program.communicate(timeout=TIMEOUT_S)
    assert (program.returncode, printed) == (1, "")
    assert errors.count("Traceback (most recent call last)") == 1
    assert f'File "{PROGRAMS / "losing.py"}"' in errors
    assert re.search(r"^avec\.errors\.SessionLost: the session with \S+ (is|was) lost", errors, re.MULTILINE)
    assert "avec:" not in errors


def test_a_program_that_ends_without_a_look_is_told_in_one_line_that_the_session_was_lost(server: Destination) -> None:
    with started(server.url, "leaving.py", "lost") as program:
        kill_worker(server)
        _, errors = program.communicate("\n", timeout=TIMEOUT_S)
    assert program.returncode == 0
    (line,) = errors.splitlines()
    assert line.startswith("avec: the program's last operators were not carried out: the session with ")


def test_a_program_that_ends_without_a_look_is_told_in_one_line_what_failed(server: Destination) -> None:
    with started(server.url, "leaving.py", "fail") as program:
        _, errors = program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == 0
    (line,) = errors.splitlines()
    assert line.startswith("avec: a call failed and nothing waited for it: ")
    assert "(aten::index.Tensor, " in line


def test_a_platform_that_is_not_known_is_refused_when_torch_is_imported() -> None:
    program = "import platform; platform.machine = lambda: 'riscv64'; import torch"
    status, printed, errors = execute(*AVEC, "run", "--no-check", "--on", "tcp://127.0.0.1:1", "-c", program)
    assert (status, printed) == (1, "")
    last = errors.splitlines()[-1]
    assert last.startswith("avec.errors.UnsupportedOperation: torch ")
    assert "riscv64" in last


def test_without_a_destination_torch_is_imported_and_the_first_use_says_what_is_wrong() -> None:
    program = "import torch; print(torch.ones(2).sum().item(), flush=True); torch.ones(2, device='cuda')"
    status, printed, errors = execute(*AVEC, "run", "--no-check", "--on", "tcp://127.0.0.1:1", "-c", program)
    assert (status, printed) == (1, "2.0\n")
    assert "tcp://127.0.0.1:1" in errors.splitlines()[-1]
    assert "DestinationUnreachable" in errors.splitlines()[-1]


def test_a_program_whose_connection_is_reset_again_and_again_notices_nothing(server: Destination) -> None:
    with (
        started(server.url, "remembering.py") as undisturbed,
        Relay(server.url) as relay,
        started(relay.url, "remembering.py") as process,
    ):
        while process.poll() is None:
            relay.cut(reset=True)
            time.sleep(0.05)
        printed, errors = process.communicate(timeout=TIMEOUT_S)
        connections = relay.connections
        expected, no_errors = undisturbed.communicate(timeout=TIMEOUT_S)
    assert (undisturbed.returncode, no_errors) == (0, "")
    assert (process.returncode, printed, errors) == (0, expected, "")
    assert printed.count("\n") > 100
    assert connections > 5, "there were too few breaks to show anything"


def test_with_v_a_break_is_one_line(server: Destination) -> None:
    with Relay(server.url) as relay, started(relay.url, "remembering.py", variables={"AVEC_VERBOSE": "1"}) as process:
        relay.cut()
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    told = [line for line in errors.splitlines() if "went on over a new connection" in line]
    assert len(told) == 1
    assert re.match(r"avec: 127\.0\.0\.1:\d+ closed the connection; the session went on over a new connection", told[0])
