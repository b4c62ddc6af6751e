"""The audit log: a JSON line for each host that was let in, when it has left, and for those that were refused."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec

from avec.errors import ConfigurationError

PARTS = 4  # files: the newest, and older ones with .1 to .3 behind its name

log = logging.getLogger("avec.destination")


class Line(msgspec.Struct, frozen=True, omit_defaults=False):
    """One line. `received` and `sent` are a host's bytes, where the destination encrypts them and so can count."""

    time: str  # when it began, ISO 8601, UTC
    seconds: float
    user: str  # empty where nobody is asked
    address: str
    purpose: str
    program: str
    outcome: str  # "left", "refused: CODE", "killed by SIGKILL", "status 1"
    received: int | None = None
    sent: int | None = None
    accelerator_s: float | None = None  # for how long a session has used the accelerator
    count: int = 1  # how many that were refused it tells of, within `seconds`


class AuditLog:
    """Appends to a file that only its owner reads, and has older ones. A full disk stops the log, and nothing else."""

    def __init__(self, path: Path, limit_nbytes: int) -> None:
        """Open, or make, the log.

        Args:
            limit_nbytes: of all its files.

        Raises:
            ConfigurationError: it cannot be written.
        """
        self._path = path
        self._part_nbytes = limit_nbytes // PARTS
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = self._open()
        except OSError as exc:
            raise ConfigurationError(f"cannot write the audit log {path}: {exc.strerror}") from exc

    def note(self, line: Line) -> None:
        """Append a line. Where that fails, the destination's log has it, and hosts are served all the same."""
        data = msgspec.json.encode(line) + b"\n"
        try:
            found = os.fstat(self._descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_size and found.st_size + len(data) > self._part_nbytes:
                self._begin_anew(found)
            os.write(self._descriptor, data)
        except OSError as exc:
            log.error("the audit log lacks a line: %s; %s", exc.strerror, line)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _begin_anew(self, found: os.stat_result) -> None:
        """Put the full file behind the older ones, of which the oldest is lost, unless somebody else has moved it."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(found, os.lstat(self._path)):
                names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, PARTS))]
                for newer, older in reversed(list(pairwise(names))):
                    with contextlib.suppress(FileNotFoundError):  # there are not so many yet
                        os.replace(newer, older)
        descriptor = self._open()
        os.close(self._descriptor)
        self._descriptor = descriptor


def now() -> str:
    """The time as a line has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
