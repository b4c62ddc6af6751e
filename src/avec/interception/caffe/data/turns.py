"""Whose turn a record is when several solvers train on one source, as caffe.set_solver_count says."""

from __future__ import annotations

from collections.abc import Callable

from .source import TRAIN


class Turns:
    """Counts the records of one source; solver `rank` of `count` takes every count-th one, in the phase TRAIN."""

    def __init__(self, phase: int, count: int, rank: int) -> None:
        self._count, self._rank = (count, rank) if phase == TRAIN else (1, 0)
        self._offset = 0

    def await_own(self, advance: Callable[[], None]) -> None:
        """Pass over the records of other solvers."""
        while self._offset % self._count != self._rank:
            advance()
            self.next()

    def next(self) -> None:
        """Count a record."""
        self._offset += 1
