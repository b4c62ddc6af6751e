"""What is known of a link: round trip and clock offset, from Ping and Pong, and what it carries, from traffic.

Pure; clocks are read by the caller.
"""

from __future__ import annotations

from collections import deque

from avec.protocol.messages import Pong

WINDOW = 16  # samples; the one with the smallest round trip has the least queueing in it (RFC 5905 §10)
TRANSFER_NBYTES = 64 * 1024  # smaller ones say little of a rate
RATE_LIMIT = 2e10  # bytes per second: above all links; clocks of two machines may make a transfer seem shorter


class Link:
    """Round-trip time and clock offset of one connection, both in nanoseconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=WINDOW)
        # The smallest round trip among the recent ones, 0 before the first; and what to subtract from the peer's clock
        # to get this end's, exact to half the path's asymmetry.
        self.round_trip_ns = self.offset_ns = 0

    def observe(self, pong: Pong, now_ns: int) -> None:
        """Take a Pong that arrived at `now_ns` on this end's clock."""
        round_trip = (now_ns - pong.sent_ns) - (pong.answered_ns - pong.received_ns)
        offset = ((pong.received_ns - pong.sent_ns) + (pong.answered_ns - now_ns)) // 2
        self._samples.append((round_trip, offset))
        self.round_trip_ns, self.offset_ns = min(self._samples)


class Goodput:
    """What one direction of a connection carried lately."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=WINDOW)
        self._free_ns = 0  # when the last transfer had arrived

    def observe(self, nbytes: int, began_ns: int, ended_ns: int, delay_ns: int) -> None:
        """Take a transfer: bytes that were ready to be sent at one time, and had all arrived at another.

        Both on one clock. Transfers come in their order; one that had to wait for another took only what was left.

        Args:
            delay_ns: how long a byte takes on an idle link.
        """
        waited = self._free_ns > began_ns
        took_ns = ended_ns - (self._free_ns if waited else began_ns + delay_ns)
        self._free_ns = max(self._free_ns, ended_ns)
        if nbytes >= TRANSFER_NBYTES:
            self._rates.append(min(1e9 * nbytes / max(1, took_ns), RATE_LIMIT))

    @property
    def rate(self) -> float:
        """Bytes per second: the highest one among the recent, since everything else only makes it lower; 0 before."""
        return max(self._rates, default=0.0)

    @property
    def transfers(self) -> int:
        """How many it is known from."""
        return len(self._rates)
