"""Whose turn on an accelerator is next: fair queueing by weight and priority. Arithmetic alone, without clock or I/O.

Every user has a virtual time, which rises by the seconds of the accelerator that he has used, divided by his weight;
the one whose time is lowest goes first, and among his sessions the one that has used least. How long a turn is need not
be known before it ends. Who comes back after having asked for nothing for a while begins at the time that the queue has
reached, so that nobody saves up; who used more than his part in one long turn waits until the others have had theirs.

Source: start-time fair queueing, P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996; of two that always wait, what each has had
by weight differs by no more than a longest turn of either (theorem 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PATIENCE_S = 1.0  # after so long a session of low priority goes before those of high priority, for one turn
RETURN_S = 0.05  # who is away for less goes on where he was: his host looks at a result and asks for the next


@dataclass(slots=True)
class _Flow:
    """One that shares: a user, or a session among its user's."""

    weight: float = 1.0
    time_s: float = 0.0  # virtual: at which its next turn begins
    seen_s: float = -math.inf  # when its last turn ended

    def use(self, seconds: float) -> None:
        self.time_s += seconds / self.weight


@dataclass(slots=True)
class _Level:
    """Flows that compete, and the virtual time that they have reached: when the newest turn began."""

    flows: dict[str, _Flow] = field(default_factory=dict)
    reached_s: float = 0.0

    def come_back(self, name: str, now_s: float) -> None:
        flow = self.flows[name]
        if now_s - flow.seen_s > RETURN_S:
            flow.time_s = max(flow.time_s, self.reached_s)

    def begin(self, name: str) -> None:
        self.reached_s = max(self.reached_s, self.flows[name].time_s)


@dataclass(slots=True)
class _Session:
    user: str
    priority: int
    busy: bool = False  # it has a turn
    asked_s: float | None = None  # since when it waits
    order: int = 0


class FairQueue:
    """The sessions of one accelerator. Times are the caller's, in seconds."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._users = _Level()
        self._within: dict[str, _Level] = {}  # the sessions of each user
        self._asked = 0

    def enter(self, session: str, user: str, weight: float = 1.0, priority: int = 0) -> None:
        """Let a session take part.

        Args:
            user: whose it is; his sessions share what he has. The newest weight is his.
            weight: above 0; of two who always want the accelerator, one with twice the weight has it twice as long.
            priority: a session with a higher one goes first, but see PATIENCE_S.
        """
        self._sessions[session] = _Session(user, priority)
        self._users.flows.setdefault(user, _Flow(time_s=self._users.reached_s)).weight = weight
        within = self._within.setdefault(user, _Level())
        within.flows[session] = _Flow(time_s=within.reached_s)

    def leave(self, session: str) -> None:
        """Let a session take part no longer; a user is forgotten with his last one."""
        user = self._sessions.pop(session).user
        within = self._within[user]
        del within.flows[session]
        if not within.flows:
            del self._within[user], self._users.flows[user]

    def ask(self, session: str, now_s: float) -> None:
        """Have a session wait for a turn."""
        found = self._sessions[session]
        if not any(each.busy or each.asked_s is not None for each in self._of(found.user)):
            self._users.come_back(found.user, now_s)
        self._within[found.user].come_back(session, now_s)
        found.asked_s = now_s
        self._asked += 1
        found.order = self._asked

    def next(self, now_s: float) -> str | None:
        """Take out of those who wait the one whose turn it is; None where nobody does."""
        waiting = [(name, each) for name, each in self._sessions.items() if each.asked_s is not None]
        if not waiting:
            return None
        highest = max(each.priority for _, each in waiting)
        entitled = [
            (name, each)
            for name, each in waiting
            if each.priority == highest or now_s - (each.asked_s or 0.0) > PATIENCE_S
        ]

        def urgency(of: tuple[str, _Session]) -> tuple[float, float, int]:
            name, each = of
            return self._users.flows[each.user].time_s, self._within[each.user].flows[name].time_s, each.order

        name, session = min(entitled, key=urgency)
        self._users.begin(session.user)
        self._within[session.user].begin(name)
        session.asked_s, session.busy = None, True
        return name

    def charge(self, session: str, seconds: float) -> None:
        """Count what a session has used in its turn, also before that has ended."""
        user = self._sessions[session].user
        self._users.flows[user].use(seconds)
        self._within[user].flows[session].use(seconds)

    def catch_up_with(self, session: str) -> None:
        """Let others begin where a session is, which was alone up to now: what it used is not held against it."""
        user = self._sessions[session].user
        self._users.begin(user)
        self._within[user].begin(session)

    def end(self, session: str, now_s: float) -> None:
        """End a session's turn."""
        found = self._sessions[session]
        found.busy = False
        self._users.flows[found.user].seen_s = self._within[found.user].flows[session].seen_s = now_s

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(each.asked_s is not None for each in self._sessions.values())

    def _of(self, user: str) -> list[_Session]:
        return [each for each in self._sessions.values() if each.user == user]
