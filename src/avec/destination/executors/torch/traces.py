"""Stretches of the stream that repeat: kept by the host's numbers for them, and carried out again without being sent.

Beside a GPU their operators become CUDA graphs (`captures`); elsewhere they are carried out one by one.
"""

from __future__ import annotations

import numpy as np

from avec.destination.executors.torch.captures import Captures, Plan
from avec.destination.executors.torch.stream import Step, Stream
from avec.errors import InvalidArgument
from avec.protocol.torch import FIRST_STORAGE, LAST_STORAGE, OFFSET_BITS
from avec.tensor import Array

TRACES_LIMIT = 4096  # that one host may keep
NUMBERS_LIMIT = 1 << 22  # in them all
_OFFSET_BITS = np.uint64(OFFSET_BITS)


class Trace:
    """One stretch."""

    def __init__(self, stream: Stream, kept: Array, floats: list[float]) -> None:
        """Take what was kept."""
        numbers: list[int] = kept.tolist()
        self._array, self._numbers = kept, numbers
        self.floats = len(floats)
        self.steps: list[Step] = stream.steps(numbers)
        self.operators = sum(step.usage is not None for step in self.steps)
        self._places = np.array([each for each in stream.addresses(numbers) if numbers[each]], np.int64)
        found = self._array[self._places] >> _OFFSET_BITS
        _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
        order = np.argsort(first)  # the order in which they first appear
        self._names: Array = found[np.sort(first)]
        self._which = np.argsort(order)[inverse]  # for each place, which of the names it has
        self.plan: Plan | None = None

    def numbers(self, names: Array) -> list[int]:
        """Its numbers with other names of storages; none: as they came.

        Raises:
            InvalidArgument: there are too few or too many, two are the same, or they cannot be storages'.
        """
        if not names.size or np.array_equal(names, self._names):
            return self._numbers
        if names.size != self._names.size or np.unique(names).size != names.size:
            raise InvalidArgument(f"{names.size} names of storages, for a trace that has {self._names.size} of them")
        if names.min() < FIRST_STORAGE or names.max() > LAST_STORAGE:
            raise InvalidArgument(f"names of storages go from {FIRST_STORAGE} to {LAST_STORAGE}")
        renamed = self._array.copy()
        renamed[self._places] += ((names - self._names) << _OFFSET_BITS)[self._which]  # modulo 2 ** 64
        found: list[int] = renamed.tolist()
        return found


class Traces:
    """All traces of a session."""

    def __init__(self, stream: Stream, captures: Captures | None) -> None:
        """Begin without any.

        Args:
            captures: makes CUDA graphs of them; None where there are none.
        """
        self._stream = stream
        self._captures = captures
        self._kept: dict[int, tuple[Array, list[float]]] = {}
        self._count = 0  # of numbers in them
        self._traces: dict[int, Trace] = {}  # those that have been repeated: many never are

    def keep(self, number: int, numbers: Array, floats: list[float]) -> None:
        """Keep a copy of a stretch.

        Raises:
            InvalidArgument: there are too many, or the number is taken.
        """
        if len(self._kept) >= TRACES_LIMIT or number in self._kept:
            raise InvalidArgument(f"a new trace {number}, beside {len(self._kept)}; {TRACES_LIMIT} are the limit")
        if self._count + len(numbers) > NUMBERS_LIMIT:
            raise InvalidArgument(
                f"a trace of {len(numbers)} numbers, beside {self._count} in others; {NUMBERS_LIMIT} are the limit"
            )
        self._kept[number] = numbers.copy(), floats
        self._count += len(numbers)

    def forget(self) -> None:
        """Forget all traces."""
        for trace in self._traces.values():
            if trace.plan is not None:
                trace.plan.close()
        self._traces.clear()
        self._kept.clear()
        self._count = 0

    def numbers(self, number: int, names: Array) -> list[int]:
        """The numbers of a kept stretch, with these names of its storages."""
        return self._find(number).numbers(names)

    def carry_out(self, number: int, names: Array, floats: list[float]) -> int:
        """Carry out a kept stretch with other names of its storages and new floats; how many operators it had.

        Raises:
            ExecutionError: an operator has failed; what the stretch frees after it is freed.
            InvalidArgument: there is no such trace, or it takes other names or floats.
        """
        trace = self._find(number)
        numbers = trace.numbers(names)
        if len(floats) != trace.floats:
            raise InvalidArgument(f"{len(floats)} floats for trace {number}, which takes {trace.floats}")
        if trace.plan is not None:
            trace.plan.carry_out(numbers, floats)
        else:
            self._stream.carry_out_steps(numbers, trace.steps, floats)
        self._stream.end()
        return trace.operators

    def _find(self, number: int) -> Trace:
        trace = self._traces.get(number)
        if trace is None:
            kept = self._kept.get(number)
            if kept is None:
                raise InvalidArgument(f"there is no trace {number} among the {len(self._kept)} that are kept")
            trace = self._traces[number] = Trace(self._stream, *kept)
            if self._captures is not None:
                trace.plan = self._captures.plan(trace.steps, kept[1])
        return trace
