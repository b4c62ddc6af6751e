"""Carries out stretches of a session's stream, in order, up to the first failure; what is left is freed all the same.

Not here: requests and epochs (`model`), stretches that come again (`traces`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.failures import failure, is_out_of_memory
from avec.destination.executors.torch.results import Results
from avec.destination.executors.torch.storages import Memory
from avec.destination.executors.torch.templates import CarryOut, Compiler, Entry, entry_of
from avec.destination.executors.torch.usage import Usage, usage_of
from avec.errors import ExecutionError, InvalidArgument
from avec.protocol.torch import BIND, FIRST_TEMPLATE, FREE, PLACE_TEXT, Template

BIND_WIDTH, FREE_WIDTH = 3, 2


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a stretch that is kept, with what carries it out."""

    place: int  # in the stretch's numbers
    float_place: int
    carry_out: CarryOut
    usage: Usage | None = None  # None: FREE or BIND


class Stream:
    """The entries of a session's stream, by their templates' numbers."""

    def __init__(self, memory: Memory, results: Results, compiler: Compiler, devices: Devices) -> None:
        self._memory = memory
        self._results = results
        self._compiler = compiler
        self._devices = devices
        self._entries: dict[int, Entry] = {}
        self._usages: dict[int, Usage] = {}

    def take(self, templates: Sequence[Template], first: int) -> None:
        """Take new templates in, which are numbered from `first` on."""
        if templates and first < FIRST_TEMPLATE:
            raise InvalidArgument(f"a template {first}; they are numbered from {FIRST_TEMPLATE} on")
        self._entries.update(enumerate([entry_of(template) for template in templates], first))

    def forget(self) -> None:
        """Forget all templates."""
        self._entries.clear()
        self._usages.clear()

    def carry_out(self, numbers: list[int], floats: list[float]) -> int:
        """Carry out a stretch; how many operators it had.

        Raises:
            ExecutionError: an operator has failed; what the stretch frees after it is freed.
        """
        entries, free, results = self._entries, self._memory.free, self._results
        place = float_place = kernels = 0
        end, float_count = len(numbers), len(floats)
        try:
            while place < end:
                number = numbers[place]
                if number >= FIRST_TEMPLATE:
                    entry = entries[number]
                    if float_place + entry.floats > float_count or place + entry.width > end:
                        raise InvalidArgument(f"{len(floats)} floats, where the stream's templates take more")
                    carry_out = entry.carry_out
                    if carry_out is None:
                        carry_out = entry.carry_out = self._compiler.compile(entry)
                    if entry.template.outputs is None:
                        results.begin(place + entry.width == end)
                    carry_out(numbers, place, floats, float_place)
                    place += entry.width
                    float_place += entry.floats
                    kernels += 1
                elif number == FREE:
                    free(numbers[place + 1])
                    place += FREE_WIDTH
                elif number == BIND:
                    results.bind(numbers[place + 1], numbers[place + 2])
                    place += BIND_WIDTH
                else:
                    raise InvalidArgument(f"an entry {number} in the stream, at {place}: there is none such")
        except Exception as exc:
            raise self.stopped(exc, numbers, place) from exc
        results.end_batch()
        return kernels

    def steps(self, numbers: list[int]) -> list[Step]:
        """The entries of a stretch that has been carried out before.

        Raises:
            InvalidArgument: it is not whole.
        """
        found = []
        float_place = end = 0
        for kind, place in self._walk(numbers, 0):
            end = place + self._width(kind)
            if kind >= FIRST_TEMPLATE:
                entry = self._entries[kind]
                carry_out = self._carry_out(entry, end == len(numbers))
                found.append(Step(place, float_place, carry_out, self._usage(kind)))
                float_place += entry.floats
            else:
                found.append(Step(place, float_place, self._free if kind == FREE else self._bind))
        if end != len(numbers):
            raise InvalidArgument(f"a trace of {len(numbers)} numbers has no entry that begins at {end}")
        return found

    def addresses(self, numbers: list[int]) -> list[int]:
        """The places of all addresses in a stretch that has been carried out before."""
        found = []
        for kind, place in self._walk(numbers, 0):
            if kind >= FIRST_TEMPLATE:
                usage = self._usage(kind)
                first = place + 1
                found += [first + at for at in usage.inputs]
                first += usage.template.numbers
                found += range(first, first + usage.template.addresses)
            else:
                found.append(place + self._width(kind) - 1)
        return found

    def carry_out_steps(self, numbers: list[int], steps: Sequence[Step], floats: list[float]) -> None:
        """Carry out some entries of a stretch that is kept.

        Raises:
            ExecutionError: an operator has failed; what the stretch frees after it is freed.
        """
        for step in steps:
            try:
                step.carry_out(numbers, step.place, floats, step.float_place)
            except Exception as exc:
                raise self.stopped(exc, numbers, step.place) from exc

    def end(self) -> None:
        """End a stretch whose steps have all been carried out."""
        self._results.end_batch()

    def free_rest(self, numbers: list[int], place: int) -> None:
        """Free what a stretch frees, from an entry on that is not carried out."""
        for kind, at in self._walk(numbers, place):
            if kind == FREE:
                self._memory.free(numbers[at + 1])

    def stopped(self, exc: Exception, numbers: list[int], place: int) -> ExecutionError:
        """End a stretch in which an entry has failed; the error to raise, with the operator's name and place."""
        if is_out_of_memory(exc):
            self._devices.account(0).failures += 1
        self.free_rest(numbers, place)
        return self._described(exc, numbers, place)

    def _usage(self, number: int) -> Usage:
        usage = self._usages.get(number)
        if usage is None:
            usage = self._usages[number] = usage_of(self._entries[number].template)
        return usage

    def _carry_out(self, entry: Entry, is_last: bool) -> CarryOut:
        carry_out = entry.carry_out
        if carry_out is None:
            carry_out = entry.carry_out = self._compiler.compile(entry)
        if entry.template.outputs is not None:
            return carry_out
        evaluate, begin = carry_out, self._results.begin

        def evaluated(numbers: list[int], place: int, floats: list[float], float_place: int) -> None:
            begin(is_last)
            evaluate(numbers, place, floats, float_place)

        return evaluated

    def _free(self, numbers: list[int], place: int, floats: list[float], float_place: int) -> None:
        self._memory.free(numbers[place + 1])

    def _bind(self, numbers: list[int], place: int, floats: list[float], float_place: int) -> None:
        self._results.bind(numbers[place + 1], numbers[place + 2])

    def _walk(self, numbers: list[int], place: int) -> Iterator[tuple[int, int]]:
        """Each whole entry's first number and its place; ends at one that makes no sense."""
        while place < len(numbers):
            kind = numbers[place]
            width = self._width(kind)
            if not width or place + width > len(numbers):
                return
            yield kind, place
            place += width

    def _width(self, kind: int) -> int:
        """How many numbers an entry takes; 0 if there is none such."""
        if kind >= FIRST_TEMPLATE:
            entry = self._entries.get(kind)
            return 0 if entry is None else entry.width
        return {FREE: FREE_WIDTH, BIND: BIND_WIDTH}.get(kind, 0)

    def _described(self, exc: Exception, numbers: list[int], place: int) -> ExecutionError:
        """An exception with the operator's name and the entry's number added."""
        kind = numbers[place]
        width = self._width(kind)
        count = sum(1 for _, at in self._walk(numbers, 0) if at < place)
        where = f"entry {count} of its batch, {PLACE_TEXT.format(place)}"
        if not width:
            return InvalidArgument(f"there is no template {kind} among the {len(self._entries)} known ({where})")
        if place + width > len(numbers):
            return InvalidArgument(
                f"a stream of {len(numbers)} numbers ends within an entry that takes {width} ({where})"
            )
        if kind >= FIRST_TEMPLATE:
            where = f"{self._entries[kind].template.operator}, {where}"
        return failure(exc, where)
