"""How a host comes back to its destination after the connection broke: try, wait a little, try again, up to a limit.

Not here: what was under way meanwhile (`unanswered`), what a fresh worker needs (`restart`), the session (`session`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from avec.communication.channel import Channel
from avec.errors import (
    AuthenticationFailed,
    AvecError,
    DestinationError,
    DestinationFull,
    DestinationUnreachable,
    ProtocolError,
    SessionLost,
)
from avec.host.greeting import Resumption, greet
from avec.protocol.codec import Allocate
from avec.protocol.messages import Welcome

if TYPE_CHECKING:
    from avec.config import Settings

FIRST_EPOCH = 1  # of a session's first connection; each attempt to make another has the next
PAUSES_S = (0.0, 0.01, 0.03, 0.1, 0.3)  # before the attempts; the first follows the break at once
LAST_PAUSE_S = 1.0  # before all further ones
LEAST_CONNECT_S = 0.1
LEAST_WELCOME_S = 10.0  # for a worker to start beside a busy accelerator, however little time is left
# Where nobody listens, the server is gone and its workers with it; for less than this, somebody may be moving a port.
REFUSED_S = 1.0
# What may be otherwise a moment later: these classes themselves, since one below the second says what it is. This host
# was known when the session began, so that it is not now may be a users' file that is being changed.
PASSING = (DestinationUnreachable, DestinationError, DestinationFull, AuthenticationFailed)


class WorkerGone(SessionLost):
    """The destination is there, and has no worker with this session's state any more."""


class Attempts:
    """When to try again. `once_more` blocks until then, and says whether to."""

    def __init__(self, limit_s: float, given_up: threading.Event, patient: bool = False) -> None:
        """Begin to count.

        Args:
            given_up: ends the waiting.
            patient: wait for the whole time also where nobody listens: somebody may start the destination again.
        """
        self._patient = patient
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

    def within(self, limit_s: float) -> Attempts:
        """Others for a part of the time that is left, which do not wait for who has to be started first."""
        return Attempts(min(limit_s, self.remaining_s), self._given_up)

    def told(self) -> str:
        """What was tried, for a message."""
        return f"{self.count} attempts in {time.monotonic() - self.began_s:.1f} s"

    def at_once(self) -> None:
        """Begin the pauses anew: what is tried next is something else."""
        self._pauses_s = itertools.chain(PAUSES_S, itertools.repeat(LAST_PAUSE_S))

    def once_more(self) -> bool:
        """Wait for the time of the next attempt; False when there shall be none."""
        pause_s = min(next(self._pauses_s), self.remaining_s)
        if self._given_up.wait(pause_s) or self.remaining_s == 0.0:
            return False
        self.count += 1
        return True

    def hopeless(self, exc: AvecError) -> bool:
        """Take note of a failed attempt; whether nobody has listened for so long that nobody will."""
        if self._patient or not isinstance(exc.__cause__, ConnectionRefusedError):
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
        WorkerGone: the destination knows no such session.
        SessionLost: it cannot be resumed; the text says what was tried.
    """
    epoch, last = resumption.epoch, "nothing was tried"
    while attempts.once_more():
        try:
            channel, welcome = greet(
                url,
                _hurried(settings, attempts),
                "resume",
                allocate=allocate,
                resumption=replace(resumption, epoch=epoch),
            )
        except AvecError as exc:
            epoch, last = epoch + 1, str(exc)
            if type(exc) not in PASSING:
                kind = WorkerGone if isinstance(exc, SessionLost) else SessionLost
                raise kind(f"it was not resumed: {exc}") from exc
            if attempts.hopeless(exc):
                break
            continue
        if not isinstance(welcome, Welcome):
            channel.close()
            raise ProtocolError(f"{url} answered {type(welcome).__name__} to the wish to resume a session")
        return channel, welcome, epoch
    raise SessionLost(f"it could not be resumed: {attempts.told()}, and at the last {last}")


def reopen(
    url: str, settings: Settings, program: str, attempts: Attempts, allocate: Allocate
) -> tuple[Channel, Welcome]:
    """Open a new session in place of one whose worker is gone; blocks until its worker has said welcome.

    Raises:
        SessionLost: the destination does not give one; the text says what was tried.
    """
    last = "nothing was tried"
    while attempts.once_more():
        try:
            patience_s = max(LEAST_WELCOME_S, attempts.remaining_s)
            hurried = _hurried(settings, attempts)
            channel, welcome = greet(url, hurried, "session", program, allocate, patience_s=patience_s)
        except AvecError as exc:
            last = str(exc)
            if type(exc) not in PASSING:
                raise SessionLost(f"no session could be opened in its place: {exc}") from exc
            continue
        if not isinstance(welcome, Welcome):
            channel.close()
            raise ProtocolError(f"{url} answered {type(welcome).__name__} to the request for a session")
        return channel, welcome
    raise SessionLost(f"no session could be opened in its place: {attempts.told()}, and at the last {last}")


def _hurried(settings: Settings, attempts: Attempts) -> Settings:
    return replace(
        settings, connect_timeout_s=min(settings.connect_timeout_s, max(LEAST_CONNECT_S, attempts.remaining_s))
    )
