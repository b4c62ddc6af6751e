"""CUDA graphs of stretches that repeat: captured as they are carried out, replayed with the same results to the bit.

A graph reads and writes fixed memory. What it takes from before is looked up by address, as ever; if that lives
elsewhere now, its bytes are copied to where the graph reads. What it leaves lives in memory of the graph's own pool,
which nothing else writes; if something from its last replay lives there still, that is moved out first.

Operators that cannot be part of a graph, because they wait, take other floats each time, payloads or random number
generators of the program's own, are carried out between graphs. Not here: which stretches repeat (`traces`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from avec.destination.executors.torch.cuda_graphs import Graph, Recorder
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.failures import is_out_of_memory
from avec.destination.executors.torch.own_operators import Surroundings
from avec.destination.executors.torch.storages import Memory, Storage
from avec.destination.executors.torch.stream import Step, Stream
from avec.errors import InvalidArgument
from avec.protocol.torch import FREE, OFFSET_MASK, ORIGIN
from avec.tensor import Array

SMALLEST = 2  # operators of a graph; fewer are issued as fast one by one
COPIED_NBYTES = 32 << 20  # of what a graph takes from elsewhere; beyond it another graph is made
VARIANTS = 64  # graphs of one stretch, as of a net's layers that are alike; and attempts to make them
IDLE_S = 1.0  # a graph that was not replayed for so long makes room for others
MARGIN_NBYTES = 1 << 30  # what has to stay free beside what the program has been seen to need

log = logging.getLogger("avec.destination")


@dataclass(slots=True, eq=False)
class _Capture:
    """A graph, what it takes from before and what it leaves; addresses by their places in the stretch's numbers."""

    part: _Part
    settings: object  # torch's, that it was made under
    device: int
    graph: Graph
    nbytes: int  # of its pool
    inputs: list[int]
    taken: list[Storage]  # those that it reads and writes in their place; kept alive with their memory
    freed: list[int]
    left: list[tuple[int, Storage]]
    used_s: float = 0.0  # when it was last replayed; of the monotonic clock

    def moved(self, memory: Memory, numbers: list[int]) -> list[tuple[Storage, Storage]] | None:
        """What would have to be copied to where the graph reads; None where it cannot be used."""
        storages, found, nbytes = memory.storages(), [], 0
        for place, storage in zip(self.inputs, self.taken, strict=True):
            now = storages.get(_base(numbers[place]))
            if now is storage:
                continue
            # What lives where the graph would read is another tensor of the program's.
            if now is None or storage.address or storage.layout is not now.layout:
                return None
            nbytes += storage.layout.nbytes
            if nbytes > COPIED_NBYTES:
                return None
            found.append((storage, now))
        return found

    def replay(self, memory: Memory, numbers: list[int]) -> bool:
        """Carry it out; False, and nothing has happened, where that cannot be."""
        moved = self.moved(memory, numbers)
        if moved is None:
            return False
        freed = {numbers[place] for place in self.freed}
        living = [each for _, each in self.left if each.address and each.address not in freed]
        if living:
            for storage in living:
                memory.move(storage)
            moved = self.moved(memory, numbers)
            if moved is None:  # what it takes was among them, and is too large
                return False
        for storage, now in moved:
            storage.bytes().copy_(now.bytes())
        self.graph.replay()
        for storage, now in moved:  # schemas do not tell of all that is written: of BatchNorm's statistics, for one
            if now.address not in freed:  # else it may lie where the graph has left something else
                now.bytes().copy_(storage.bytes())
        for address in freed:
            memory.free(address)
        for place, storage in self.left:
            address = numbers[place]
            if address in memory.storages():
                raise InvalidArgument(f"{address:#x} was given to a result of a trace; it is in use")
            memory.put(address, storage)
        return True


def _base(address: int) -> int:
    return address & ~OFFSET_MASK | ORIGIN


@dataclass(slots=True, eq=False)
class _Part:
    """Steps that follow one another, with graphs of them if they can have any."""

    steps: list[Step]
    device: int | None  # the accelerator of its graphs; None: one by one
    captures: list[_Capture] = field(default_factory=list)
    attempts: int = 0


@dataclass(slots=True, eq=False)
class Plan:
    """How one trace is carried out."""

    captures: Captures
    steps: list[Step]
    floats: Array  # the bits of those that graphs are captured with, uint64
    varying: set[int] = field(default_factory=set)  # places of floats that were seen to change
    refused: set[int] = field(default_factory=set)  # places of steps that could not be captured
    parts: list[_Part] = field(default_factory=list)

    def carry_out(self, numbers: list[int], floats: list[float]) -> None:
        """Carry it out.

        Raises:
            ExecutionError: an operator has failed; what the stretch frees after it is freed.
        """
        self._see(floats)
        if not self.parts:
            self.parts = list(self._split(numbers))
        for part in self.parts:
            if part.device is None or not self.captures.carry_out(self, part, numbers, floats):
                self.captures.stream.carry_out_steps(numbers, part.steps, floats)

    def split_anew(self) -> None:
        """Give up all graphs; the next time others are captured."""
        self.close()
        self.parts = []

    def close(self) -> None:
        """Free the graphs."""
        for part in self.parts:
            part.device = None
            for capture in part.captures.copy():
                self.captures.drop(capture)

    def _see(self, floats: list[float]) -> None:
        """Note which floats are not what they were; compared by their bits."""
        now = np.array(floats, np.float64).view(np.uint64)
        changed = set(np.flatnonzero(now != self.floats).tolist())
        if not changed <= self.varying:
            self.varying |= changed
            self.floats = now
            self.split_anew()

    def _split(self, numbers: list[int]) -> Iterator[_Part]:
        """Cut the steps where what can be captured begins or ends; frees go with what is before them."""
        part, begun = _Part([], None), False
        for step in self.steps:
            if numbers[step.place] == FREE:
                part.steps.append(step)
                continue
            device = None
            if step.usage is not None and step.place not in self.refused:
                floats = range(step.float_place, step.float_place + step.usage.template.floats)
                if self.varying.isdisjoint(floats):
                    device = step.usage.device
            if begun and device != part.device:
                yield _worthwhile(part)
                part = _Part([], device)
            part.device, begun = device, True
            part.steps.append(step)
        if part.steps:
            yield _worthwhile(part)


def _worthwhile(part: _Part) -> _Part:
    if sum(step.usage is not None for step in part.steps) < SMALLEST:
        part.device = None
    return part


class Captures:
    """The graphs of a session, within a bound of memory."""

    def __init__(
        self,
        recorder: Recorder,
        stream: Stream,
        memory: Memory,
        devices: Devices,
        surroundings: Surroundings,
        limit: Callable[[int], float],
    ) -> None:
        """Begin without any.

        Args:
            recorder: makes the graphs.
            surroundings: know torch's settings, which a graph keeps.
            limit: how many bytes of an accelerator graphs may hold now, which changes as sessions come and go; 0: none
                are made.
        """
        self.stream = stream
        self._recorder = recorder
        self._memory = memory
        self._devices = devices
        self._around = surroundings
        self._limit = limit
        self._limits: dict[int, float] = {}  # as they were last
        self._captured: list[_Capture] = []
        self._nbytes: dict[int, int] = {}

    def plan(self, steps: list[Step], floats: list[float]) -> Plan:
        """How to carry out a trace that came with these floats before."""
        return Plan(self, steps, np.array(floats, np.float64).view(np.uint64))

    def carry_out(self, plan: Plan, part: _Part, numbers: list[int], floats: list[float]) -> bool:
        """Carry out a part of a trace by a graph; False, and nothing has happened, if it has to be done otherwise."""
        try:
            if part.device is not None:
                self._keep_within(part.device)
            for capture in part.captures:
                if capture.settings == self._around.settings and capture.replay(self._memory, numbers):
                    capture.used_s = time.monotonic()
                    return True
            made = self._capture(plan, part, numbers, floats)
            if made is None or not made.replay(self._memory, numbers):
                return False
        except Exception as exc:
            raise self.stream.stopped(exc, numbers, part.steps[0].place) from exc
        made.used_s = time.monotonic()
        return True

    def drop(self, capture: _Capture) -> None:
        """Free a graph."""
        capture.part.captures.remove(capture)
        self._captured.remove(capture)
        self._nbytes[capture.device] -= capture.nbytes

    def release(self) -> None:
        """Free all graphs: there is no memory for them."""
        for capture in self._captured.copy():
            self.drop(capture)
        self._recorder.release()

    def _capture(self, plan: Plan, part: _Part, numbers: list[int], floats: list[float]) -> _Capture | None:
        """Make a graph of a part, if it can have one more. It is not carried out by that."""
        device = part.device
        if device is None or part.attempts >= VARIANTS or not self._room(device):
            return None
        before = dict(self._memory.storages())
        inputs, freed, made = _flow(numbers, part.steps)
        taken = [before.get(_base(numbers[place])) for place in inputs]
        if not all(each is not None and self._recorder.fits(each.tensor) for each in taken):
            return None  # not there; or, as an attention's random seeds, in host memory where no graph made them
        part.attempts += 1
        at = part.steps[-1]

        def carry_out() -> None:
            nonlocal at
            for at in part.steps:
                at.carry_out(numbers, at.place, floats, at.float_place)

        try:
            graph, nbytes = self._recorder.record(device, carry_out)
            left = dict(self._memory.storages())
        except Exception as exc:  # whatever it is, the operators are carried out one by one, and raise it again
            self._refuse(plan, part, at, exc)
            return None
        finally:
            self._memory.restore(before)
        capture = _Capture(
            part=part,
            settings=self._around.settings,
            device=device,
            graph=graph,
            nbytes=nbytes,
            inputs=inputs,
            taken=[each for each in taken if each is not None],
            freed=freed,
            left=[(place, left[numbers[place]]) for place in made if numbers[place] in left],
        )
        self._nbytes[device] = self._nbytes.get(device, 0) + nbytes
        part.captures.append(capture)
        self._captured.append(capture)
        return capture

    def _refuse(self, plan: Plan, part: _Part, step: Step, exc: Exception) -> None:
        """Note that a step cannot be captured: what was begun is void, and everything is carried out one by one."""
        name = "a free" if step.usage is None else step.usage.template.operator
        log.debug("%s cannot be part of a CUDA graph: %s", name, exc)
        if is_out_of_memory(exc):
            self.release()
            part.attempts = VARIANTS
            return
        plan.refused.add(step.place)
        plan.split_anew()

    def _keep_within(self, device: int) -> None:
        """Where the limit has become lower, free graphs, those first that have not been replayed for longest."""
        limit, before = self._limit(device), self._limits.get(device, 0.0)
        if limit == before:
            return
        self._limits[device] = limit
        if limit > before:
            return
        self._devices.synchronize(device)  # it may be at one of them
        for capture in sorted(self._captured, key=attrgetter("used_s")):
            if self._nbytes.get(device, 0) <= limit:
                break
            if capture.device == device:
                self.drop(capture)
        self._recorder.release()

    def _room(self, device: int) -> bool:
        """Whether there is memory for one more graph, perhaps after freeing some that are not used any more."""
        limit = self._limit(device)
        if self._nbytes.get(device, 0) >= limit:
            # What a program goes through in turn must not drive itself out: only what it has left behind goes.
            idle_s = time.monotonic() - IDLE_S
            for capture in sorted(self._captured, key=attrgetter("used_s")):
                if capture.used_s > idle_s or self._nbytes.get(device, 0) < limit:
                    break
                if capture.device == device:
                    self.drop(capture)
            if self._nbytes.get(device, 0) >= limit:
                return False
        account = self._devices.account(device)
        free = min(self._recorder.memory(device)[1], self._devices.left(device))
        return free >= account.peak - account.current + MARGIN_NBYTES


def _flow(numbers: list[int], steps: Sequence[Step]) -> tuple[list[int], list[int], list[int]]:
    """How values flow through steps, by places in the stretch's numbers.

    Returns:
        What is taken from before, each storage once; what of before is freed; and what is made and not freed.
    """
    taken: dict[int, int] = {}
    freed: list[int] = []
    made: dict[int, int] = {}
    for step in steps:
        place = step.place
        if step.usage is None:
            if made.pop(numbers[place + 1], None) is None:
                freed.append(place + 1)
            continue
        for at in step.usage.inputs:
            address = numbers[place + 1 + at]
            if address and _base(address) not in made:
                taken.setdefault(_base(address), place + 1 + at)
        first = place + 1 + step.usage.template.numbers
        made.update({numbers[at]: at for at in range(first, first + step.usage.template.addresses) if numbers[at]})
    return list(taken.values()), freed, list(made.values())
