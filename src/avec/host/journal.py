"""What has to be done again so that a fresh worker has a session's state: calls that changed it, in their order.

Pure: entries in, entries out. A call's `Effect` says what it does to the state; by it those are dropped whose traces
later calls have wiped out, so that a program which feeds a net again and again needs its last pass alone. Calls that
are not answered are not here (`unanswered`), nor is who sends what (`restart`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from avec.protocol.codec import Buffer
from avec.tensor import Array

# One piece of the state: the handle that it belongs to, and whatever the front-end calls it.
Thing = tuple[int, object]
SLACK_COUNT = 16  # entries, and bytes of them, that come before it is looked again which are needed
SLACK_NBYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call does to the state of the handles that it concerns."""

    overwrites: frozenset[Thing] = frozenset()  # what it makes anew, whatever was there before
    reads: frozenset[Thing] | None = None  # what that depends on; None: on all that it does not overwrite
    drops: frozenset[Thing] = frozenset()  # what nobody will read any more
    concerns: tuple[int, ...] = ()  # handles beside those in the call
    anything: bool = False  # what it changes is not only what it overwrites
    refused: Callable[[bytes], bool] | None = None  # tells from an answer's body that it was not carried out
    # Makes of an answer, which is the state of the call's handle, a request and parts that restore it. What had changed
    # it before is needless then, but for what overwrote something.
    restoring: Callable[[bytes, Sequence[Array]], tuple[bytes, Sequence[Array]]] | None = None
    saves: bool = False  # such calls will be made on the handle when they are due
    unkept: str = ""  # the handle's state is not to be rebuilt from here on, and why


CHANGES = Effect(anything=True)
READS = Effect()


@dataclass(frozen=True, slots=True)
class Entry:
    """One call that was answered."""

    handles: tuple[int, ...]
    effect: Effect
    frames: Sequence[Buffer]  # as it was sent, its header first; nobody else changes them
    name: str  # for messages
    copied: bool = False  # the frames are the journal's own memory
    files: tuple[str, ...] = ()  # digests of models that it names
    failed: str = ""  # the code of the error that it was answered with
    check: int | None = None  # of what it gave; None: that is not compared
    stored: bool = False  # the frames are in a file
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", sum(memoryview(each).nbytes for each in self.frames))


class Journal:
    """The entries of one session. Not thread-safe."""

    def __init__(
        self, limit_calls: int, limit_nbytes: int, on_dropped: Callable[[Entry], None] = lambda entry: None
    ) -> None:
        """Begin without any.

        Args:
            limit_calls, limit_nbytes: beyond either, the state of what has the most entries is given up.
            on_dropped: called with each entry that is no longer needed.
        """
        self._limit_calls = limit_calls
        self._limit_nbytes = limit_nbytes
        self._on_dropped = on_dropped
        self._entries: list[Entry] = []
        self._dropped: set[Thing] = set()
        self._released: set[int] = set()
        self._unkept: dict[int, str] = {}  # handle → why its state cannot be rebuilt
        self.nbytes = 0
        self._look_at = min(SLACK_COUNT, limit_calls), min(SLACK_NBYTES, limit_nbytes)

    @property
    def unkept(self) -> str:
        """Why the session's state cannot be rebuilt; empty when it can."""
        return next(iter(self._unkept.values()), "")

    def keeps(self, handle: int) -> bool:
        """Whether calls on a handle are to be kept."""
        return handle not in self._unkept

    def add(self, entry: Entry) -> None:
        """Take a call in that was answered."""
        effect = entry.effect
        self._dropped |= effect.drops
        if not (effect.anything or effect.overwrites):
            return
        if reason := next((self._unkept[each] for each in entry.handles if each in self._unkept), effect.unkept):
            self._on_dropped(entry)
            for handle in entry.handles:
                self.give_up(handle, reason)
            return
        self._append(entry)
        if len(self._entries) > self._look_at[0] or self.nbytes > self._look_at[1]:
            self._prune()
            self._keep_within_limits()

    def replace(self, entry: Entry) -> None:
        """Take in a call that restores the state of a handle, in place of those that changed it."""
        if all(self.keeps(handle) for handle in entry.handles):
            self._keep_only(
                each
                for each in self._entries
                if not each.effect.anything or not set(entry.handles).intersection(each.handles)
            )
            self._append(entry)

    @property
    def fullness(self) -> float:
        """How much of its limits it has taken; 1.0 is all."""
        return max(len(self._entries) / self._limit_calls, self.nbytes / self._limit_nbytes)

    def release(self, handle: int) -> None:
        """Take note that a handle is no longer used, and that all calls which were made before have been answered."""
        self._released.add(handle)
        self._unkept.pop(handle, None)
        for group in self._groups():
            if group <= self._released:
                self._keep_only(entry for entry in self._entries if not group.intersection(entry.handles))
        self._released &= {each for entry in self._entries for each in entry.handles}

    def give_up(self, handle: int, reason: str) -> None:
        """Keep the state of a handle no more, nor of what depends on it, for as long as the handle is used."""
        group = next((each for each in self._groups() if handle in each), {handle})
        self._unkept.update(dict.fromkeys((group | {handle}) - self._released, reason))
        self._keep_only(entry for entry in self._entries if not group.intersection(entry.handles))

    def needed(self) -> list[Entry]:
        """The calls that rebuild the state, in the order in which to make them."""
        self._prune()
        return list(self._entries)

    @property
    def released(self) -> tuple[int, ...]:
        """Handles that those calls make and that are no longer used."""
        return tuple(sorted(self._released))

    def _prune(self) -> None:
        """Drop entries all of whose effects have been wiped out, going back from the newest."""
        dead = set(self._dropped)
        gone = set(self._released)  # handles all of whose things are dead, but for those that are wanted
        wanted: set[Thing] = set()
        needed: list[Entry] = []
        for entry in reversed(self._entries):
            effect = entry.effect
            if not effect.anything and all(
                thing in dead or (thing[0] in gone and thing not in wanted) for thing in effect.overwrites
            ):
                continue
            needed.append(entry)
            if effect.reads is None or effect.anything:
                dead = {thing for thing in dead if thing[0] not in entry.handles} | effect.overwrites
                gone.difference_update(entry.handles)
            else:
                dead = (dead | effect.overwrites) - effect.reads
                wanted = (wanted - effect.overwrites) | effect.reads
        self._keep_only(reversed(needed))
        self._dropped &= {thing for entry in self._entries for thing in entry.effect.overwrites}

    def _keep_within_limits(self) -> None:
        while self.fullness > 1.0:
            group = max(self._groups(), key=self._weight)
            entries = [each for each in self._entries if group.intersection(each.handles)]
            if self.fullness <= 2.0 and any(each.effect.saves for each in entries):
                break  # its state is on its way here
            self.give_up(
                min(group),
                f"{len(entries)} calls with {sum(each.nbytes for each in entries)} bytes, the last of them "
                f"{entries[-1].name}, would have to be made again, and {self._limit_calls} with {self._limit_nbytes} "
                "bytes are kept at most (journal_limit_calls, journal_limit_nbytes)",
            )
        count, nbytes = len(self._entries), self.nbytes
        self._look_at = (
            min(2 * count + SLACK_COUNT, max(self._limit_calls, count + self._limit_calls // 8)),
            min(2 * nbytes + SLACK_NBYTES, max(self._limit_nbytes, nbytes + self._limit_nbytes // 8)),
        )

    def _weight(self, group: set[int]) -> float:
        entries = [each for each in self._entries if group.intersection(each.handles)]
        return len(entries) / self._limit_calls + sum(each.nbytes for each in entries) / self._limit_nbytes

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.nbytes += 0 if entry.stored else entry.nbytes

    def _groups(self) -> list[set[int]]:
        """The handles, those together that calls have in common."""
        groups: list[set[int]] = []
        for handles in {entry.handles for entry in self._entries}:
            joined = set(handles)
            apart = []
            for group in groups:
                if group.isdisjoint(joined):
                    apart.append(group)
                else:
                    joined |= group
            groups = [*apart, joined]
        return groups

    def _keep_only(self, entries: Iterable[Entry]) -> None:
        before, self._entries = self._entries, list(entries)
        kept = {id(entry) for entry in self._entries}
        for entry in before:
            if id(entry) not in kept:
                self._on_dropped(entry)
        self.nbytes = sum(entry.nbytes for entry in self._entries if not entry.stored)
