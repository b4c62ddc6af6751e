"""What is written of those who are refused: the first from somewhere for a reason at once, then now and then how many.

Whoever is not let in can come a thousand times a second, and may not fill a disk by that: lines are bounded by the time
that passes, and by the addresses that are told apart. Not here: who is refused (`server`), the audit's file (`audit`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from avec.destination.audit import AuditLog, Line
from avec.destination.subscribers import subscriber_at

WINDOW_S = 60.0
KIND_LIMIT = 128  # that are told apart at a time, by address and reason
ELSEWHERE = "other addresses"  # all beyond that

log = logging.getLogger("avec.destination")

_Kind = tuple[str, str, tuple[str, str] | None]  # whose address, the reason; user and purpose where there was a hello


@dataclass(slots=True)
class _Window:
    """A time within which one line tells of all of a kind."""

    began_s: float
    text: str = ""  # of the first since then
    line: Line | None = None
    count: int = 0


class Refusals:
    """Writes them to the log, and to the audit log those that have said hello."""

    def __init__(
        self, counts: Counter[str], audit: AuditLog | None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with none.

        Args:
            counts: where all are counted, by reason.
        """
        self._counts = counts
        self._audit = audit
        self._clock_s = clock_s
        self._windows: dict[_Kind, _Window] = {}

    def note(self, peer: str, reason: str, text: str, line: Line | None = None, failed: bool = False) -> None:
        """Take note of one that is refused.

        Args:
            reason: an error's code, or another short word.
            text: what it did or what was done to it, as it stands after its name in the log.
            line: for the audit log, where it has said hello.
            failed: an exception is being handled, whose traceback belongs into the log.
        """
        self._counts[reason] += 1
        hello = None if line is None else (line.user, line.purpose)
        kind: _Kind = subscriber_at(peer), reason, hello
        if kind not in self._windows and len(self._windows) >= KIND_LIMIT:
            kind = ELSEWHERE, reason, hello
        window = self._windows.get(kind)
        if window is None:
            self._windows[kind] = _Window(self._clock_s())
            log.warning("%s %s", peer, text, exc_info=failed)
            self._write(line, reason)
            return
        if not window.count:
            window.text, window.line = text, line
        window.count += 1

    def look(self) -> None:
        """Write of those whose time is over."""
        now_s = self._clock_s()
        for kind, window in list(self._windows.items()):
            if now_s < window.began_s + WINDOW_S:
                continue
            del self._windows[kind]
            if window.count:
                self._sum_up(kind, window, now_s)
                self._windows[kind] = _Window(now_s)  # it goes on, as a rule

    def deadline_s(self) -> float | None:
        """When `look` has to be called next, of the clock; None: not before another is refused."""
        return min((each.began_s + WINDOW_S for each in self._windows.values()), default=None)

    def close(self) -> None:
        """Write of those that have not been written."""
        now_s = self._clock_s()
        for kind, window in self._windows.items():
            if window.count:
                self._sum_up(kind, window, now_s)
        self._windows.clear()

    def _sum_up(self, kind: _Kind, window: _Window, now_s: float) -> None:
        address, reason, _ = kind
        seconds = round(now_s - window.began_s, 3)
        log.warning("%s, %d times more in %.0f s: %s", address, window.count, seconds, window.text)
        if window.line is not None:
            self._write(replace(window.line, address=address, seconds=seconds, count=window.count), reason)

    def _write(self, line: Line | None, reason: str) -> None:
        if self._audit is not None and line is not None:
            self._audit.note(replace(line, outcome=f"refused: {reason}"))
