"""The audit log: one JSON line for each host that was let in, when it has left, and for each that was refused."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from avec.errors import ConfigurationError


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


class AuditLog:
    """Appends to one file that only its owner reads. A full disk stops the log, and nothing else."""

    def __init__(self, path: Path) -> None:
        """Open, or make, the log.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as exc:
            raise ConfigurationError(f"cannot write the audit log {path}: {exc.strerror}") from exc

    def note(self, line: Line) -> None:
        """Append a line.

        Raises:
            OSError: the disk refuses.
        """
        os.write(self._descriptor, msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)


def now() -> str:
    """The time as a line has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
