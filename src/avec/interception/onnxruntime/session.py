"""An inference session at a destination, in the place of the native one under onnxruntime's own InferenceSession."""

from __future__ import annotations

import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from avec.errors import ProtocolError, UnsupportedOperation
from avec.protocol.onnx import (
    MODEL,
    Configure,
    Device,
    EndProfiling,
    LoadSession,
    Raised,
    RunSession,
    RunToValues,
    SessionDescription,
    SessionRequest,
)
from avec.protocol.onnx_values import Packer, unpack
from avec.tensor import Array

from . import contents, values
from .asking import folder_of_side_files, optimized_model, run_settings, session_options
from .completion import when_done
from .descriptions import ModelMetadata, NodeArg, model_metadata, node_args
from .library import CPU, CUDA, library
from .model_files import provide_model
from .options import recorded
from .production import Results
from .space import Pending, space
from .values import NativeValue, RemoteVector, device_of

NO_CUDA = "computed on the destination's CPU: onnxruntime has no CUDA there"
WARNED_LEVEL = 5  # frames from here to the application's call of InferenceSession
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")  # what an exception has before its status's text
_ENCODER = msgspec.msgpack.Encoder()
_DESCRIPTIONS = msgspec.msgpack.Decoder(SessionDescription)
_RAISED = msgspec.msgpack.Decoder(Raised)

Callback = Callable[[list[Any], Any, str], object]


class RemoteSession:
    """Stands for a native InferenceSession; the public one holds it and calls it from any thread."""

    def __init__(self, session_options: Any, model: str | bytes, is_path: bool, read_config: bool = False) -> None:
        """Take note of a model; `initialize_session` loads it.

        Raises:
            NoSuchFile, TypeError: as the native class, which is asked where there is nothing that could be loaded.
        """
        readable = isinstance(model, bytes) or (isinstance(model, str) and os.path.isfile(model))
        if not readable or is_path != isinstance(model, str):
            library().session(session_options, model, is_path, read_config)  # raises: there is no such file
        elif not isinstance(session_options, library().native.SessionOptions):
            library().session(session_options, b"", False, read_config)  # raises: no options
        self.session_options = session_options
        self._model = model
        self._read_config = read_config

    def initialize_session(
        self,
        providers: Sequence[str],
        provider_options: Sequence[Mapping[str, str]],
        disabled_optimizers: Iterable[str],
    ) -> None:
        """Have the model loaded at the destination; blocks.

        Raises:
            What onnxruntime raises about the model, from there; UnsupportedOperation: an option cannot be forwarded.
        """
        asked = list(zip(providers, provider_options, strict=False)) or recorded(self.session_options).providers
        self.space = space()
        packer = contents.packer(self.space)
        chosen = session_options(self.session_options, packer, self.space)
        provided = provide_model(self.space, self._model, folder_of_side_files(self.session_options))
        request = LoadSession(
            source=self._model if isinstance(self._model, str) else "",
            staged=provided.folder,
            options=chosen,
            providers=tuple((name, dict(given)) for name, given in asked),
            disabled_optimizers=tuple(sorted(disabled_optimizers)),
            read_config_from_model=self._read_config,
            side_folder=provided.side_folder,
        )
        self.handle = self.space.session.new_handle()
        weakref.finalize(self, self.space.release, self.handle).atexit = False
        files = {MODEL: provided.digest}
        reply = self.space.load(self.handle, request, packer.parts, files, provided.remembers).wait()
        if reply.body:
            raised = _RAISED.decode(reply.body)
            raise library().raised(raised.exception, raised.text)
        self._describe(reply.arrays, asked)

    def run(self, output_names: Sequence[str], input_feed: Mapping[str, object], run_options: Any = None) -> list[Any]:
        """Compute outputs; waits for them."""
        return self._results(self._start(output_names, input_feed, run_options))

    def run_async(
        self,
        output_names: Sequence[str],
        input_feed: Mapping[str, object],
        callback: Callback,
        user_data: Any,
        run_options: Any = None,
    ) -> None:
        """Compute outputs; `callback` gets them, or the text of an error, on another thread."""
        pending = self._start(output_names, input_feed, run_options)
        pending.wait_sent()

        def finish() -> None:
            results: list[Any] = []
            error = ""
            try:
                results = self._results(pending)
            except Exception as exc:  # whatever it is, the callback is the place that it is told at
                error = _STATUS.sub("", str(exc), count=1) or type(exc).__name__
            callback(results, user_data, error)

        when_done(finish)

    def run_with_ort_values(
        self, feed: Mapping[str, NativeValue], output_names: Sequence[str], run_options: Any = None
    ) -> RemoteVector:
        """Compute outputs, which stay at the destination until they are looked at; does not wait."""
        if not _are_names(output_names) or not _is_run_options(run_options):
            library().session.run_with_ort_values(self, feed, output_names, run_options)
        return self._to_values(output_names, feed, run_options, ())

    def run_with_ortvaluevector(
        self,
        run_options: Any,
        feed_names: Sequence[str],
        feeds: Sequence[NativeValue],
        fetch_names: Sequence[str],
        fetches: RemoteVector,
        fetch_devices: Sequence[Any],
    ) -> None:
        """Compute outputs into a vector of values."""
        devices = tuple(device_of(each) or "cpu" for each in fetch_devices)
        made = self._to_values(fetch_names, dict(zip(feed_names, feeds, strict=True)), run_options, devices)
        fetches[:] = made

    def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
        """Compute what a binding says; waits only where outputs go to memory of this machine."""
        if not _is_run_options(run_options):
            library().session.run_with_iobinding(self, binding, run_options)
        binding.run(run_settings(run_options, self.space))

    def end_profiling(self) -> str:
        """Bring the profile here, under the name that it would have got; empty when profiling is off."""
        (name,), parts = self.send("end_profiling", EndProfiling()).values()
        basename = str(unpack(name, parts, _nothing_foreign))
        if not basename:
            return ""
        prefix = self.session_options.profile_file_prefix
        path = os.path.join(os.path.dirname(prefix), os.path.basename(basename))
        parts[-1].tofile(path)
        return path

    def get_tuning_results(self) -> Any:
        """What the engine has tuned."""
        return self._configure("get_tuning_results")

    def set_tuning_results(self, results: Any, error_on_invalid: bool = False) -> None:
        """Give the engine what was tuned before."""
        self._configure("set_tuning_results", results, error_on_invalid)

    def set_ep_dynamic_options(self, given: Mapping[str, str]) -> None:
        """Change options of execution providers."""
        self._configure("set_ep_dynamic_options", dict(given))

    def get_provider_graph_assignment_info(self) -> Any:
        """Refused: it consists of the engine's own objects."""
        raise UnsupportedOperation(
            "get_provider_graph_assignment_info cannot be forwarded: it tells of nodes by objects of the engine's"
        )

    def get_providers(self) -> list[str]:
        """What the application asked for, as on a machine with a GPU."""
        return list(self._provider_options)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options of each provider."""
        return {name: dict(given) for name, given in self._provider_options.items()}

    def is_webgpu_graph_capture_enabled(self) -> bool:
        """There is no WebGPU."""
        return False

    def webgpu_context_id(self) -> int:
        """There is no WebGPU."""
        return -1

    def release_captured_graph(self, graph: int = 0) -> None:
        """There is no graph captured on this host's behalf."""

    def create_ortvalue_from_shape_and_type(self, shape: list[int], element_type: object, device: Any) -> NativeValue:
        """Make an OrtValue of undefined contents."""
        return values.from_shape_and_type(shape, element_type, device)

    def create_ortvalue_from_shape_and_onnx_type(self, shape: list[int], element_type: int, device: Any) -> NativeValue:
        """Make an OrtValue of undefined contents, of a type that only ONNX names."""
        return values.from_shape_and_onnx_type(shape, element_type, device)

    @property
    def on_cuda(self) -> bool:
        """Whether the application asked for a GPU, so that inputs are copied when they are bound."""
        return CUDA in self._provider_options

    @property
    def input_meminfos(self) -> list[Any]:
        """Where inputs are taken from."""
        return self._memory_infos(len(self.inputs_meta))

    @property
    def output_meminfos(self) -> list[Any]:
        """Where outputs are made."""
        return self._memory_infos(len(self.outputs_meta))

    @property
    def input_epdevices(self) -> list[Any]:
        """This machine's CPU: that of the destination has no object here."""
        devices = library().native.get_ep_devices()
        return [next((each for each in devices if each.ep_name == CPU), None)] * len(self.inputs_meta)

    @cached_property
    def input_names(self) -> frozenset[str]:
        """The names that can be fed."""
        return frozenset(each.name for each in (*self.inputs_meta, *self.overridable_initializers))

    def send(self, name: str, request: SessionRequest, parts: Sequence[Array] = ()) -> Pending:
        """Send a request about this session."""
        return self.space.run(name, request, parts, handle=self.handle)

    def _start(self, names: Sequence[str], feed: Mapping[str, object], run_options: Any) -> Pending:
        if not (
            _are_names(names) and _is_run_options(run_options) and isinstance(feed, Mapping) and _are_names(list(feed))
        ):
            library().session.run(self, names, feed, run_options)  # raises: that is no call of it
        packer = contents.packer(self.space)
        feeds = {name: packer.pack(value) for name, value in feed.items()}
        request = RunSession(outputs=tuple(names), feeds=feeds, settings=run_settings(run_options, self.space))
        return self.send("run", request, packer.parts)

    def _results(self, pending: Pending) -> list[Any]:
        packed, parts = pending.values()
        return [unpack(each, parts, lambda known: contents.native_object(known, parts)) for each in packed]

    def _to_values(
        self, names: Sequence[str], feed: Mapping[str, NativeValue], run_options: Any, devices: Sequence[Device]
    ) -> RemoteVector:
        packer = contents.packer(self.space)
        feeds = {name: contents.pack_value(value, packer, self.space) for name, value in feed.items()}
        results = Results()
        made = results.expect(self.space, devices or ["cpu"] * len(names))
        request = RunToValues(
            outputs=tuple(names),
            feeds=feeds,
            settings=run_settings(run_options, self.space),
            results=results.numbers,
            devices=tuple(devices),
        )
        pending = self.send("run_with_ort_values", request, packer.parts)
        results.sent(pending)
        if packer.parts:
            pending.wait_sent()
        return made

    def _configure(self, method: Any, *arguments: object) -> Any:
        packer: Packer = contents.packer(self.space)
        request = Configure(method=method, arguments=packer.pack_plain(list(arguments)))
        (said,), parts = self.send(method, request, packer.parts).values()
        return unpack(said, parts, _nothing_foreign)

    def _memory_infos(self, count: int) -> list[Any]:
        native = library().native
        name, kind = (
            ("Cuda", native.OrtAllocatorType.ORT_ARENA_ALLOCATOR)
            if self.on_cuda
            else ("Cpu", native.OrtAllocatorType.ORT_DEVICE_ALLOCATOR)
        )
        return [native.OrtMemoryInfo(name, kind, 0, native.OrtMemType.DEFAULT) for _ in range(count)]

    def _describe(self, parts: Sequence[Array], asked: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        if not parts:
            raise ProtocolError("the destination described no session")
        try:
            described = _DESCRIPTIONS.decode(parts[0].data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise ProtocolError(f"the destination's description of a session cannot be understood: {exc}") from exc
        if len(parts) > 1:
            parts[1].tofile(optimized_model(self.session_options))
        self.inputs_meta: list[NodeArg] = node_args(described.inputs)
        self.outputs_meta: list[NodeArg] = node_args(described.outputs)
        self.overridable_initializers: list[NodeArg] = node_args(described.overridable_initializers)
        self.model_meta: ModelMetadata = model_metadata(described.metadata)
        self.engine, self.note = described.engine, described.note
        if self.space.session.accelerator.kind == "cuda" and CUDA not in described.providers:
            warnings.warn(f"avec: this model is {described.note or NO_CUDA}", UserWarning, stacklevel=WARNED_LEVEL)
        self.get_profiling_start_time_ns = described.profiling_start_ns
        names = [name for name, _ in asked if name in (CUDA, CPU)] or [CUDA]
        given = dict(asked)
        self._provider_options = {
            name: described.provider_options.get(name) or _options_of(name, given.get(name, {}))
            for name in dict.fromkeys([*names, CPU])
        }


def _options_of(name: str, given: Mapping[str, str]) -> dict[str, str]:
    return {"device_id": "0", **given} if name == CUDA else dict(given)


def _are_names(names: object) -> bool:
    return (
        isinstance(names, Sequence)
        and not isinstance(names, str | bytes)
        and all(isinstance(each, str) for each in names)
    )


def _is_run_options(given: object) -> bool:
    return given is None or isinstance(given, library().native.RunOptions)


def _nothing_foreign(known: object) -> object:
    raise ProtocolError(f"the destination answered with a {type(known).__name__} where a plain value is due")
