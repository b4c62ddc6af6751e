"""The server's side of turns: who has one, who waits, and what each has used, as the queue is to know it.

A worker says that it asks for a turn, that it gives it back, and how much it has used. That is believed up to the time
that has passed; and while others wait it is no less than that time, but for what messages take on a busy machine: the
accelerator was kept from them. A turn is a lease: whoever keeps it for longer keeps others waiting no more, and is
charged for all of the lease. A worker that dies has left the queue with its socket. Not here: sockets (`guests`,
`server`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from avec.destination.orders import Recall, Turn
from avec.destination.sharing.board import Board
from avec.destination.sharing.fairness import FairQueue

LEASE_S = 1.0  # of a turn, when others wait; longer than a call of most nets
LATE_S = 0.01  # for messages under way in a turn, at most half of it; a busy machine takes milliseconds


@dataclass(slots=True)
class _Member:
    """A session in the queue."""

    board: Board
    tell: Callable[[Turn | Recall], None]
    waits: bool = False
    since_s: float | None = None  # it has a turn; what it has used since then is not charged yet
    charged_ns: int = 0  # of what its board says
    recalled: bool = False  # it knows that somebody waits
    overdue: bool = False  # its lease is over


class Arbiter:
    """Gives turns to sessions."""

    def __init__(self, at_once: int = 1, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Begin without sessions.

        Args:
            at_once: how many sessions have a turn at the same time.
        """
        self._at_once = at_once
        self._clock_s = clock_s
        self._queue = FairQueue()
        self._members: dict[str, _Member] = {}
        self._contended = False  # somebody waits

    def enter(
        self, session: str, user: str, weight: float, priority: int, board: Board, tell: Callable[[Turn | Recall], None]
    ) -> None:
        """Let a session take part. An empty `user` is nobody's: such sessions share as if each had a user."""
        self._queue.enter(session, user or f"session {session}", weight, priority)
        self._members[session] = _Member(board, tell)

    def leave(self, session: str) -> None:
        """Forget a session, if it is there, and its turn with it."""
        if self._members.pop(session, None) is not None:
            self._queue.leave(session)
            self._go_on()

    def ask(self, session: str) -> bool:
        """A session asks for a turn; False where it may not, because it has one or waits for one."""
        member = self._members.get(session)
        if member is None or member.waits or member.since_s is not None:
            return False
        now_s = self._clock_s()
        if not self._contended:  # what was used while nobody waited is held against nobody
            for name in self._charge_all(now_s):
                self._queue.catch_up_with(name)
        member.waits = True
        self._queue.ask(session, now_s)
        self._go_on()
        return True

    def give_back(self, session: str, used_ns: int, again: bool) -> bool:
        """A session gives its turn back, and may ask for another at once; False where it has none.

        Args:
            used_ns: what its board said as it gave it back.
        """
        member = self._members.get(session)
        if member is None or member.since_s is None:
            return False
        now_s = self._clock_s()
        self._charge(session, member, used_ns, now_s)
        member.since_s, member.overdue, member.recalled = None, False, False
        self._queue.end(session, now_s)
        if again:  # known before the next turn is given away, or weights would mean nothing where two share
            return self.ask(session)
        self._go_on()
        return True

    def look(self) -> None:
        """Go on with the others where a lease is over."""
        deadline_s, now_s = self.deadline_s(), self._clock_s()
        if deadline_s is None or now_s < deadline_s:
            return
        for session, member in self._members.items():
            if member.since_s is not None and not member.overdue and now_s >= member.since_s + LEASE_S:
                # Of a call that outlasts a lease nothing is known before it ends; it kept others waiting all along.
                self._charge(session, member, member.board["used_ns"], now_s)
                member.overdue = True
        self._go_on()

    def deadline_s(self) -> float | None:
        """When `look` has to be called next, of the clock; None: not before something happens."""
        if not self._queue.waiting:
            return None
        since_s = [each.since_s for each in self._members.values() if each.since_s is not None and not each.overdue]
        return min(since_s) + LEASE_S if since_s else None

    def waits(self, session: str) -> bool:
        """Whether a session waits for its turn."""
        member = self._members.get(session)
        return member is not None and member.waits

    def _charge_all(self, now_s: float) -> list[str]:
        """Charge those that have a turn for it up to now; give their names."""
        having = {name: each for name, each in self._members.items() if each.since_s is not None}
        for name, each in having.items():
            self._charge(name, each, each.board["used_ns"], now_s)
        return list(having)

    def _charge(self, session: str, member: _Member, used_ns: int, now_s: float) -> None:
        assert member.since_s is not None
        held_s = now_s - member.since_s
        used_s = min(max(0, used_ns - member.charged_ns) / 1e9, held_s)
        # After more than two leases it was this process that was stopped, and not the worker that kept others waiting.
        if self._contended and not member.overdue and held_s <= 2 * LEASE_S:
            kept_s = min(held_s, LEASE_S)
            used_s = max(used_s, kept_s - min(kept_s / 2, LATE_S))
        self._queue.charge(session, used_s)
        member.charged_ns, member.since_s = used_ns, now_s

    def _go_on(self) -> None:
        """Give turns while there are any to give; tell those that have one whether others wait."""
        now_s = self._clock_s()
        while sum(each.since_s is not None and not each.overdue for each in self._members.values()) < self._at_once:
            session = self._queue.next(now_s)
            if session is None:
                break
            member = self._members[session]
            member.waits, member.since_s, member.recalled = False, now_s, self._queue.waiting > 0
            member.charged_ns = member.board["used_ns"]  # whatever was done without a turn is not this one's
            member.board["waiting"] = self._queue.waiting
            member.tell(Turn())
        waiting = self._queue.waiting
        if self._contended and not waiting:
            self._charge_all(now_s)
        self._contended = waiting > 0
        for member in self._members.values():
            if member.since_s is None:
                continue
            member.board["waiting"] = waiting
            if not waiting:
                member.recalled = False
            elif not member.recalled:
                member.recalled = True
                member.tell(Recall())
