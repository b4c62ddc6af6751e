"""Descriptors, and what is done when there is something to read from one: what the server's only thread waits for."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from avec.destination.refusals import Refusals


class Watch:
    """A selector whose keys are functions."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._selector = selectors.DefaultSelector()

    def add(self, descriptor: int, act: Callable[[], None]) -> None:
        """From now on call `act` when there is something to read."""
        self._selector.register(descriptor, selectors.EVENT_READ, act)

    def add_peer(self, descriptor: int, hear: Callable[[], None], drop: Callable[[], None], who: str) -> None:
        """The same for a host or a worker: whatever what it says makes fail here ends this peer, and not the server."""

        def act() -> None:
            try:
                hear()
            except Exception:
                self._refusals.note(who, "fault", "made the destination fail, and is dropped", failed=True)
                drop()

        self.add(descriptor, act)

    def remove(self, descriptor: int) -> None:
        """Call nothing for it any more; it is still open.

        Raises:
            KeyError, ValueError: it is not watched.
        """
        self._selector.unregister(descriptor)

    def wait(self, timeout_s: float | None) -> None:
        """Block until something can be read, at most so long, and act."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def close(self) -> None:
        """Release the selector's own descriptor."""
        self._selector.close()
