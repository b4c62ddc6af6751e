"""Stretches of the stream that came before: what comes again goes to the destination as a number.

A program in its steady state records the same numbers in every iteration, since addresses are a function of what lives.
So a repeat is found by comparing bytes. A stretch that differs in nothing but the storages' names is a repeat too: the
same numbers once the storages are numbered in the order in which they first appear; their names go along then. What
has come twice is kept at the destination; from the third time on its number is sent.

Not here: what the destination does with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from avec.protocol.torch import BIND, FIRST_TEMPLATE, FREE, OFFSET_BITS, OFFSET_MASK, Template, TensorArg, listed

LIMIT = 2048  # kinds of stretches that are remembered; the destination keeps as many at most
NBYTES_LIMIT = 32 << 20  # of all that is remembered; beyond either, everything is forgotten

Places = tuple[int, tuple[int, ...]]  # how many numbers an entry takes, and which of them are addresses
_OTHERS: dict[int, Places] = {FREE: (2, (1,)), BIND: (3, (2,))}


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a stretch."""

    number: int = 0  # of the trace that it is; 0: it shall not be kept yet
    known: bool = False  # to the destination
    names: bytes = b""  # of its storages, u64; empty: those that the trace came with
    kind: bytes = b""  # the stretch with its storages numbered; empty where it came just so before


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
            return Found(number, True, names, kind)
        self._next += 1  # a number is never given twice, also where an interrupt keeps `sent` from being called
        return Found(self._next, kind=kind)

    def sent(self, stretch: bytes, found: Found, floats: bytes) -> None:
        """Note that a stretch was sent as it was found. After an interrupt in between it is learned again."""
        if not found.kind:
            return
        if not found.known:
            self._kinds[found.kind] = found.number
            self._nbytes += len(found.kind)
        if found.number and not found.known:
            self.kept[found.number] = stretch, floats
            self._nbytes += len(floats)
        if found.number:
            self._exact[stretch] = Found(found.number, True, found.names)
            self._nbytes += len(stretch)
        if len(self._kinds) > LIMIT or self._nbytes > NBYTES_LIMIT:
            self.forget()
            self.forgotten = True

    def forget(self) -> None:
        """Forget all; the destination has to do so too."""
        self._exact.clear()
        self._kinds.clear()
        self.kept.clear()
        self._places.clear()
        self._nbytes = 0

    def _numbered(self, stretch: bytes) -> tuple[bytes, bytes]:
        """A stretch with its storages numbered, and their names in that order."""
        numbers = array("Q", stretch)
        names: dict[int, int] = {}
        place, end = 0, len(numbers)
        while place < end:
            width, addresses = self._places_of(numbers[place])
            for each in addresses:
                address = numbers[place + each]
                if address:
                    number = names.setdefault(address >> OFFSET_BITS, len(names))
                    numbers[place + each] = number << OFFSET_BITS | address & OFFSET_MASK
            place += width
        return numbers.tobytes(), array("Q", names).tobytes()

    def _places_of(self, first: int) -> Places:
        places = self._places.get(first)
        if places is None:
            places = self._places[first] = _OTHERS[first] if first < FIRST_TEMPLATE else self._places_in(first)
        return places

    def _places_in(self, number: int) -> Places:
        template = self._template_of(number)
        inputs = [1 + each.place for each in listed(template) if isinstance(each, TensorArg)]
        first = 1 + template.numbers
        return first + template.addresses, (*inputs, *range(first, first + template.addresses))
