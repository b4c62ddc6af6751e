"""What is recorded and not sent yet, and the structs that wait for a tensor: what every operator touches.

Both have two forms with one interface: lists, here, which the generated kernels in Python extend inline, and compiled
ones (`native`), which kernels in C++ share with Python. Not here: what the numbers mean (`protocol.torch`).
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

NUMBER_NBYTES = 8  # of a number, and of a float
_delete: Callable[[Any, Any], None] = operator.delitem


class Stream(Protocol):
    """The numbers and the floats of operators, in order.

    Each method is one step: no interrupt (Ctrl-C) and no other thread comes between its parts. The lists' `add` is the
    exception, which is called with Recording's lock.
    """

    least: int  # numbers from which on a batch may end

    def __len__(self) -> int:
        """How many numbers there are."""

    def extend(self, numbers: Iterable[int], /) -> None:
        """Append numbers that no floats go with."""

    def add(self, numbers: Sequence[int], floats: Sequence[float], /) -> None:
        """Append the numbers of operators and the floats that go with them."""

    def begin_with(self, numbers: Sequence[int], /) -> None:
        """Put numbers that no floats go with before all others."""

    def recorded(self) -> tuple[bytes, bytes]:
        """Copy all: the numbers as uint64, the floats as float64."""

    def taking(self, numbers: int, floats: int, /) -> Iterator[object]:
        """Give an iterator that will have taken away the first ones of each when it is exhausted.

        So they can be taken away together with other things, in one call that exhausts several iterators.
        """

    def take(self) -> tuple[list[int], list[float]]:
        """Take away all."""


class Lists(list[int]):
    """A Stream in Python: itself the list of the numbers, with one of the floats."""

    __slots__ = ("floats", "least")

    def __init__(self) -> None:
        super().__init__()
        self.least = 0
        self.floats: list[float] = []

    def add(self, numbers: Sequence[int], floats: Sequence[float], /) -> None:
        try:
            self.extend(numbers)
        finally:
            self.floats.extend(floats)  # even after an interrupt, else everything later would take the wrong floats

    def begin_with(self, numbers: Sequence[int], /) -> None:
        self[:0] = numbers

    def recorded(self) -> tuple[bytes, bytes]:
        return array("Q", self).tobytes(), array("d", self.floats).tobytes()

    def taking(self, numbers: int, floats: int, /) -> Iterator[object]:
        return map(_delete, (self, self.floats), (slice(numbers), slice(floats)))

    def take(self) -> tuple[list[int], list[float]]:
        taken = self[:], self.floats[:]
        self.clear()
        self.floats.clear()
        return taken


class Unused(Protocol):
    """The structs of a layout that are not in use, by their addresses; the lowest is given first."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[int]:
        """All of them."""

    def pop(self) -> int:
        """Give one; IndexError where there is none."""

    def give(self, structs: Sequence[int], /) -> None:
        """Take structs back."""

    def clear(self) -> None:
        """Forget them."""


class UnusedList(list[int]):
    """An Unused in Python."""

    __slots__ = ()

    def give(self, structs: Sequence[int], /) -> None:
        self.extend(structs)
        if len(self) > 1:
            self.sort(reverse=True)  # a function of what lives, not of when it died
