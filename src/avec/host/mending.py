"""How a host comes back to its session after the connection broke: try, wait a little, try again, up to a limit.

Not here: what was under way meanwhile (`unanswered`), and the session itself (`session`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from avec.communication.channel import Channel
from avec.errors import AvecError, DestinationError, DestinationUnreachable, ProtocolError, SessionLost
from avec.host.greeting import Resumption, greet
from avec.protocol.codec import Allocate
from avec.protocol.messages import Welcome

if TYPE_CHECKING:
    from avec.config import Settings

PAUSES_S = (0.0, 0.01, 0.03, 0.1, 0.3)  # before the attempts; the first follows the break at once
LAST_PAUSE_S = 1.0  # before all further ones
LEAST_CONNECT_S = 0.1
# Where nobody listens, the server is gone and its workers with it; for less than this, somebody may be moving a port.
REFUSED_S = 1.0
PASSING = (DestinationUnreachable, DestinationError)  # these classes themselves; one below the second says what it is


class Attempts:
    """When to try again. `once_more` blocks until then, and says whether to."""

    def __init__(self, limit_s: float, given_up: threading.Event) -> None:
        self.began_s = time.monotonic()
        self.count = 0
        self._limit_s = limit_s
        self._given_up = given_up
        self._pauses_s: Iterator[float] = itertools.chain(PAUSES_S, itertools.repeat(LAST_PAUSE_S))
        self._refused_since_s: float | None = None

    @property
    def remaining_s(self) -> float:
        """Until the limit."""
        return max(0.0, self.began_s + self._limit_s - time.monotonic())

    def once_more(self) -> bool:
        """Wait for the time of the next attempt; False when there shall be none."""
        pause_s = min(next(self._pauses_s), self.remaining_s)
        if self._given_up.wait(pause_s) or self.remaining_s == 0.0:
            return False
        self.count += 1
        return True

    def hopeless(self, exc: AvecError) -> bool:
        """Take note of a failed attempt; whether nobody has listened for so long that nobody will."""
        if not isinstance(exc.__cause__, ConnectionRefusedError):
            self._refused_since_s = None
            return False
        now_s = time.monotonic()
        self._refused_since_s = self._refused_since_s or now_s
        return now_s - self._refused_since_s > REFUSED_S


def reconnect(
    url: str, settings: Settings, resumption: Resumption, attempts: Attempts, allocate: Allocate
) -> tuple[Channel, Welcome, int]:
    """Connect to the worker of a session again; blocks until it has said welcome.

    Args:
        resumption: with the epoch of the first attempt.

    Returns:
        The channel, the welcome, and the epoch of the attempt.

    Raises:
        SessionLost: it cannot be resumed; the text says what was tried.
    """
    epoch, last = resumption.epoch, "nothing was tried"
    while attempts.once_more():
        hurried = min(settings.connect_timeout_s, max(LEAST_CONNECT_S, attempts.remaining_s))
        try:
            channel, welcome = greet(
                url,
                replace(settings, connect_timeout_s=hurried),
                "resume",
                allocate=allocate,
                resumption=replace(resumption, epoch=epoch),
            )
        except AvecError as exc:
            epoch, last = epoch + 1, str(exc)
            if type(exc) not in PASSING:
                raise SessionLost(f"it was not resumed: {exc}") from exc
            if attempts.hopeless(exc):
                break
            continue
        if not isinstance(welcome, Welcome):
            channel.close()
            raise ProtocolError(f"{url} answered {type(welcome).__name__} to the wish to resume a session")
        return channel, welcome, epoch
    took_s = time.monotonic() - attempts.began_s
    raise SessionLost(f"it could not be resumed: {attempts.count} attempts in {took_s:.1f} s, and at the last {last}")
