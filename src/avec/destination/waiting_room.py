"""The connections that have not said hello: how many may wait, and who makes room where there are more.

Nothing is known of a stranger but whose its address is, so by that they are counted. Not here: what one says
(`stranger`), and sockets (`server`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from avec.destination.stranger import Stranger

STRANGER_COUNT_LIMIT = 256  # connections that have not said hello yet
SUBSCRIBER_COUNT_LIMIT = 64  # of them, one subscriber's


class WaitingRoom:
    """Holds strangers, the oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[Stranger, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Stranger]:
        return iter(self._waiting)

    def __contains__(self, stranger: Stranger) -> bool:
        return stranger in self._waiting

    def enter(self, stranger: Stranger) -> Stranger | None:
        """Let one more wait; gives the one that has to leave for it, if there is one.

        That is the oldest of the subscriber who has most: who says hello at once is gone before his turn comes.
        """
        counts = Counter(each.subscriber for each in self._waiting)
        crowds = set()
        if counts[stranger.subscriber] >= SUBSCRIBER_COUNT_LIMIT:
            crowds = {stranger.subscriber}
        elif len(self._waiting) >= STRANGER_COUNT_LIMIT:
            most = max(counts.values())
            crowds = {each for each, count in counts.items() if count == most}
        leaving = next((each for each in self._waiting if each.subscriber in crowds), None)
        self._waiting[stranger] = None
        return leaving

    def leave(self, stranger: Stranger) -> None:
        """Wait for a stranger no longer."""
        del self._waiting[stranger]

    def overdue(self, now_s: float) -> list[Stranger]:
        """Those who have taken too long."""
        return [each for each in self._waiting if each.deadline_s < now_s]

    def deadline_s(self) -> float | None:
        """When the next will have; None where nobody waits."""
        return min((each.deadline_s for each in self._waiting), default=None)
