"""CUDA graphs of stretches that repeat: captured as they are carried out, replayed with the same results to the bit.

A graph reads and writes fixed memory. What it takes from before is looked up by address, as ever; if that lives
elsewhere now, its bytes are copied to where the graph reads. What it leaves lives in memory of the graph's own pool,
which nothing else writes, and which a replay overwrites only after the host has freed what was there.

Operators that cannot be part of a graph, because they wait, take other floats each time, payloads or random number
generators of the program's own, are carried out between graphs. Not here: which stretches repeat (`traces`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
import torch

from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.failures import is_out_of_memory
from avec.destination.executors.torch.storages import Memory, Storage, seen
from avec.destination.executors.torch.stream import Step, Stream
from avec.errors import InvalidArgument
from avec.protocol.torch import FREE, OFFSET_MASK, ORIGIN
from avec.tensor import Array

SMALLEST = 2  # operators of a graph; fewer are issued as fast one by one
COPIED_NBYTES = 32 << 20  # of what a graph takes from elsewhere: beyond it is carried out without the graph
ATTEMPTS = 3  # to capture a part anew, since what it takes has moved
MARGIN_NBYTES = 1 << 30  # what has to stay free beside what the program has been seen to need

log = logging.getLogger("avec.destination")


@dataclass(slots=True)
class _Capture:
    """A graph, what it takes from before and what it leaves."""

    graph: torch.cuda.CUDAGraph
    nbytes: int  # of its pool
    inputs: list[int]  # addresses of storages
    taken: list[Storage]  # those that it reads and writes in their place; kept alive with their memory
    written: list[bool]
    freed: list[int]
    left: list[tuple[int, Storage]]

    def replay(self, memory: Memory) -> bool:
        """Carry it out; False, and nothing has happened, where that cannot be."""
        storages = memory.storages()
        try:
            moved = [
                (storage, now, written)
                for storage, now, written in zip(
                    self.taken, map(storages.__getitem__, self.inputs), self.written, strict=True
                )
                if storage is not now
            ]
        except KeyError:  # something is not there; its operator will say so
            return False
        if moved:
            if any(storage.layout is not now.layout for storage, now, _ in moved):
                return False
            if sum(storage.layout.nbytes for storage, _, _ in moved) > COPIED_NBYTES:
                return False
            for storage, now, _ in moved:
                _copy(storage, now)
        self.graph.replay()
        for storage, now, written in moved:
            if written:
                _copy(now, storage)
        for address in self.freed:
            memory.free(address)
        for address, storage in self.left:
            if address in storages:
                raise InvalidArgument(f"{address:#x} was given to a result of a trace; it is in use")
            memory.put(address, storage)
        return True


def _copy(target: Storage, source: Storage) -> None:
    """Copy all bytes, also those between the elements."""
    to, from_ = (
        seen(each.untyped_storage(), torch.uint8, each.device, 0, (each.untyped_storage().nbytes(),), (1,))
        for each in (target.tensor, source.tensor)
    )
    to.copy_(from_)


@dataclass(slots=True)
class _Part:
    """Steps that follow one another, with a graph of them if they can have one."""

    steps: list[Step]
    device: int | None  # the accelerator of a graph; None: one by one
    capture: _Capture | None = None
    attempts: int = 0
    used: int = 0  # when it was last replayed


@dataclass(slots=True)
class Plan:
    """How one trace is carried out."""

    captures: Captures
    numbers: list[int]
    steps: list[Step]
    floats: Array  # the bits of those that graphs are captured with, uint64
    varying: set[int] = field(default_factory=set)  # places of floats that were seen to change
    refused: set[int] = field(default_factory=set)  # places of steps that could not be captured
    parts: list[_Part] = field(default_factory=list)

    def carry_out(self, floats: list[float]) -> None:
        """Carry it out.

        Raises:
            ExecutionError: an operator has failed; what the stretch frees after it is freed.
        """
        self._see(floats)
        if not self.parts:
            self.parts = list(self._split())
        for part in self.parts:
            if part.device is None or not self.captures.carry_out(self, part, floats):
                self.captures.stream.carry_out_steps(self.numbers, part.steps, floats)
            if not self.parts:  # a step could not be captured
                break
        else:
            return
        done = part.steps[-1].place
        self.captures.stream.carry_out_steps(self.numbers, [step for step in self.steps if step.place > done], floats)

    def split_anew(self) -> None:
        """Give up all graphs; the next time others are captured."""
        self.close()
        self.parts = []

    def close(self) -> None:
        """Free the graphs."""
        for part in self.parts:
            self.captures.drop(part)

    def _see(self, floats: list[float]) -> None:
        """Note which floats are not what they were; compared by their bits."""
        now = np.array(floats, np.float64).view(np.uint64)
        changed = set(np.flatnonzero(now != self.floats).tolist())
        if not changed <= self.varying:
            self.varying |= changed
            self.floats = now
            self.split_anew()

    def _split(self) -> Iterator[_Part]:
        """Cut the steps where what can be captured begins or ends; frees go with what is before them."""
        part, begun = _Part([], None), False
        for step in self.steps:
            if self.numbers[step.place] == FREE:
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

    def __init__(self, stream: Stream, memory: Memory, devices: Devices, share: float) -> None:
        """Begin without any.

        Args:
            share: which part of each accelerator's memory graphs may hold; 0: none are made.
        """
        self.stream = stream
        self._memory = memory
        self._devices = devices
        self._share = share
        self._captured: list[_Part] = []
        self._nbytes: dict[int, int] = {}
        self._limits: dict[int, int] = {}
        self._streams: dict[int, torch.cuda.Stream] = {}
        self._replays = 0

    def plan(self, numbers: list[int], steps: list[Step], floats: list[float]) -> Plan:
        """How to carry out a trace that came with these floats before."""
        return Plan(self, numbers, steps, np.array(floats, np.float64).view(np.uint64))

    def carry_out(self, plan: Plan, part: _Part, floats: list[float]) -> bool:
        """Carry out a part of a trace by its graph; False, and nothing has happened, if it has to be done otherwise."""
        if part.capture is None:
            self._capture(plan, part, floats)
        if part.capture is None:
            return False
        try:
            replayed = part.capture.replay(self._memory)
        except Exception as exc:
            raise self.stream.stopped(exc, plan.numbers, part.steps[0].place) from exc
        if replayed:
            self._replays += 1
            part.used = self._replays
            return True
        self.drop(part)
        return False

    def drop(self, part: _Part) -> None:
        """Free a part's graph."""
        if part.capture is not None and part.device is not None:
            self._nbytes[part.device] -= part.capture.nbytes
            part.capture = None
            self._captured.remove(part)

    def release(self) -> None:
        """Free all graphs: there is no memory for them."""
        for part in self._captured.copy():
            self.drop(part)
        if self._streams:
            torch.cuda.empty_cache()

    def _capture(self, plan: Plan, part: _Part, floats: list[float]) -> None:
        """Make a part's graph if it can have one. It is not carried out by that."""
        device = part.device
        if device is None or part.attempts >= ATTEMPTS or not self._room(device):
            return
        before = dict(self._memory.storages())
        inputs, written, freed = _flow(plan.numbers, part.steps)
        if not all(address in before and before[address].tensor.is_cuda for address in inputs):
            return  # not there; or, as an attention's random seeds, in host memory where no graph made them
        part.attempts += 1
        reserved = torch.cuda.memory_reserved(device)
        graph = torch.cuda.CUDAGraph()
        failed: tuple[Step, Exception] | None = None
        with torch.cuda.device(device):
            stream = self._streams.setdefault(device, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                for step in part.steps:
                    try:
                        step.carry_out(plan.numbers, step.place, floats, step.float_place)
                    except Exception as exc:
                        failed = step, exc
                        break
                try:
                    graph.capture_end()
                except RuntimeError as exc:
                    failed = failed or (part.steps[-1], exc)
        left = dict(self._memory.storages())
        self._memory.restore(before)
        if failed is not None:
            self._refuse(plan, *failed)
            return
        nbytes = torch.cuda.memory_reserved(device) - reserved
        part.capture = _Capture(
            graph=graph,
            nbytes=nbytes,
            inputs=inputs,
            taken=[before[address] for address in inputs],
            written=written,
            freed=freed,
            left=[(address, storage) for address, storage in left.items() if before.get(address) is not storage],
        )
        self._nbytes[device] = self._nbytes.get(device, 0) + nbytes
        self._captured.append(part)

    def _refuse(self, plan: Plan, step: Step, exc: Exception) -> None:
        """Note that a step cannot be captured: what was begun is void, and everything is carried out one by one."""
        name = "a free" if step.usage is None else step.usage.template.operator
        log.debug("%s cannot be part of a CUDA graph: %s", name, exc)
        if is_out_of_memory(exc):
            self.release()
            for part in plan.parts:
                part.attempts = ATTEMPTS
            return
        plan.refused.add(step.place)
        plan.split_anew()

    def _room(self, device: int) -> bool:
        """Whether there is memory for one more graph, perhaps after freeing some that are not used any more."""
        limit = self._limits.get(device)
        if limit is None:
            limit = self._limits[device] = int(self._share * torch.cuda.mem_get_info(device)[1])
        if self._nbytes.get(device, 0) >= limit:
            # What a program goes through in turn must not drive itself out: only what it has left behind goes.
            old = self._replays - 4 * len(self._captured)
            for part in sorted(self._captured, key=attrgetter("used")):
                if part.used >= old or self._nbytes[device] < limit:
                    break
                if part.device == device:
                    self.drop(part)
            if self._nbytes[device] >= limit:
                return False
        account = self._devices.account(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        free -= torch.cuda.memory_allocated(device)
        return free >= account.peak - account.current + MARGIN_NBYTES


def _flow(numbers: list[int], steps: Sequence[Step]) -> tuple[list[int], list[bool], list[int]]:
    """What steps take from before, by the addresses of storages, whether they write there, and what of it they free."""
    taken: dict[int, bool] = {}
    freed, made = [], set()
    for step in steps:
        place = step.place
        if step.usage is None:
            address = numbers[place + 1]
            if address in made:
                made.discard(address)
            else:
                freed.append(address)
            continue
        usage = step.usage
        for at, written in usage.inputs:
            address = numbers[place + 1 + at]
            if not address:
                continue
            address = address & ~OFFSET_MASK | ORIGIN
            if address not in made:
                taken[address] = taken.get(address, False) or written
        first = place + 1 + step.usage.template.numbers
        made.update(numbers[first : first + usage.outputs])
    return list(taken), list(taken.values()), freed
