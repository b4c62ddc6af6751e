"""A session's requests to torch: carried out in order, up to the first failure.

One failed operator stops the stream until the host has raised its error (Batch.epoch in the protocol). What is freed
meanwhile is freed all the same. Not here: how a stretch of the stream is carried out (`stream`, `traces`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch

from avec import config
from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer, Model
from avec.destination.executors.torch.captures import Captures
from avec.destination.executors.torch.cuda_graphs import CudaGraphs, Recorder
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.events import Events
from avec.destination.executors.torch.failures import failure
from avec.destination.executors.torch.generators import Generators
from avec.destination.executors.torch.graphs import Graphs
from avec.destination.executors.torch.own_operators import Surroundings
from avec.destination.executors.torch.results import Results
from avec.destination.executors.torch.snapshots import State
from avec.destination.executors.torch.storages import Memory
from avec.destination.executors.torch.stream import Stream
from avec.destination.executors.torch.templates import Compiler
from avec.destination.executors.torch.traces import Traces
from avec.destination.executors.torch.transfers import Transfers
from avec.destination.executors.torch.triton_kernels import TritonKernels
from avec.errors import AcceleratorOutOfMemory, InvalidArgument
from avec.protocol.codec import CALL_PAYLOAD_LIMIT
from avec.protocol.torch import (
    AHEAD_LIMIT,
    AHEAD_NBYTES,
    FIRST_PAYLOAD_PART,
    FLOATS_PART,
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
    Restore,
    Save,
    Skipped,
    Synchronize,
    Template,
    TooLarge,
)
from avec.tensor import Array

STATE_ROOM_NBYTES = 64 << 20  # for what comes beside the storages' bytes in one message

_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_TEMPLATES: msgspec.msgpack.Decoder[list[Template]] = msgspec.msgpack.Decoder(list[Template])
_ENCODER = msgspec.msgpack.Encoder()
_SKIPPED = Answer(_ENCODER.encode(Skipped()))
_NOTHING: Array = np.empty(0, np.uint8)

# What a batch without them has.
_EMPTY_PARTS: tuple[Array, ...] = (np.empty(0, np.uint64), np.empty(0, np.float64), _NOTHING)

T = TypeVar("T")


def recorder_of(devices: Devices) -> Recorder | None:
    """What makes graphs of operators there; None where nothing does."""
    return CudaGraphs() if devices.cuda else None


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
            devices, self._memory, self._generators, self._events, self._transfers, self._graphs, self._kernels
        )
        compiler = Compiler(self._memory, devices, self._generators, self._around, self._results.hold, host_version)
        self._stream = Stream(self._memory, self._results, compiler, devices)
        self._captures: Captures | None = None
        recorder = recorder_of(devices)
        if recorder is not None:
            share, replay_nbytes = config.load().graph_memory_percent / 100, accelerator.replay_nbytes
            totals: dict[int, int] = {}

            def limit(device: int) -> float:
                if device not in totals:
                    totals[device] = recorder.memory(device)[0]
                return min(share * totals[device], replay_nbytes())

            self._captures = Captures(recorder, self._stream, self._memory, devices, self._around, limit)
        self._traces = Traces(self._stream, self._captures)
        self._state = State(
            devices, self._memory, self._generators, self._events, self._around, self._stream, self._traces
        )
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
                if isinstance(request, Restore):
                    self._state.restore(tuple(arrays))
                    return Answer()
                if isinstance(request, Save):
                    return _SKIPPED if skipped or self._results.waiting else self._save(request)
                return _SKIPPED if skipped else self._answer(request)
        except Exception as exc:
            self._failed_epoch = self._epoch
            self._results.drop()
            if self._captures is not None and isinstance(exc, AcceleratorOutOfMemory):
                self._captures.release()  # when the program tries again with less, it shall have all there is
            raise
        finally:
            if self._around.default_dtype is not torch.float32:
                torch.set_default_dtype(torch.float32)

    def close(self) -> None:
        """Free all that the session holds on the accelerator."""
        self._results.drop()
        self._traces.forget()
        self._memory.close()
        self._generators.close()
        self._events.close()
        self._transfers.close()
        self._graphs.close()
        self._kernels.close()
        self._stream.forget()

    def _load(self, request: LoadGraph | LoadKernel, arrays: Sequence[Array]) -> Answer:
        if len(arrays) != 1 or arrays[0].dtype != np.uint8:
            raise InvalidArgument(f"a graph or a kernel with {len(arrays)} parts; it takes one, of uint8")
        loaded = self._graphs if isinstance(request, LoadGraph) else self._kernels
        loaded.load(request.number, arrays[0])
        return Answer()

    def _save(self, request: Save) -> Answer:
        nbytes = self._state.nbytes()
        if nbytes > min(request.limit_nbytes, CALL_PAYLOAD_LIMIT - STATE_ROOM_NBYTES):
            return Answer(_ENCODER.encode(TooLarge(nbytes)))
        return Answer(arrays=self._state.save())

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
        if len(batch.ahead) > AHEAD_LIMIT:
            raise InvalidArgument(f"{len(batch.ahead)} reads ahead after one batch; {AHEAD_LIMIT} are allowed")
        stream, floats, templates = _parts(arrays)
        # Even when nothing is carried out: the host counts on the templates' numbers.
        if batch.forget:
            self._traces.forget()
            self._stream.forget()
            self._memory.forget_layouts()
        self._stream.take(templates, batch.first_template)
        if batch.forget_traces:
            self._traces.forget()
        if batch.trace and not batch.repeat:
            self._traces.keep(batch.trace, stream, floats)
        if skipped:
            numbers = self._traces.numbers(batch.trace, stream) if batch.repeat else stream.tolist()
            self._stream.free_rest(numbers, 0)
            return _SKIPPED
        around = self._around
        around.payloads, around.files, around.next_payload = arrays[FIRST_PAYLOAD_PART:], files, 0
        try:
            if batch.repeat:
                kernels = self._traces.carry_out(batch.trace, stream, floats)
            else:
                kernels = self._stream.carry_out(stream.tolist(), floats)
            read = tuple(self._read(each, AHEAD_NBYTES).copy() for each in batch.ahead)  # into memory that each uses
            if batch.read is not None:
                read = (self._read(batch.read), *read)
        finally:
            self._transfers.settle()
            around.payloads, around.files = (), {}
        evaluated = self._results.take_answer()
        body = b"" if evaluated is None else _ENCODER.encode(evaluated)
        return Answer(body, read, kernels, late=not body and not read)

    def _read(self, read: Read, ahead_nbytes: int | None = None) -> Array:
        """A tensor's elements; none where it is read ahead, up to so many bytes, and is not there or larger."""
        try:
            tensor = self._memory.find(self._memory.layout(read.meta), read.address)
            if ahead_nbytes is not None and tensor.numel() * tensor.dtype.itemsize > ahead_nbytes:
                return _NOTHING
            return self._transfers.read(tensor, read.conj, read.neg)
        except InvalidArgument:
            if ahead_nbytes is None:
                raise
            return _NOTHING
        except Exception as exc:
            raise failure(exc, "reading a tensor") from exc


def _parts(arrays: Sequence[Array]) -> tuple[Array, list[float], list[Template]]:
    """A batch's stream, and its floats and templates, decoded."""
    arrays = [*arrays, *_EMPTY_PARTS[len(arrays) :]]
    if any(array.dtype != empty.dtype for array, empty in zip(arrays, _EMPTY_PARTS, strict=False)):
        raise InvalidArgument(
            f"a batch with parts of types {[str(array.dtype) for array in arrays]}: uint64 numbers, "
            "float64 floats and uint8 templates have to come first"
        )
    encoded = arrays[TEMPLATES_PART].tobytes()
    return (
        arrays[STREAM_PART].ravel(),
        arrays[FLOATS_PART].ravel().tolist(),
        _decoded(_TEMPLATES, encoded, "a description of operators") if encoded else [],
    )


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument(f"{what} cannot be understood: {exc}") from exc
