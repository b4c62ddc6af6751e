"""Stretches of the stream that repeat: kept by the host's numbers for them, and carried out again without being sent.

Beside a GPU their operators become CUDA graphs (`captures`); elsewhere they are carried out one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

from avec.destination.executors.torch.captures import Captures, Plan
from avec.destination.executors.torch.stream import Step, Stream
from avec.errors import InvalidArgument

TRACES_LIMIT = 4096  # that one host may keep


class Trace:
    """One stretch."""

    __slots__ = ("_stream", "_steps", "first_floats", "numbers", "plan")

    def __init__(self, stream: Stream, numbers: list[int], floats: list[float]) -> None:
        self._stream = stream
        self._steps: list[Step] | None = None
        self.numbers = numbers
        self.first_floats = floats
        self.plan: Plan | None = None

    @property
    def steps(self) -> list[Step]:
        """Its entries; found when they are first asked for, since many stretches never come again."""
        if self._steps is None:
            self._steps = self._stream.steps(self.numbers)
        return self._steps


class Traces:
    """All traces of a session."""

    def __init__(self, stream: Stream, captures: Captures | None) -> None:
        """Begin without any.

        Args:
            captures: makes CUDA graphs of them; None where there are none.
        """
        self._stream = stream
        self._captures = captures
        self._traces: dict[int, Trace] = {}

    def keep(self, number: int, numbers: list[int], floats: list[float]) -> None:
        """Keep a stretch.

        Raises:
            InvalidArgument: there are too many.
        """
        if len(self._traces) >= TRACES_LIMIT and number not in self._traces:
            raise InvalidArgument(f"trace {number}, beside {len(self._traces)} others; {TRACES_LIMIT} are the limit")
        self.drop((number,))
        self._traces[number] = Trace(self._stream, numbers, floats)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget some traces."""
        for number in numbers:
            trace = self._traces.pop(number, None)
            if trace is not None and trace.plan is not None:
                trace.plan.close()

    def forget(self) -> None:
        """Forget all traces."""
        self.drop(list(self._traces))

    def numbers(self, number: int) -> list[int]:
        """The numbers of a kept stretch."""
        return self._find(number).numbers

    def carry_out(self, number: int, floats: list[float]) -> int:
        """Carry out a kept stretch with new floats; how many operators it had.

        Raises:
            ExecutionError: an operator has failed; what the stretch frees after it is freed.
            InvalidArgument: there is no such trace, or it takes other floats.
        """
        trace = self._find(number)
        if len(floats) != len(trace.first_floats):
            raise InvalidArgument(f"{len(floats)} floats for trace {number}, which came with {len(trace.first_floats)}")
        numbers, steps = trace.numbers, trace.steps
        if self._captures is not None:
            if trace.plan is None:
                trace.plan = self._captures.plan(numbers, steps, trace.first_floats)
            trace.plan.carry_out(floats)
        else:
            self._stream.carry_out_steps(numbers, steps, floats)
        self._stream.end()
        return sum(step.usage is not None for step in steps)

    def _find(self, number: int) -> Trace:
        trace = self._traces.get(number)
        if trace is None:
            raise InvalidArgument(f"there is no trace {number} among the {len(self._traces)} that are kept")
        return trace
