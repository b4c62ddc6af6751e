"""Runs programs plainly and under AVEC, in environments that differ in nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import avec

APPS = Path(__file__).parent / "apps"
SELF = str(APPS / "selfdescribing.py")
PLAIN = (sys.executable,)
AVEC = (sys.executable, "-m", "avec")
NOWHERE = ("--no-check", "--on", "tcp://127.0.0.1:1")  # nothing listens there, and nothing has to
UNDER_AVEC = (*AVEC, "run", *NOWHERE)
TIMEOUT_S = 60.0

Outcome = tuple[int, str, str]  # status, stdout, stderr
Result = TypeVar("Result")


def environ(**changes: str) -> dict[str, str]:
    """An environment without any setting of AVEC, in which `python -m avec` is this very avec."""
    # torch puts the second kind into the environment of a process that has compiled something.
    others = ("AVEC_", "TORCHINDUCTOR_")
    variables = {name: text for name, text in os.environ.items() if not name.startswith(others)}
    variables["PYTHONPATH"] = str(Path(avec.__file__).parent.parent)
    return {**variables, **changes}


def execute(
    *command: str,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = TIMEOUT_S,
) -> Outcome:
    """Run a command line to its end."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ() if variables is None else variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def at_once(*runs: Callable[[], Result]) -> list[Result]:
    """Run programs beside each other and wait for all: what each does longest, starting, it does on one core."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(lambda run: run(), runs))


def both_ways(
    *args: str,
    options: Sequence[str] = NOWHERE,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    stdin: str = "",
) -> tuple[Outcome, Outcome]:
    """Run `python ARGS` and `avec run OPTIONS ARGS`."""
    plainly, under_avec = at_once(
        lambda: execute(*PLAIN, *args, cwd=cwd, variables=variables, stdin=stdin),
        lambda: execute(*AVEC, "run", *options, *args, cwd=cwd, variables=variables, stdin=stdin),
    )
    return plainly, under_avec


@contextlib.contextmanager
def serving(python: str = sys.executable, **variables: str) -> Iterator[str]:
    """Start a destination as a user does, with a Python and an environment; give its URL, and end it as a user does."""
    command = [python, "-m", "avec", "serve", "--listen", "tcp://127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ(**variables))
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("avec: serving tcp://127.0.0.1:"), line
        try:
            yield line.split()[2]
        finally:
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0
            assert process.stdout.read() == ""
