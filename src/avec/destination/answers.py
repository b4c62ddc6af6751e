"""What a session has answered and its host may not have received: kept until the host says that it has.

Answers are sent here, in order, by one connection at a time: when another takes over, what the host lacks is sent again
before anything new. Not here: receiving and carrying out calls (`session`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avec.communication.channel import Channel
from avec.destination.buffers import SMALL_NBYTES, BufferPool
from avec.errors import SessionLost
from avec.protocol.codec import Part
from avec.protocol.messages import Message, Welcome
from avec.tensor import Array, Encoded, spec_of

KEPT_LIMIT = 1024  # answers: a host lacks no more than its credit of calls, and what it says of that may be late
KEPT_NBYTES = 256 << 20  # of tensors that were copied for that


class AnswersGone(SessionLost):
    """The host lacks answers that are no longer kept."""


class Overtaken(SessionLost):
    """A newer connection of the same session has taken over."""


@dataclass(slots=True)
class _Kept:
    number: int
    message: Message
    arrays: Sequence[Part]
    nbytes: int = 0  # that were copied; before that the arrays are the executor's own, unless a codec wrote them


class Answers:
    """The answers of one session. Except for `acknowledge` every method may wait for the network."""

    def __init__(self, channel: Channel, pool: BufferPool, keep: bool) -> None:
        """Begin with the session's first connection, epoch 1; with `keep` false an answer is sent and forgotten."""
        self._channel: Channel | None = channel
        self._epoch = 1
        self._pool = pool
        self._keep = keep
        self._kept: deque[_Kept] = deque()
        self._kept_nbytes = 0
        self._borrowed: _Kept | None = None  # the last answer, while its arrays are the executor's
        self._acknowledged = 0
        self._dropped = 0  # the last answer that was given up although the host may lack it
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def acknowledge(self, number: int) -> None:
        """Take note that the host has received the answers up to a call. Never blocks."""
        if number > self._acknowledged:
            self._acknowledged = number

    def deliver(self, answers: Sequence[tuple[Message, int, Sequence[Part]]]) -> None:
        """Send answers in one write; where no connection is, they wait for one.

        Args:
            answers: each with its call's number, in their order. Only the last may have arrays.

        Raises:
            SessionLost: the connection broke, and answers are not kept.
        """
        with self._lock:
            self._forget()
            if self._keep:
                for message, number, arrays in answers:
                    kept = _Kept(number, message, arrays)
                    self._kept.append(kept)
                    self._borrowed = kept if arrays else None
                    if len(self._kept) > KEPT_LIMIT:
                        self._drop()
            if self._channel is None:
                if not self._keep:
                    raise SessionLost("the host has left before its last answer")
                return
            try:
                self._channel.send_encoded([each for answer in answers for each in self._channel.encode(*answer)])
            except SessionLost:
                if not self._keep:
                    raise
                self._channel.abort()  # its receiving thread finds it broken
                self._channel = None

    def secure(self) -> None:
        """Copy the last answer if the host may lack it: the executor's arrays are valid until the next call only.

        Where there is no room for more copies, or no memory, the oldest answers are given up; while no connection is,
        this waits for the host to come back instead.
        """
        kept = self._borrowed
        if kept is None or kept.number <= self._acknowledged:
            return
        nbytes = sum(array.nbytes for array in kept.arrays)
        with self._lock:
            self._forget()  # another connection's host may have acknowledged it meanwhile
            while self._borrowed is not None and not self._copy(kept, nbytes):
                if self._channel is None and self._keep:
                    self._changed.wait()
                    self._forget()
                else:
                    self._drop()

    def take_over(self, channel: Channel, epoch: int, answered: int, welcome: Welcome) -> None:
        """Go on over another connection: say welcome, and send what the host lacks.

        Raises:
            Overtaken: a newer one was faster.
            AnswersGone: the host lacks what was given up.
            SessionLost: this connection broke too.
        """
        with self._lock:
            if epoch <= self._epoch:
                raise Overtaken(f"connection {epoch} of the session comes after connection {self._epoch}")
            if answered < self._dropped:
                raise AnswersGone(
                    f"the host has received the answers up to call {answered}, and those up to {self._dropped} are no "
                    "longer kept"
                )
            self._epoch, self._channel = epoch, channel
            self.acknowledge(answered)
            self._forget()
            self._changed.notify_all()
            try:
                channel.send(welcome)
                for kept in self._kept:
                    channel.send(kept.message, kept.number, kept.arrays)
            except SessionLost:
                self._channel = None
                raise

    def part(self, channel: Channel) -> None:
        """Let go of a connection that has ended. To be called by its receiving thread."""
        channel.abort()  # whoever sends over it is done soon
        with self._lock:
            if self._channel is channel:
                self._channel = None
        channel.retire()

    def keep_none(self) -> None:
        """Take note that the host will not come back: what it lacks, and what is still to be answered, is in vain."""
        with self._lock:
            self._keep = False
            self._changed.notify_all()

    def _forget(self) -> None:
        """Forget what the host has acknowledged."""
        while self._kept and self._kept[0].number <= self._acknowledged:
            self._remove()

    def _drop(self) -> None:
        """Give up the oldest answer."""
        self._dropped = self._kept[0].number
        self._remove()

    def _remove(self) -> None:
        kept = self._kept.popleft()
        if kept is self._borrowed:
            self._borrowed = None
        elif kept.nbytes:
            self._kept_nbytes -= kept.nbytes
            if kept.nbytes >= SMALL_NBYTES:
                self._give_back(kept.arrays)

    def _copy(self, kept: _Kept, nbytes: int) -> bool:
        """Make the borrowed answer independent of the executor's arrays, if there is room for that."""
        if self._kept_nbytes + nbytes > KEPT_NBYTES:
            return False
        copied = self._copied if nbytes >= SMALL_NBYTES else np.copy
        copies: list[Part] = []
        try:
            copies.extend(each if isinstance(each, Encoded) else copied(each) for each in kept.arrays)
        except MemoryError:
            self._give_back(copies)
            return False
        kept.arrays, kept.nbytes = copies, nbytes
        self._kept_nbytes += nbytes
        self._borrowed = None
        return True

    def _copied(self, array: Array) -> Array:
        copy = self._pool.take(spec_of(array))
        copy[...] = array
        return copy

    def _give_back(self, copies: Sequence[Part]) -> None:
        self._pool.give_back([each for each in copies if not isinstance(each, Encoded)])
