"""What waits to be sent over a session's connection, and the thread that sends it.

Many small frames go in one system call. Each item is for one connection: what was for an earlier one than there is has
been queued anew for that. Not here: what is sent, and what becomes of a connection that breaks (`session`).
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avec.communication.channel import Channel
from avec.errors import SessionLost
from avec.host.calls import Happening
from avec.protocol.codec import Buffer, encode
from avec.protocol.messages import Release

BATCH_LIMIT = 64  # frames that one gathering write may join


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Encoded frames; they go over their own connection or not at all."""

    buffers: Sequence[Buffer]
    channel: Channel
    sent: Happening | None = None  # of the call that they are


@dataclass(frozen=True, slots=True)
class Releasing:
    """A release, which the sending thread encodes: it may come from a destructor."""

    handle: int
    channel: Channel


class Outbox:
    """A queue of frames and its thread. `put` may be called from any thread, and in the middle of anything."""

    def __init__(self, current: Callable[[], Channel], mends: bool, lose: Callable[[str], None]) -> None:
        """Begin to send.

        Args:
            current: the connection that there is.
            mends: whether another takes the place of one that breaks.
            lose: called with the reason when nothing can be sent any more.
        """
        self._current = current
        self._mends = mends
        self._lose = lose
        self._items: queue.SimpleQueue[Outgoing | Releasing | None] = queue.SimpleQueue()
        self._puts = itertools.count(1)
        self._queued = 0  # items that the thread was given, and those that it has sent
        self._dequeued = 0
        self._thread = threading.Thread(target=self._send_all, name="avec-send", daemon=True)
        self._thread.start()

    @property
    def empty(self) -> bool:
        """Whether everything that was put here has been sent."""
        return self._queued == self._dequeued

    def put(self, item: Outgoing | Releasing, handed_on: list[Any] | None = None) -> None:
        """Have something sent; `handed_on` gets an item exactly when that was done, even if an interrupt is raised."""
        notes: list[Any] = [] if handed_on is None else handed_on
        self._queued = next(self._puts)
        # In one call, since between two an interrupt could be raised and the note be lost.
        notes.extend(map(self._items.put, (item,)))

    def close(self) -> None:
        """Send what is there, as far as it can be, and end the thread."""
        self._items.put(None)
        self._thread.join()

    def _send_all(self) -> None:
        try:
            while (first := self._items.get()) is not None:
                batch, ended = self._gather(first)
                try:
                    self._send(batch)
                finally:
                    self._dequeued += len(batch)
                if ended:
                    return
        except SessionLost as exc:
            self._lose(str(exc))
        except BaseException as exc:  # nobody shall wait for what nobody sends
            self._lose(f"its sending thread failed: {exc!r}")
            raise

    def _gather(self, first: Outgoing | Releasing) -> tuple[list[Outgoing], bool]:
        """Collect what else waits; whether the end was among it."""
        batch = [_encoded(first)]
        while len(batch) < BATCH_LIMIT:
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(_encoded(item))
        return batch, False

    def _send(self, batch: Sequence[Outgoing]) -> None:
        channel = self._current()
        current = [each for each in batch if each.channel is channel]
        if not current:
            return
        try:
            channel.send_encoded([buffer for each in current for buffer in each.buffers])
        except SessionLost:
            if not self._mends:
                raise
            channel.abort()  # the receiving thread finds it broken, and makes another
            return
        for each in current:
            if each.sent is not None:
                each.sent.happen()


def _encoded(item: Outgoing | Releasing) -> Outgoing:
    if isinstance(item, Releasing):
        return Outgoing(encode(Release(handles=(item.handle,))), item.channel)
    return item
