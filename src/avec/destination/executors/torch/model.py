"""A session's stream of operators: carries out batches in order, and stops at the first failure.

One failed operator stops the stream until the host has raised its error (Batch.epoch in the protocol). What is freed
meanwhile is freed all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer, Model
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.events import Events
from avec.destination.executors.torch.failures import failure, is_out_of_memory
from avec.destination.executors.torch.generators import Generators
from avec.destination.executors.torch.graphs import Graphs
from avec.destination.executors.torch.own_operators import Surroundings
from avec.destination.executors.torch.results import Results
from avec.destination.executors.torch.storages import Memory
from avec.destination.executors.torch.templates import Compiler, Entry, entry_of
from avec.destination.executors.torch.transfers import Transfers
from avec.destination.executors.torch.triton_kernels import TritonKernels
from avec.errors import ExecutionError, InvalidArgument
from avec.protocol.torch import (
    BIND,
    FIRST_PAYLOAD_PART,
    FIRST_TEMPLATE,
    FLOATS_PART,
    FREE,
    PLACE_TEXT,
    STREAM_PART,
    TEMPLATES_PART,
    Batch,
    Elapsed,
    ElapsedTime,
    GeneratorState,
    LoadGraph,
    LoadKernel,
    MemoryStatistics,
    Read,
    Request,
    Skipped,
    Synchronize,
    Template,
)
from avec.tensor import Array

_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_TEMPLATES: msgspec.msgpack.Decoder[list[Template]] = msgspec.msgpack.Decoder(list[Template])
_ENCODER = msgspec.msgpack.Encoder()
_SKIPPED = Answer(_ENCODER.encode(Skipped()))

# What a batch without them has.
_EMPTY_PARTS: tuple[Array, ...] = (np.empty(0, np.uint64), np.empty(0, np.float64), np.empty(0, np.uint8))

BIND_WIDTH, FREE_WIDTH = 3, 2
T = TypeVar("T")


class TorchModel:
    """One session's stream. See avec.destination.executors.Model."""

    def __init__(self, accelerator: Accelerator, devices: Devices, host_version: str) -> None:
        self._devices = devices
        self._memory = Memory(devices)
        self._generators = Generators(devices)
        self._events = Events(devices)
        self._transfers = Transfers(accelerator)
        self._results = Results(self._memory)
        self._graphs = Graphs(devices, host_version)
        self._kernels = TritonKernels(devices.cuda)
        self._around = Surroundings(
            devices, self._generators, self._events, self._transfers, self._graphs, self._kernels
        )
        self._compiler = Compiler(
            self._memory, devices, self._generators, self._around, self._results.hold, host_version
        )
        self._entries: dict[int, Entry] = {}  # by the templates' numbers
        self._epoch = 0  # the highest that came
        self._failed_epoch: int | None = None

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request."""
        try:
            request = _decoded(_REQUESTS, body, "a request to torch")
            self._epoch = max(self._epoch, request.epoch)
            skipped = self._failed_epoch is not None and request.epoch <= self._failed_epoch
            if self._around.default_dtype is not torch.float32:
                torch.set_default_dtype(self._around.default_dtype)
            with torch.inference_mode():
                if isinstance(request, Batch):
                    return self._run_batch(request, arrays, files, skipped)
                if isinstance(request, LoadGraph | LoadKernel):
                    return self._load(request, arrays)
                return _SKIPPED if skipped else self._answer(request)
        except Exception:
            self._failed_epoch = self._epoch
            self._results.drop()
            raise
        finally:
            if self._around.default_dtype is not torch.float32:
                torch.set_default_dtype(torch.float32)

    def close(self) -> None:
        """Free all that the session holds on the accelerator."""
        self._results.drop()
        self._memory.close()
        self._generators.close()
        self._events.close()
        self._transfers.close()
        self._graphs.close()
        self._kernels.close()
        self._entries.clear()

    def _load(self, request: LoadGraph | LoadKernel, arrays: Sequence[Array]) -> Answer:
        if len(arrays) != 1 or arrays[0].dtype != np.uint8:
            raise InvalidArgument(f"a graph or a kernel with {len(arrays)} parts; it takes one, of uint8")
        loaded = self._graphs if isinstance(request, LoadGraph) else self._kernels
        loaded.load(request.number, arrays[0])
        return Answer()

    def _answer(self, request: Synchronize | MemoryStatistics | GeneratorState | ElapsedTime) -> Answer:
        match request:
            case Synchronize():
                self._devices.synchronize(request.device)
                return Answer()
            case MemoryStatistics():
                memory = self._devices.memory(request.device, request.reset_peak, request.empty_cache)
                return Answer(_ENCODER.encode(memory))
            case GeneratorState():
                return Answer(arrays=(self._generators.state(request.generator),))
            case ElapsedTime():
                return Answer(_ENCODER.encode(Elapsed(self._events.elapsed_ms(request.start, request.end))))

    def _run_batch(self, batch: Batch, arrays: Sequence[Array], files: Mapping[str, Path], skipped: bool) -> Answer:
        numbers, floats, templates = _parts(arrays)
        # Even when nothing is carried out: the host counts on the templates' numbers.
        if batch.forget:
            self._entries.clear()
            self._memory.forget_layouts()
        if templates and batch.first_template < FIRST_TEMPLATE:
            raise InvalidArgument(f"a template {batch.first_template}; they are numbered from {FIRST_TEMPLATE} on")
        self._entries.update(enumerate([entry_of(template) for template in templates], batch.first_template))
        if skipped:
            self._free_rest(numbers, 0)
            return _SKIPPED
        around = self._around
        around.payloads, around.files, around.next_payload = arrays[FIRST_PAYLOAD_PART:], files, 0
        try:
            kernels = self._carry_out(numbers, floats)
            read = () if batch.then is None else (self._read(batch.then),)
        finally:
            self._transfers.settle()
            around.payloads, around.files = (), {}
        evaluated = self._results.take_answer()
        return Answer(b"" if evaluated is None else _ENCODER.encode(evaluated), read, kernels)

    def _read(self, read: Read) -> Array:
        try:
            tensor = self._memory.find(self._memory.layout(read.meta), read.address)
            return self._transfers.read(tensor, read.conj, read.neg)
        except Exception as exc:
            raise failure(exc, "reading a tensor") from exc

    def _carry_out(self, numbers: list[int], floats: list[float]) -> int:
        """Carry out a stretch of the stream; how many operators it had."""
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
            if is_out_of_memory(exc):
                self._devices.account(0).failures += 1
            self._free_rest(numbers, place)
            raise self._described(exc, numbers, place) from exc
        results.end_batch()
        return kernels

    def _free_rest(self, numbers: list[int], place: int) -> None:
        """Free what a stretch of the stream frees, from an entry on that is not carried out."""
        for kind, at in self._walk(numbers, place):
            if kind == FREE:
                self._memory.free(numbers[at + 1])

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


def _parts(arrays: Sequence[Array]) -> tuple[list[int], list[float], list[Template]]:
    """A batch's stream, floats and templates, decoded."""
    arrays = [*arrays, *_EMPTY_PARTS[len(arrays) :]]
    if any(array.dtype != empty.dtype for array, empty in zip(arrays, _EMPTY_PARTS, strict=False)):
        raise InvalidArgument(
            f"a batch with parts of types {[str(array.dtype) for array in arrays]}: uint64 numbers, "
            "float64 floats and uint8 templates have to come first"
        )
    encoded = arrays[TEMPLATES_PART].tobytes()
    return (
        arrays[STREAM_PART].ravel().tolist(),
        arrays[FLOATS_PART].ravel().tolist(),
        _decoded(_TEMPLATES, encoded, "a description of operators") if encoded else [],
    )


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument(f"{what} cannot be understood: {exc}") from exc
