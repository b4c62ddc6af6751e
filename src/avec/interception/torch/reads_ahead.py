"""Reads that are asked for before the program asks: what it always reads after a trace comes with that trace's answer.

So `loss.item()` at the end of a training step waits for the forward pass alone, and of several values that a program
looks at one after the other only the first is waited for. A value that was read ahead is given to the program only if
nothing was sent since that may write to its storage: it is what a read at that time would give.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from avec.protocol.torch import AHEAD_LIMIT, AHEAD_NBYTES, OFFSET_BITS, OFFSET_MASK, Read

from .traces import Found

if TYPE_CHECKING:
    from avec.host.calls import Call

TIMES = 2  # that a value was read after its trace, before it is read ahead
LOOKED_BACK = 64  # batches, between a value's computation and its read
OUTSTANDING = 16  # values read ahead, at a time
VALUES = 64  # that are counted for a trace


@dataclass(frozen=True, slots=True)
class Reading:
    """A read that was asked for."""

    call: Call
    place: int = 0  # of the value in the call's answer


@dataclass(slots=True)
class _Ahead:
    reading: Reading
    trace: int
    value: Read  # its storage by its number in the trace
    used: bool = False


class ReadsAhead:
    """What one stream's program reads after its traces."""

    def __init__(self) -> None:
        self._times: dict[int, dict[Read, int]] = {}  # how often, by trace, and by the value in it
        self._sent: deque[Found] = deque(maxlen=LOOKED_BACK)  # known ones, since the last that was not
        self._outstanding: OrderedDict[Read, _Ahead] = OrderedDict()

    def pass_over(self, found: Found) -> None:
        """Take note of a stretch that is about to be sent: what it may write to is no longer what was read ahead."""
        for read in [*self._outstanding]:
            if not found.known or found.writes(read.address >> OFFSET_BITS):
                self._end(read)
        if not found.known:
            self._sent.clear()

    def take(self, read: Read, nbytes: int, found: Found) -> Reading | None:
        """A value that was read ahead, if it is still what it was; else take note that it is read with a stretch."""
        ahead = self._outstanding.get(read)
        if ahead is not None:
            ahead.used = True
            return ahead.reading
        storage = read.address >> OFFSET_BITS
        if found.writes(storage) or nbytes > AHEAD_NBYTES:
            return None
        before = next((each for each in reversed(self._sent) if each.writes(storage)), None)
        if before is not None:
            number = before.storages.index(storage)
            value = structs.replace(read, address=number << OFFSET_BITS | read.address & OFFSET_MASK)
            times = self._times.setdefault(before.number, {})
            if value in times or len(times) < VALUES:
                times[value] = times.get(value, 0) + 1
        return None

    def wanted(self, found: Found, asked: Read | None, nbytes: int) -> dict[Read, Read]:
        """What the program reads after a trace beside what it asks for, and the same by its storage's number in it.

        Nothing beside a large value, which would be kept for as long as what came with it.
        """
        times = self._times.get(found.number)
        if not found.known or times is None or (asked is not None and nbytes > AHEAD_NBYTES):
            return {}
        wanted: dict[Read, Read] = {}
        for value, count in times.items():
            if count < TIMES or len(wanted) == AHEAD_LIMIT:
                continue
            address = found.storages[value.address >> OFFSET_BITS] << OFFSET_BITS | value.address & OFFSET_MASK
            read = structs.replace(value, address=address)
            if read != asked:
                wanted[read] = value
        return wanted

    def sent(self, found: Found, call: Call, first: int, wanted: dict[Read, Read]) -> None:
        """Take note of a known stretch that was sent, with what it was to read ahead from place `first` on."""
        self._sent.append(found)
        for place, (read, value) in enumerate(wanted.items(), first):
            self._outstanding[read] = _Ahead(Reading(call, place), found.number, value)
        while len(self._outstanding) > OUTSTANDING:
            self._end(next(iter(self._outstanding)))

    def forget(self) -> None:
        """Forget all."""
        self._times.clear()
        self._sent.clear()
        self._outstanding.clear()

    def _end(self, read: Read) -> None:
        """Drop a value; if the program has not asked for it, it is not read ahead until that is learned again."""
        ahead = self._outstanding.pop(read)
        if not ahead.used:
            self._times.get(ahead.trace, {}).pop(ahead.value, None)
