"""One of the host's inference sessions, with its bindings; several may share one loaded model."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from avec.destination.executors import Answer, Model
from avec.destination.executors.onnx.contents import Stored
from avec.destination.executors.onnx.engine import EngineRaised, engine_raises
from avec.destination.executors.onnx.options import SessionOptions, run_options
from avec.destination.executors.onnx.space import Space, answered, decoded
from avec.destination.executors.onnx.torch_engine.session import TorchSession, native_feed
from avec.destination.executors.onnx.torch_engine.values import TensorValue
from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.onnx import (
    Bind,
    Binding,
    BindInput,
    BindOutput,
    ClearInputs,
    ClearOutputs,
    Configure,
    CopyOutputs,
    EndProfiling,
    Held,
    NameOutputs,
    RunBinding,
    RunSession,
    RunToValues,
    SessionRequest,
    Values,
)
from avec.protocol.onnx_values import unpack_plain
from avec.tensor import Array

_REQUESTS: msgspec.msgpack.Decoder[SessionRequest] = msgspec.msgpack.Decoder(SessionRequest)
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(slots=True, weakref_slot=True)
class Loaded:
    """A native session and what it needs to live; shared by host sessions that are loaded alike."""

    native: Any  # an InferenceSession of onnxruntime's, or a TorchSession
    options: SessionOptions
    note: str  # why it is computed where it is
    profile: int = -1  # descriptor of the file that is being written, which has no name any more


@dataclass(slots=True)
class _Bound:
    """A native binding, and the memory that its inputs and outputs point to."""

    native: Any
    inputs: dict[str, Stored] = field(default_factory=dict)
    outputs: dict[str, Stored] = field(default_factory=dict)
    unwritten: set[str] = field(default_factory=set)  # outputs without memory until a run has made it


def keep(native: Any, options: SessionOptions, note: str) -> Loaded:
    """Take a native session over; what it writes loses its name, so that nothing is left however this process ends."""
    loaded = Loaded(native, options, note)
    if options.profiling and options.folder is not None:
        profiles = [each for each in options.folder.iterdir() if each != options.optimized]
        if profiles:
            loaded.profile = os.open(profiles[0], os.O_RDONLY)
            weakref.finalize(loaded, os.close, loaded.profile)
    return loaded


def read_profile(descriptor: int) -> Array:
    """What has been written; nothing where there is no profile."""
    if descriptor < 0:
        return np.empty(0, np.uint8)
    data = bytearray(os.fstat(descriptor).st_size)
    count = os.preadv(descriptor, [data], 0)
    return np.frombuffer(data, np.uint8)[:count]


class InferenceSession:
    """Answers requests on one session. See avec.destination.executors.Model."""

    def __init__(self, space: Space, loaded: Loaded | None) -> None:
        """Serve a loaded model; None stands for one that the engine refused."""
        self._space = space
        self._loaded = loaded
        self._bindings: dict[int, _Bound] = {}

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request."""
        request = decoded(_REQUESTS, body)
        self._space.forget(request)
        for number in request.unbound:
            self._bindings.pop(number, None)
        return answered(lambda: self._carry_out(request, arrays))

    def close(self) -> None:
        """Free the session and its bindings; a model that others share stays."""
        self._bindings.clear()
        self._loaded = None

    def _carry_out(self, request: SessionRequest, parts: Sequence[Array]) -> Answer:
        match request:
            case RunSession():
                return self._run(request, parts)
            case RunToValues():
                return self._run_to_values(request, parts)
            case Bind():
                self._bind(request.binding, request.changes, parts)
            case RunBinding():
                return self._run_binding(request, parts)
            case NameOutputs():
                bound = self._written(self._bind(request.binding, request.changes, parts))
                return self._space.keep(request.results, list(bound.native.get_outputs()), ())
            case CopyOutputs():
                bound = self._written(self._bind(request.binding, request.changes, parts))
                with engine_raises():
                    results = bound.native.copy_outputs_to_cpu()
                return self._space.values(results, ())
            case EndProfiling():
                return self._end_profiling()
            case Configure():
                return self._configure(request, parts)
        return Answer()

    @property
    def _native(self) -> Any:
        if self._loaded is None:
            raise InvalidArgument("the engine refused this session's model")
        return self._loaded.native

    def _io_binding(self) -> Any:
        if isinstance(self._native, TorchSession):
            return self._native.io_binding()
        return self._space.engine.native.SessionIOBinding(self._native)

    def _fitting(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Inputs that the session's engine takes, as `run` has them."""
        if self._space.engine.torch_device is None or isinstance(self._native, TorchSession):
            return feeds
        return {name: native_feed(value, self._space.engine) for name, value in feeds.items()}

    def _fitting_value(self, stored: Stored) -> Stored:
        """A value that the session's engine takes: one of torch's goes to the CPU for the other engine."""
        if isinstance(self._native, TorchSession):
            return stored
        return Stored(*stored.ort_value.as_native()) if isinstance(stored.ort_value, TensorValue) else stored

    def _run(self, request: RunSession, parts: Sequence[Array]) -> Answer:
        feeds = {name: self._space.contents.feed(value, parts) for name, value in request.feeds.items()}
        options = run_options(self._space.engine, request.settings, self._space.adapters)
        with engine_raises():
            results = self._native.run(list(request.outputs), self._fitting(feeds), options)
        answer = self._space.values(results, parts)
        return replace(answer, kernels=self._native.operators) if isinstance(self._native, TorchSession) else answer

    def _run_to_values(self, request: RunToValues, parts: Sequence[Array]) -> Answer:
        feeds = {name: self._space.contents.transient(value, parts) for name, value in request.feeds.items()}
        options = run_options(self._space.engine, request.settings, self._space.adapters)
        if request.devices:
            return self._run_to_devices(request, feeds, options, parts)
        kept = {name: self._fitting_value(stored) for name, stored in feeds.items()}
        ort_values = {name: stored.ort_value for name, stored in kept.items()}
        with engine_raises():
            results = self._native.run_with_ort_values(ort_values, list(request.outputs), options)
        return self._space.keep(request.results, list(results), parts)

    def _run_to_devices(
        self, request: RunToValues, feeds: Mapping[str, Stored], options: Any, parts: Sequence[Array]
    ) -> Answer:
        if len(request.devices) != len(request.outputs):
            raise InvalidArgument(f"{len(request.devices)} devices for {len(request.outputs)} outputs")
        engine = self._space.engine
        with engine_raises():
            binding = self._io_binding()
            kept = {name: self._fitting_value(stored) for name, stored in feeds.items()}
            for name, stored in kept.items():
                binding.bind_ortvalue_input(name, stored.ort_value)
            for name, device in zip(request.outputs, request.devices, strict=True):
                binding.bind_output(name, engine.device(device))
            self._native.run_with_iobinding(binding, options)
        return self._space.keep(request.results, list(binding.get_outputs()), parts)

    def _run_binding(self, request: RunBinding, parts: Sequence[Array]) -> Answer:
        bound = self._bind(request.binding, request.changes, parts)
        options = run_options(self._space.engine, request.settings, self._space.adapters)
        with engine_raises():
            self._native.run_with_iobinding(bound.native, options)
        bound.unwritten.clear()
        if not request.fetched:
            return Answer()
        outputs = list(bound.native.get_outputs())
        if not all(0 <= place < len(outputs) for place in request.fetched):
            raise InvalidArgument(f"outputs {request.fetched} of a binding with {len(outputs)}")
        contents, packer = self._space.contents, self._space.contents.packer()
        values = tuple(contents.contents(Stored(outputs[place]), packer, raw=True) for place in request.fetched)
        return Answer(_ENCODER.encode(Values(values)), packer.parts)

    def _bind(self, number: int, changes: Sequence[Binding], parts: Sequence[Array]) -> _Bound:
        bound = self._bindings.get(number)
        if bound is None:
            with engine_raises():
                bound = _Bound(self._io_binding())
            self._bindings[number] = bound
        for change in changes:
            match change:
                case BindInput():
                    self._bind_input(bound, change, parts)
                case BindOutput():
                    self._bind_output(bound, change)
                case ClearInputs():
                    bound.native.clear_binding_inputs()
                    bound.inputs.clear()
                case ClearOutputs():
                    bound.native.clear_binding_outputs()
                    bound.outputs.clear()
                    bound.unwritten.clear()
        return bound

    def _written(self, bound: _Bound) -> _Bound:
        """A binding all of whose outputs have memory: the engine itself would read where there is none."""
        if bound.unwritten:
            raise EngineRaised(
                "RuntimeError", f"no run has given the outputs {sorted(bound.unwritten)} of this binding"
            )
        return bound

    def _bind_input(self, bound: _Bound, change: BindInput, parts: Sequence[Array]) -> None:
        contents = self._space.contents
        value = contents.feed(change.contents, parts)
        if isinstance(value, np.ndarray) and not isinstance(change.contents, Held):
            array = np.array(value, order="C")  # the parts are given back after this call
            with engine_raises():
                bound.native.bind_input(change.name, array)
            bound.inputs[change.name] = Stored(None, array)
            return
        stored = self._fitting_value(contents.stored(change.contents, parts, "cpu"))
        with engine_raises():
            bound.native.bind_ortvalue_input(change.name, stored.ort_value)
        bound.inputs[change.name] = stored

    def _bind_output(self, bound: _Bound, change: BindOutput) -> None:
        contents = self._space.contents
        bound.outputs.pop(change.name, None)
        with engine_raises():
            if not change.value and change.allocated is None:
                bound.native.bind_output(change.name, self._space.engine.device(change.device))
                bound.unwritten.add(change.name)
                return
            if change.allocated is not None:
                stored = contents.allocate(change.allocated, change.device)
            else:
                stored = contents.value(change.value)
            if isinstance(stored.ort_value, TensorValue) and not isinstance(self._native, TorchSession):
                raise UnsupportedOperation(
                    f"the output {change.name!r} was bound to memory on cuda, and this model is computed on the"
                    " destination's CPU; bind it to the device, without memory"
                )
            bound.native.bind_ortvalue_output(change.name, stored.ort_value)
        bound.unwritten.discard(change.name)
        bound.outputs[change.name] = stored

    def _end_profiling(self) -> Answer:
        with engine_raises():
            path = self._native.end_profiling()
        packer = self._space.contents.packer()
        name = packer.pack_plain(Path(path).name if path else "")
        if path and self._loaded is not None:
            packer.add(read_profile(self._loaded.profile))
        return Answer(_ENCODER.encode(Values((name,))), packer.parts)

    def _configure(self, request: Configure, parts: Sequence[Array]) -> Answer:
        arguments = unpack_plain(request.arguments, parts)
        method = getattr(self._native, request.method, None)
        if method is None:
            raise UnsupportedOperation(
                f"{request.method} is not known to onnxruntime {self._space.engine.description.version}, which this"
                " destination has"
            )
        if not isinstance(arguments, list):
            raise InvalidArgument(f"{request.method} with {type(arguments).__name__} for arguments")
        with engine_raises():
            said = method(*arguments)
        packer = self._space.contents.packer()
        return Answer(_ENCODER.encode(Values((packer.pack_plain(said),))), packer.parts)
