"""What the destination may not have received: the calls that it has not answered, and the handles released since.

A call's frame is kept until its answer is here, so that it can be sent again over another connection. It refers to the
application's own memory, which may change once the call was sent and `Call.wait_sent` has returned: then the frame
becomes a copy. Not here: connections, and who sends (`session`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from avec.host.calls import Call
from avec.protocol.codec import Buffer
from avec.tensor import Array

COPY_LIMIT_NBYTES = 64 << 20  # tensors of a call that is copied; a larger one cannot be sent again once given back
SPARE_NBYTES = 64 << 20  # memory kept for the next copies: new memory costs a page fault for each 4 KiB


class Copies:
    """Copies frames into memory that is used again. Thread-safe, since its list and dictionary steps are atomic."""

    def __init__(self) -> None:
        self._spare: deque[Array] = deque()

    def of(self, frames: Sequence[Buffer]) -> list[Buffer] | None:
        """Copy a frame's buffers; None where they are too large for that."""
        views = [memoryview(buffer).cast("B") for buffer in frames]
        nbytes = sum(view.nbytes for view in views)
        if nbytes > COPY_LIMIT_NBYTES:
            return None
        memory = self._take(nbytes)
        start = 0
        for view in views:
            memory[start : start + view.nbytes] = np.frombuffer(view, np.uint8)
            start += view.nbytes
        return [memory.data]

    def take_back(self, frames: Sequence[Buffer]) -> None:
        """Take note that nobody reads a copy any more."""
        for view in frames:
            self._spare.append(np.frombuffer(view, np.uint8))
        while sum(memory.nbytes for memory in list(self._spare)) > SPARE_NBYTES:
            self._spare.popleft()

    def _take(self, nbytes: int) -> Array:
        for _ in range(len(self._spare)):
            try:
                memory = self._spare.popleft()
            except IndexError:  # another thread was faster
                break
            if memory.nbytes == nbytes:
                return memory
            self._spare.append(memory)
        return np.empty(nbytes, np.uint8)


class Releases:
    """The handles released since the last answer, each with the call after which that was.

    `add` may run in a destructor, in the middle of anything: it takes no lock.
    """

    def __init__(self, on_received: Callable[[int], None] = lambda handle: None) -> None:
        """Begin without any; `on_received` is called with each handle whose release has surely been received."""
        self._on_received = on_received
        self._released: deque[tuple[int, int]] = deque()

    def add(self, after: int, handle: int) -> None:
        """Take note of a release that is sent after a call, or later: a later one is as good."""
        self._released.append((after, handle))

    def forget(self, received: int) -> None:
        """Take note that a call was received, and with it all that was sent before."""
        while self._released and self._released[0][0] < received:
            self._on_received(self._released.popleft()[1])

    def all(self) -> list[tuple[int, int]]:
        """What may not have been received: pairs of a call and the handle that was released after it."""
        return sorted(self._released)


def unreceived(calls: Sequence[Call], releases: Releases, received: int) -> list[Call | int]:
    """Calls and handles to be released that the destination has not received, in the order in which to send them.

    Args:
        calls: those that are not answered, by number.
        received: the last call that has arrived there.
    """
    releases.forget(received)
    released = deque(releases.all())
    waiting: list[Call | int] = []
    for call in calls:
        while released and released[0][0] < call.number:
            waiting.append(released.popleft()[1])
        if call.number > received:
            waiting.append(call)
    return waiting + [handle for _, handle in released]
