"""The connections that a server has let in: who they are, and whether a host may take its session up again.

Not here: sockets and processes (`server`, `worker`), and whether a host may come in at all (`admission`).
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from avec.destination.audit import Line
from avec.destination.encryption import Encryption
from avec.destination.orders import (
    DATAGRAM_NBYTES,
    Ask,
    Broken,
    FromWorker,
    GiveBack,
    Here,
    Knock,
    Recall,
    Resumed,
    Turn,
    Vacate,
)
from avec.destination.sharing.board import Board
from avec.errors import DestinationError, SessionLost
from avec.protocol.messages import Hello

SECRET_NBYTES = 32
VACATE_S = 1.0  # a host that lives, behind a link that works, is back in milliseconds
ENCRYPTION_LIMIT = 16  # processes of one session: those of silent connections take up to half a minute to end


@dataclass(slots=True)
class Guest:
    """A connection that was let in and has a worker, or a session with the connections that it had so far."""

    line: Line  # of the audit log, but for its end
    session: str = ""
    worker: socket.socket | None = None  # leads to a session's worker
    board: Board | None = None  # which that worker shows its numbers on
    life: socket.socket | None = None  # where the worker answers for its life
    promised_nbytes: int = 0  # of the accelerator's memory
    limit_nbytes: int | None = None
    on_turn: Callable[[Ask | GiveBack], bool] = lambda _: False  # whether it may ask that, or give back
    resume_s: float = 0.0
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(SECRET_NBYTES), repr=False)
    epoch: int = 1  # of the newest connection
    waiting_since_s: float | None = None  # its connection broke, and its worker waits
    vacated: bool = False  # its worker was told to end
    _broken: int = 0  # the newest connection that the worker has said this of
    began_s: float = field(default_factory=time.monotonic)
    encrypted: bool = False
    encryptions: list[Encryption] = field(default_factory=list)  # whose processes may still count
    _received: int = 0  # what those have counted that ended
    _sent: int = 0

    def check(self, hello: Hello, user: str) -> None:
        """Let a host that wants to resume this session pass, if it is the one that began it.

        Raises:
            SessionLost: it is not, or it comes too late. Nothing tells a wrong secret from a session that has ended.
            DestinationError: it comes too often.
        """
        right = hmac.compare_digest(self.secret.encode(), hello.secret.encode())
        if not right or user != self.line.user or not self.resume_s:
            raise gone()
        if hello.epoch <= self.epoch:
            raise SessionLost(f"connection {hello.epoch} of the session comes after connection {self.epoch} took over")
        if len(self.encryptions) >= ENCRYPTION_LIMIT:
            raise DestinationError(
                f"{len(self.encryptions)} older connections of the session have not ended; try later"
            )

    def pass_on(self, hello: Hello, descriptor: int, peer: str) -> None:
        """Give the worker a connection of its host, as the newest.

        Raises:
            SessionLost: the worker is gone.
        """
        order = msgspec.json.encode(Resumed(hello.epoch, hello.answered, peer))
        try:
            if self.worker is None:
                raise ConnectionError("it has no worker")
            socket.send_fds(self.worker, [order], [descriptor], socket.MSG_DONTWAIT)
        except OSError as exc:  # one that does not take its connections is as good as gone
            raise gone() from exc
        self.epoch, self.waiting_since_s = hello.epoch, None

    @property
    def waiting(self) -> bool:
        """Whether its connection broke, and its worker waits for another."""
        return self.waiting_since_s is not None

    def waits_s(self, now_s: float) -> float:
        """For how many seconds more its worker waits."""
        return max(0.0, self.resume_s - (now_s - (self.waiting_since_s or now_s)))

    def holds_nbytes(self, total_nbytes: int) -> int:
        """How much of an accelerator's memory its worker shows to hold, which is no more than it can."""
        limit_nbytes = total_nbytes if self.limit_nbytes is None else self.limit_nbytes
        return 0 if self.board is None else min(self.board["memory_nbytes"], limit_nbytes)

    def vacate(self, reason: str) -> None:
        """End a session that waits for its host; nobody can resume it from now on."""
        self.vacated, self.resume_s = True, 0.0
        self.tell(Vacate(reason))

    def hear(self) -> bool:
        """Take what the worker says; whether it may say more. A worker that was taken over may say anything."""
        if self.worker is None:
            return False
        try:
            data = self.worker.recv(DATAGRAM_NBYTES)
            said = msgspec.json.decode(data, type=FromWorker)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # msgspec lets the last two pass
            return False
        match said:
            case Broken():
                return self._note_broken(said)
            case Knock():
                self.tell(Here())
                return True
            case Ask() | GiveBack():
                return self.on_turn(said)
            case _:
                assert_never(said)

    def tell(self, order: Turn | Recall | Vacate | Here) -> None:
        """Tell the worker, unless it is gone: then its socket tells the server."""
        if self.worker is not None:
            with contextlib.suppress(OSError):
                self.worker.send(msgspec.json.encode(order), socket.MSG_DONTWAIT)

    def _note_broken(self, broken: Broken) -> bool:
        if broken.epoch > self.epoch:  # there was none
            return False
        if broken.epoch > self._broken:  # of an older one two threads of the worker may tell in any order
            self._broken = broken.epoch
            self.waiting_since_s = time.monotonic() if broken.epoch == self.epoch else None
        return True

    def note_ended(self, encryption: Encryption) -> None:
        """Take note that a process that encrypted for this guest has ended: add up what it has counted."""
        received, sent = encryption.counts()
        self._received, self._sent = self._received + received, self._sent + sent
        self.encryptions.remove(encryption)
        encryption.close()

    def counts(self) -> tuple[int | None, int | None]:
        """Plain bytes that were received and sent so far; None where the connection is not encrypted."""
        if not self.encrypted:
            return None, None
        counts = [encryption.counts() for encryption in self.encryptions]
        return self._received + sum(each for each, _ in counts), self._sent + sum(each for _, each in counts)

    def close(self) -> None:
        """Release what leads to the worker."""
        for each in (self.worker, self.life):
            if each is not None:
                each.close()
        if self.board is not None:
            self.board.close()


def vacatable(own: Sequence[Guest], now_s: float) -> Guest | None:
    """Of one user's sessions the one that has waited longest for its host, if it has waited long enough to be ended.

    Only a user's own new session ends one that waits: what was promised to one user is not broken for another.
    """
    waiting = [(guest.waiting_since_s, guest) for guest in own if guest.waiting_since_s is not None]
    since_s, longest = min(waiting, key=lambda pair: pair[0], default=(now_s, None))
    return longest if now_s - since_s >= VACATE_S else None


def gone() -> SessionLost:
    """What a host is told whose session is not here, or not its own."""
    return SessionLost("no such session waits for this host: it has ended, or the time to resume it is over")
