"""Starts a destination on this machine for one program, as `avec run --local` and `avec.intercept(local=True)` do.

It is no child of the program, whose os.wait() never sees it, and lives in a session of its own, out of reach of the
terminal's signals. It ends by itself once the program is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from avec.errors import ConfigurationError, DestinationUnreachable
from avec.interception import environment

if TYPE_CHECKING:
    from avec.config import Settings

START_TIMEOUT_S = 120.0  # importing torch from a cold disk on a small machine takes most of a minute
LOGS_KEPT = 20  # files, of a few kilobytes each
LOG_LINES_SHOWN = 20
ANNOUNCEMENT = "avec: serving "  # how the first line of `avec serve` begins; the URL follows


def start(settings: Settings, lifeline_pid: int) -> str:
    """Start a destination that lives as long as the process `lifeline_pid`; block until it serves.

    Returns:
        Its URL.

    Raises:
        ConfigurationError: its log cannot be written.
        DestinationUnreachable: it ended or did not get ready in time; the text ends with its log.
    """
    log = _new_log(settings.cache_dir / "logs", lifeline_pid)
    # -P: the program's folder must not shadow AVEC.
    command = [sys.executable, "-P", "-m", "avec", "serve", "--listen", "tcp://127.0.0.1:0"]
    reading, writing = os.pipe()
    with log.open("wb") as log_file, open(reading, "rb", buffering=0) as announcements:
        # The shell ends at once, so the destination becomes init's child and nobody's here. Forking this process
        # twice would do the same, but not safely where it already has threads, as a notebook does.
        try:
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command, "--lifeline", str(lifeline_pid)],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=log_file,
                env=environment.plain(_for_this_program(settings), os.environ),
                start_new_session=True,
            )
        except (OSError, subprocess.CalledProcessError) as exc:
            raise DestinationUnreachable(f"cannot start a destination on this machine: {exc}") from exc
        finally:
            os.close(writing)
        line = _first_line(announcements, time.monotonic() + START_TIMEOUT_S)
    if not line.startswith(ANNOUNCEMENT):
        raise DestinationUnreachable(f"cannot start a destination on this machine; {log} says:\n{_tail(log)}")
    return line.removeprefix(ANNOUNCEMENT).split(" ")[0]


def _for_this_program(settings: Settings) -> Settings:
    """Without what this machine may ask of other hosts: nothing but loopback reaches this destination.

    Loopback does not break, so a connection that ends is a program that ended, and nobody has to wait for it.
    """
    return replace(settings, require_token=False, client_ca=None, resume_timeout_s=0.0)


def _first_line(pipe: BinaryIO, deadline: float) -> str:
    """Read up to a newline, the pipe's end or the deadline."""
    received = bytearray()
    while b"\n" not in received:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or not select.select([pipe], [], [], remaining_s)[0]:
            break
        piece = os.read(pipe.fileno(), 4096)
        if not piece:
            break
        received += piece
    return received.decode("utf-8", "replace").partition("\n")[0]


def _new_log(folder: Path, pid: int) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(folder.glob("local-*.log"), key=_modified)[: -LOGS_KEPT + 1]:
            old.unlink(missing_ok=True)
        path = folder / f"local-{pid}.log"
        path.touch()
    except OSError as exc:
        raise ConfigurationError(f"cannot write a log in {folder}: {exc}; choose another with AVEC_CACHE_DIR") from exc
    return path


def _modified(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # another process may be tidying up too
        return path.stat().st_mtime
    return 0.0


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]
    return "\n".join(f"  {line}" for line in lines) or "  (nothing)"
