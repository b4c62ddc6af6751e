"""Signs of life: the server asks each process of a destination for one now and then, and ends those that give none.

A process that is stopped or hangs would hold its place for ever, since only its end tells the server anything. Each
has a pair of sockets for this alone, which nothing else it does can hold up: a byte comes, and goes back. Silence is
counted in questions and not in seconds, so that a server which was stopped itself takes nobody for silent. Not here:
what the end of a process means (`server`).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

QUESTIONS = 4  # in a row that stay without an answer before a process counts as stopped
_DATAGRAM_NBYTES = 16  # one byte comes

log = logging.getLogger("avec.destination")


@dataclass(slots=True)
class _Watched:
    socket: socket.socket
    end: Callable[[], None]
    unanswered: int = 0

    def ask(self) -> None:
        self.unanswered += 1
        with contextlib.suppress(OSError):  # it is gone, which shows elsewhere, or has questions enough
            self.socket.send(b"?", socket.MSG_DONTWAIT)

    def hear(self) -> None:
        """Take what has been answered."""
        with contextlib.suppress(OSError):  # that was all, or it is gone
            while self.socket.recv(_DATAGRAM_NBYTES, socket.MSG_DONTWAIT):
                self.unanswered = 0


class Lives:
    """The processes that are asked."""

    def __init__(self, timeout_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Watch nobody yet.

        Args:
            timeout_s: the shortest silence after which a process is ended; the longest is a quarter more.
        """
        self._timeout_s = timeout_s
        self._clock_s = clock_s
        self._watched: dict[str, _Watched] = {}
        self._next_s = 0.0

    def watch(self, name: str, ours: socket.socket, end: Callable[[], None]) -> None:
        """Ask a process from now on.

        Args:
            name: for the log.
            ours: the server's end of a pair; the process answers at the other. The caller closes it after `forget`.
            end: kills the process, which may be gone; called again and again until it is forgotten.
        """
        if not self._watched:
            self._next_s = self._clock_s() + self._timeout_s / QUESTIONS
        self._watched[name] = _Watched(ours, end)
        self._watched[name].ask()

    def forget(self, name: str) -> None:
        """Ask a process no longer, if it was asked."""
        self._watched.pop(name, None)

    def pardon(self) -> None:
        """Begin to count silence anew, since some of the processes could not even be started."""
        self._next_s = self._clock_s() + self._timeout_s / QUESTIONS
        for each in self._watched.values():
            each.unanswered = 0

    def deadline_s(self) -> float | None:
        """When `look` has to be called next, of the clock."""
        return self._next_s if self._watched else None

    def look(self) -> None:
        """Take the answers, end who is silent, and ask again, if it is time."""
        if not self._watched or self._clock_s() < self._next_s:
            return
        self._next_s = self._clock_s() + self._timeout_s / QUESTIONS
        for name, each in list(self._watched.items()):
            each.hear()
            if each.unanswered > QUESTIONS:
                log.error("%s gives no sign of life for %g s and is killed", name, self._timeout_s)
                each.end()
            each.ask()


def pair() -> tuple[socket.socket, socket.socket]:
    """The server's end and the process's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def answer(theirs: socket.socket) -> bool:
    """Answer what has been asked; blocks until something is. False when the server is gone."""
    with contextlib.suppress(OSError):
        if question := theirs.recv(_DATAGRAM_NBYTES):
            theirs.send(question)
            return True
    return False


def answer_always(descriptor: int) -> None:
    """Answer in a thread of its own from now on, whatever the process does."""

    def run() -> None:
        with socket.socket(fileno=descriptor) as theirs:
            while answer(theirs):
                pass

    threading.Thread(target=run, name="avec-life", daemon=True).start()
