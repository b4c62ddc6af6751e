"""Stretches of the stream that came before: what comes again goes to the destination as a number.

A program in its steady state records the same numbers in every iteration, since addresses are a function of what lives.
So a repeat is found by comparing bytes. A stretch that differs in nothing but the storages' names is a repeat too: the
same numbers once the storages are numbered in the order in which they first appear; their names go along then. What
has come twice is kept at the destination; from the third time on its number is sent.

Not here: what the destination does with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from avec.protocol.torch import BIND, FIRST_TEMPLATE, FREE, OFFSET_BITS, OFFSET_MASK, Template, TensorArg, all_args

from .templates import written_places

LIMIT = 2048  # kinds of stretches that are remembered; the destination keeps as many at most
NBYTES_LIMIT = 32 << 20  # of all that is remembered; beyond either, everything is forgotten

# How many numbers an entry takes, which of them are addresses, and which of these it may write to, make or free.
Places = tuple[int, tuple[int, ...], tuple[int, ...]]
_OTHERS: dict[int, Places] = {FREE: (2, (1,), (1,)), BIND: (3, (2,), (2,))}


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a stretch."""

    number: int = 0  # of the trace that it is; 0: it shall not be kept yet
    known: bool = False  # to the destination
    names: bytes = b""  # of its storages, u64; empty: those that the trace came with
    kind: bytes = b""  # the stretch with its storages numbered; empty where it came just so before
    storages: Sequence[int] = ()  # of a trace: their names, by their numbers in it
    written: frozenset[int] = frozenset()  # of a known one: the numbers of those that it may write to, make or free

    def writes(self, storage: int) -> bool:
        """Whether it may write to a storage, make or free it; of a known one."""
        return storage in self.storages and self.storages.index(storage) in self.written


NOT_LOOKED_FOR = Found()


class Traces:
    """The stretches of one stream."""

    def __init__(self, template_of: Callable[[int], Template]) -> None:
        """Begin with none.

        Args:
            template_of: gives a template by its number.
        """
        self._template_of = template_of
        self._places: dict[int, Places] = {}
        self._exact: dict[bytes, Found] = {}
        self._kinds: dict[bytes, int] = {}  # their traces' numbers; 0: it came once, and is not kept
        self._written: dict[int, frozenset[int]] = {}  # by trace: the numbers of the storages that it may write to
        self._nbytes = 0
        self._next = 0
        self.kept: dict[int, tuple[bytes, bytes]] = {}  # at the destination: numbers and floats that they came with
        self.forgotten = False  # all; to be told with the next batch

    def find(self, stretch: bytes) -> Found:
        """Look a stretch up."""
        found = self._exact.get(stretch)
        if found is not None:
            return found
        kind, names = self._numbered(stretch)
        number = self._kinds.get(kind)
        if number is None:
            return Found(kind=kind)
        if number:
            return Found(number, True, names.tobytes(), kind, names, self._written[number])
        self._next += 1  # a number is never given twice, also where an interrupt keeps `sent` from being called
        return Found(self._next, kind=kind, storages=names)

    def sent(self, stretch: bytes, found: Found, floats: bytes) -> None:
        """Note that a stretch was sent as it was found. After an interrupt in between it is learned again."""
        if not found.kind:
            return
        if found.number and not found.known:
            self._written[found.number] = self._written_in(found.kind)
            self.kept[found.number] = stretch, floats
            self._nbytes += len(floats)
        if not found.known:
            self._kinds[found.kind] = found.number
            self._nbytes += len(found.kind)
        if found.number:
            self._exact[stretch] = replace(found, known=True, kind=b"", written=self._written[found.number])
            self._nbytes += len(stretch) + 8 * len(found.storages)
        if len(self._kinds) > LIMIT or self._nbytes > NBYTES_LIMIT:
            self.forget()
            self.forgotten = True

    def forget(self) -> None:
        """Forget all; the destination has to do so too."""
        self._exact.clear()
        self._kinds.clear()
        self._written.clear()
        self.kept.clear()
        self._places.clear()
        self._nbytes = 0

    def _numbered(self, stretch: bytes) -> tuple[bytes, array[int]]:
        """A stretch with its storages numbered, and their names in that order."""
        numbers = array("Q", stretch)
        names: dict[int, int] = {}
        place, end = 0, len(numbers)
        while place < end:
            width, addresses, _ = self._places_of(numbers[place])
            for each in addresses:
                address = numbers[place + each]
                if address:
                    number = names.setdefault(address >> OFFSET_BITS, len(names))
                    numbers[place + each] = number << OFFSET_BITS | address & OFFSET_MASK
            place += width
        return numbers.tobytes(), array("Q", names)

    def _written_in(self, kind: bytes) -> frozenset[int]:
        """The storages that a stretch may write to, make or free, by their numbers in it."""
        numbers = array("Q", kind)
        found: set[int] = set()
        place = 0
        while place < len(numbers):
            width, _, written = self._places_of(numbers[place])
            found.update(address >> OFFSET_BITS for each in written if (address := numbers[place + each]))
            place += width
        return frozenset(found)

    def _places_of(self, first: int) -> Places:
        places = self._places.get(first)
        if places is None:
            places = self._places[first] = _OTHERS[first] if first < FIRST_TEMPLATE else self._places_in(first)
        return places

    def _places_in(self, number: int) -> Places:
        template = self._template_of(number)
        inputs = [1 + each.place for each in all_args(template) if isinstance(each, TensorArg)]
        written = [1 + place for place in written_places(template)]
        first = 1 + template.numbers
        made = range(first, first + template.addresses)
        return first + template.addresses, (*inputs, *made), (*written, *made)
