"""A host's space: the values, adapters and side files that live here, shared by all of its sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from avec.destination.executors import Answer, Model
from avec.destination.executors.onnx.contents import Contents, Stored
from avec.destination.executors.onnx.engine import EngineRaised, OnnxRuntime, engine_raises
from avec.destination.executors.onnx.files import ModelFolder
from avec.errors import InvalidArgument
from avec.protocol.onnx import (
    MODEL,
    Allocate,
    Ask,
    Fetch,
    Info,
    Infos,
    LoadAdapter,
    Put,
    Raised,
    Request,
    SpaceRequest,
    Stage,
    Update,
    Values,
)
from avec.tensor import Array

# What a host may ask of a value that is no dense tensor.
ACCESSORS = frozenset({
    "data_type", "device_name", "element_type", "has_value", "is_sparse_tensor", "is_tensor", "is_tensor_sequence",
    "shape", "tensor_size_in_bytes",
})  # fmt: skip

_REQUESTS: msgspec.msgpack.Decoder[SpaceRequest] = msgspec.msgpack.Decoder(SpaceRequest)
_ENCODER = msgspec.msgpack.Encoder()
R = TypeVar("R")


class Space:
    """Owns what a host keeps here apart from its sessions. See avec.destination.executors.Model."""

    def __init__(self, engine: OnnxRuntime) -> None:
        self.engine = engine
        self.held: dict[int, Stored] = {}
        self.adapters: dict[int, Any] = {}
        self.contents = Contents(engine, self.held)
        self._folders: dict[int, ModelFolder] = {}

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request on values."""
        request = decoded(_REQUESTS, body)
        self.forget(request)
        return answered(lambda: self._carry_out(request, arrays, files))

    def close(self) -> None:
        """Free all that the host kept here."""
        self.held.clear()
        self.adapters.clear()
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()

    def forget(self, request: Request) -> None:
        """Free what the host's objects no longer need."""
        for number in request.dropped:
            self.held.pop(number, None)
            self.adapters.pop(number, None)

    def take_folder(self, number: int) -> ModelFolder:
        """Give a staged folder away; the taker closes it."""
        folder = self._folders.pop(number, None)
        if folder is None:
            raise InvalidArgument(f"folder {number} names nothing in this session")
        return folder

    def keep(self, numbers: Sequence[int], ort_values: Sequence[Any], parts: Sequence[Array]) -> Answer:
        """Make values of results; the answer says what they are."""
        if len(numbers) != len(ort_values):
            raise InvalidArgument(f"{len(numbers)} numbers for {len(ort_values)} results")
        infos: list[Info | None] = []
        for number, ort_value in zip(numbers, ort_values, strict=True):
            self._store(number, self.contents.own(ort_value, parts))
            infos.append(self.contents.info(ort_value))
        return Answer(_ENCODER.encode(Infos(tuple(infos))))

    def values(self, results: Sequence[object], parts: Sequence[Array]) -> Answer:
        """Send results back."""
        packer = self.contents.packer()
        packed = self.contents.results(results, packer, parts)
        return Answer(_ENCODER.encode(Values(packed)), packer.parts)

    def _carry_out(self, request: SpaceRequest, arrays: Sequence[Array], files: Mapping[str, Path]) -> Answer:
        match request:
            case Stage():
                self._stage(request.folder, files)
            case Put():
                self._store(request.value, self.contents.stored(request.contents, arrays, request.device))
            case Allocate():
                info = Info("", request.element_type, request.shape)
                self._store(request.value, self.contents.allocate(info, request.device))
            case Update():
                self.contents.update(self.contents.value(request.value), request.contents, arrays)
            case Fetch():
                packer = self.contents.packer()
                value = self.contents.contents(self.contents.value(request.value), packer, request.raw)
                return Answer(_ENCODER.encode(Values((value,))), packer.parts)
            case Ask():
                return self._ask(request)
            case LoadAdapter():
                self._load_adapter(request.value, files)
        return Answer()

    def _store(self, number: int, stored: Stored) -> None:
        if number in self.held:
            raise InvalidArgument(f"value {number} is in use")
        self.held[number] = stored

    def _stage(self, number: int, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            if number not in self._folders:
                self._folders[number] = ModelFolder(path)
            self._folders[number].add(name, path)

    def _ask(self, request: Ask) -> Answer:
        if request.accessor not in ACCESSORS:
            raise InvalidArgument(f"a value cannot be asked for {request.accessor[:40]!r}")
        value = self.contents.value(request.value).ort_value
        with engine_raises():
            said = getattr(value, request.accessor)()
        packer = self.contents.packer()
        return Answer(_ENCODER.encode(Values((packer.pack_plain(said),))), packer.parts)

    def _load_adapter(self, number: int, files: Mapping[str, Path]) -> None:
        if MODEL not in files:
            raise InvalidArgument("loading a LoRA adapter: the request names no file")
        with engine_raises():
            adapter = self.engine.native.LoraAdapter()
            adapter.Load(str(files[MODEL]))
        self.adapters[number] = adapter


def decoded(decoder: msgspec.msgpack.Decoder[R], body: bytes) -> R:
    """Decode a request.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument(f"a request to the ONNX executor cannot be understood: {exc}") from exc


def answered(carry_out: Callable[[], Answer]) -> Answer:
    """Carry out a request; what the engine raises is an answer as well."""
    try:
        return carry_out()
    except EngineRaised as exc:
        return Answer(_ENCODER.encode(Raised(exc.exception, exc.text)))
