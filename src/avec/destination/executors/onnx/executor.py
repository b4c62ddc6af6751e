"""Loads ONNX models: makes a host's space and its sessions; sessions that are loaded alike share one model."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch

from avec import config
from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer
from avec.destination.executors.onnx.choice import choose
from avec.destination.executors.onnx.engine import CPU, CUDA, EngineRaised, OnnxRuntime, engine_raises
from avec.destination.executors.onnx.files import ModelFolder
from avec.destination.executors.onnx.options import OPTIMIZED_MODEL, PROFILING, session_options
from avec.destination.executors.onnx.session import InferenceSession, Loaded, keep
from avec.destination.executors.onnx.space import Space, answered, decoded
from avec.destination.executors.onnx.torch_engine.session import TorchSession
from avec.errors import InvalidArgument
from avec.protocol.onnx import MODEL, Argument, Engine, LoadSession, Metadata, OpenSpace, SessionDescription
from avec.tensor import Array

_LOADS: msgspec.msgpack.Decoder[OpenSpace | LoadSession] = msgspec.msgpack.Decoder(OpenSpace | LoadSession)
_ENCODER = msgspec.msgpack.Encoder()
SIDE_MODEL = ".model.onnx"  # the model's own name in a folder with its side files

# What makes two loads alike: the model's file, its side files, and all that was asked for.
_Likeness: TypeAlias = tuple[tuple[int, int], tuple[tuple[str, tuple[int, int]], ...], bytes]

log = logging.getLogger("avec.destination")


class OnnxExecutor:
    """Makes sessions on one accelerator. See avec.destination.executors.Executor."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._engine: OnnxRuntime | None = None
        self._space: Space | None = None
        self._loaded: weakref.WeakValueDictionary[_Likeness, Loaded] = weakref.WeakValueDictionary()

    def load(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]
    ) -> tuple[Space | InferenceSession, Answer]:
        """Make the host's space (OpenSpace), or a session (LoadSession, with the model in files["model"]).

        Raises:
            InvalidArgument: the request itself is wrong.
            UnsupportedOperation: it asks for what cannot be forwarded.
        """
        request = decoded(_LOADS, body)
        if isinstance(request, OpenSpace):
            self._space = Space(self._started())
            return self._space, Answer(_ENCODER.encode(self._started().description))
        if self._space is None:
            raise InvalidArgument("a session is asked for before the space that it needs")
        if MODEL not in files:
            raise InvalidArgument(f"loading {request.source!r}: the request names no model file")
        return self._load_session(self._space, request, arrays, files[MODEL])

    def _started(self) -> OnnxRuntime:
        if self._engine is None:
            self._engine = OnnxRuntime(self._accelerator, config.load().onnx_engine)
            log.info("onnx models: %s", self._engine.summary)
        return self._engine

    def _load_session(
        self, space: Space, request: LoadSession, parts: Sequence[Array], model: Path
    ) -> tuple[InferenceSession, Answer]:
        folder = space.take_folder(request.staged) if request.staged else None
        try:
            session: list[InferenceSession] = []
            answer = answered(lambda: self._make(space, request, parts, model, folder, session))
        finally:
            if folder is not None:
                folder.close()
        # A session that the engine refused has a handle all the same: the host releases it.
        return session[0] if session else InferenceSession(space, None), answer

    def _make(
        self,
        space: Space,
        request: LoadSession,
        parts: Sequence[Array],
        model: Path,
        folder: ModelFolder | None,
        made: list[InferenceSession],
    ) -> Answer:
        likeness = _likeness(request, model, folder)
        loaded = self._loaded.get(likeness) if likeness else None
        optimized: Array | None = None
        if loaded is None:
            loaded, optimized = self._start_session(space, request, parts, model, folder)
            if likeness:
                self._loaded[likeness] = loaded
        made.append(InferenceSession(space, loaded))
        return self._description(space, loaded, optimized)

    def _start_session(
        self, space: Space, request: LoadSession, parts: Sequence[Array], model: Path, folder: ModelFolder | None
    ) -> tuple[Loaded, Array | None]:
        """Make a native session; with it comes the optimized model, where that was asked for."""
        engine = space.engine
        path = folder.add(SIDE_MODEL, model) if folder else model
        providers = engine.providers(request.providers)
        options = session_options(engine, space.contents, request, parts, folder.path if folder else None)
        try:
            with engine_raises():
                if request.source:
                    native = engine.native.InferenceSession(
                        options.native, str(path), True, request.read_config_from_model
                    )
                else:
                    native = engine.native.InferenceSession(
                        options.native, path.read_bytes(), False, request.read_config_from_model
                    )
                native.initialize_session(
                    [name for name, _ in providers],
                    [chosen for _, chosen in providers],
                    set(request.disabled_optimizers),
                )
            written = options.optimized
            optimized = np.fromfile(written, np.uint8) if written is not None and written.exists() else None
            session, note = choose(engine, native, path, folder.path if folder else None, request)
            return keep(session, options, note), optimized
        except EngineRaised as exc:
            raise EngineRaised(exc.exception, _as_on_host(exc.text, request, path, folder)) from exc
        finally:
            options.close()

    def _description(self, space: Space, loaded: Loaded, optimized: Array | None) -> Answer:
        native = loaded.native
        meta = native.model_meta
        description = SessionDescription(
            inputs=_arguments(native.inputs_meta),
            outputs=_arguments(native.outputs_meta),
            overridable_initializers=_arguments(native.overridable_initializers),
            metadata=Metadata(
                meta.producer_name,
                meta.graph_name,
                meta.domain,
                meta.description,
                meta.graph_description,
                meta.version,
                dict(meta.custom_metadata_map),
            ),
            engine=_engine_of(space.engine, native),
            providers=_providers_of(native),
            provider_options=native.get_provider_options(),
            profiling_start_ns=native.get_profiling_start_time_ns,
            note=loaded.note,
        )
        parts = [np.frombuffer(_ENCODER.encode(description), np.uint8)]
        if optimized is not None:
            parts.append(optimized)
        return Answer(arrays=parts)


def _engine_of(engine: OnnxRuntime, native: object) -> Engine:
    return Engine("torch", str(torch.__version__), (CUDA,)) if isinstance(native, TorchSession) else engine.description


def _providers_of(native: Any) -> tuple[str, ...]:
    return (CUDA, CPU) if isinstance(native, TorchSession) else tuple(native.get_providers())


def _arguments(native: Sequence[object]) -> tuple[Argument, ...]:
    return tuple(Argument(each.name, each.type, tuple(each.shape)) for each in native)  # type: ignore[attr-defined]


def _likeness(request: LoadSession, model: Path, folder: ModelFolder | None) -> _Likeness | None:
    """What a session may be shared by; None where it has state of its own."""
    options = request.options
    if options.initializers or options.memory_files or {PROFILING, OPTIMIZED_MODEL} & set(options.attributes):
        return None
    status = model.stat()
    same = msgspec.structs.replace(request, staged=0)
    side_files = tuple(sorted(folder.contents.items())) if folder else ()
    return (status.st_dev, status.st_ino), side_files, _ENCODER.encode(same)


def _as_on_host(text: str, request: LoadSession, path: Path, folder: ModelFolder | None) -> str:
    """Name files in a message as the application knows them."""
    text = text.replace(str(path), request.source)
    return text.replace(str(folder.path if folder else path.parent), request.side_folder or ".")
