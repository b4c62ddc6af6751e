"""Stretches of the stream that came before: what comes again goes to the destination as a number.

A program in its steady state records the same numbers in every iteration, since addresses are a function of what lives.
So a repeat is found by comparing bytes. What has come twice is kept at the destination; from the third time on its
number is sent. Not here: what the destination does with it.
"""

from __future__ import annotations

from collections import OrderedDict

LIMIT = 2048  # stretches that are remembered; the destination keeps as many at most
NBYTES_LIMIT = 32 << 20  # of them all


class Traces:
    """The stretches of one stream."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[bytes, int] = OrderedDict()  # 0: it came once, and the destination has not kept it
        self._nbytes = 0
        self._next = 1
        self.dropped: list[int] = []  # what the destination keeps in vain; told with the next batch

    def find(self, stretch: bytes) -> tuple[int, bool]:
        """Look a stretch up.

        Returns:
            Its number, 0 if it shall not be kept yet, and whether the destination has it.
        """
        number = self._numbers.get(stretch)
        if number is None:
            return 0, False
        return (number, True) if number else (self._next, False)

    def sent(self, stretch: bytes, number: int) -> None:
        """Note that a stretch was sent, to be kept under a number if it is not 0."""
        if stretch not in self._numbers:
            self._nbytes += len(stretch)
        elif self._numbers[stretch] != number:
            self._next += 1
        self._numbers[stretch] = number
        self._numbers.move_to_end(stretch)
        while len(self._numbers) > LIMIT or self._nbytes > NBYTES_LIMIT:
            oldest, old = self._numbers.popitem(last=False)
            self._nbytes -= len(oldest)
            if old:
                self.dropped.append(old)

    def forget(self) -> None:
        """Forget all; the destination does so too."""
        self._numbers.clear()
        self.dropped.clear()
        self._nbytes = 0
