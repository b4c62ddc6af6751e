"""What is known of a link: round trip and clock offset, from Ping and Pong. Pure; clocks are read by the caller."""

from __future__ import annotations

from collections import deque

from avec.protocol.messages import Pong

WINDOW = 16  # samples; the one with the smallest round trip has the least queueing in it (RFC 5905 §10)


class Link:
    """Round-trip time and clock offset of one connection, both in nanoseconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=WINDOW)

    def observe(self, pong: Pong, now_ns: int) -> None:
        """Take a Pong that arrived at `now_ns` on this end's clock."""
        round_trip = (now_ns - pong.sent_ns) - (pong.answered_ns - pong.received_ns)
        offset = ((pong.received_ns - pong.sent_ns) + (pong.answered_ns - now_ns)) // 2
        self._samples.append((round_trip, offset))

    @property
    def round_trip_ns(self) -> int:
        """The smallest round trip among the recent ones; 0 before the first."""
        return min(self._samples)[0] if self._samples else 0

    @property
    def offset_ns(self) -> int:
        """What to subtract from the peer's clock to get this end's; exact to half the path's asymmetry."""
        return min(self._samples)[1] if self._samples else 0
