"""One object of OpenCV's at a destination, and the requests that it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec

from avec.destination.executors import Answer, Model
from avec.destination.executors.opencv_dnn import dialects
from avec.destination.executors.opencv_dnn.choices import choose_for_maker, computing
from avec.destination.executors.opencv_dnn.files import ModelFiles
from avec.destination.executors.opencv_dnn.surface import RECORDS, maker, method
from avec.errors import AcceleratorOutOfMemory, InvalidArgument, UnsupportedOperation
from avec.protocol.opencv_dnn import (
    File,
    Invocation,
    Invoke,
    Make,
    OpenCvError,
    OpenCvTypeError,
    Other,
    Record,
    RunRequest,
    Value,
    encode_body,
    pack,
    unpack,
    unpack_all,
    whole_body,
)
from avec.tensor import Array

_REQUESTS: msgspec.msgpack.Decoder[RunRequest] = msgspec.msgpack.Decoder(RunRequest)
# Methods that are done with their arrays when they return. Others may keep them, but the memory is a call's only.
_KEEP_NOTHING = frozenset(
    """
    alignCrop classify detect detectTextRectangles estimate feature predict recognize segment setInput update
    """.split()
)
_LAYER_FIELDS = ("name", "type", "preferableTarget")


class OpenCvObject:
    """A net, or something that uses one; empty until it is made. See avec.destination.executors.Model."""

    def __init__(self, cuda: bool) -> None:
        """Reserve a place for an object.

        Args:
            cuda: whether the OpenCV here can use the accelerator.
        """
        self._cuda = cuda
        self._made: Any = None
        self._kind = ""
        self._host = dialects.HERE

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request."""
        encoded, parts = whole_body(body, arrays)
        try:
            request = _REQUESTS.decode(encoded)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise InvalidArgument(f"a request to OpenCV cannot be understood: {exc}") from exc
        if isinstance(request, Make):
            self.make(request, parts, files, others)
            return Answer()
        return self._invoke(request, parts)

    def make(self, request: Make, parts: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model]) -> None:
        """Make the object.

        Raises:
            OpenCvError: OpenCV says what is wrong with the model or the arguments.
            InvalidArgument, UnsupportedOperation: no host may call that, or the OpenCV here cannot.
        """
        if self._kind:
            raise InvalidArgument(f"this handle names a {self._kind} already")
        made = maker(request.call)
        host = request.version.partition(".")[0]
        self._host = int(host) if host.isdigit() else dialects.HERE
        with ModelFiles(files) as model_files, _converted(model_files.as_on_host):
            given = _Given(_Copies(parts), model_files, others, self._cuda)
            args, kwargs = given.arguments(request.call)
            choose_for_maker(request.call, args, kwargs, self._cuda)
            adapted, kwargs = dialects.reading(made.name, self._host, args, kwargs)
            self._made, self._kind = made.call(*adapted, **kwargs), made.kind
            if self._cuda and self._kind == "Net":
                self._made.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
                self._made.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA)

    @property
    def made(self) -> Any:
        """OpenCV's own object."""
        return self._made

    def close(self) -> None:
        """Let go of the object; others that use it keep it alive."""
        self._made = None

    def _invoke(self, request: Invoke, parts: Sequence[Array]) -> Answer:
        if not self._kind:
            raise InvalidArgument("this handle names nothing of OpenCV's yet")
        result: object = None
        for call in request.calls:
            result = self._call(call, parts)
        results: list[Array] = []
        value = pack(result, results, _described)
        return Answer(encode_body(value, results), results)

    def _call(self, call: Invocation, parts: Sequence[Array]) -> object:
        if call.method not in _KEEP_NOTHING:
            parts = _Copies(parts)
        args = [unpack(each, parts) for each in call.args]
        kwargs = unpack_all(call.kwargs, parts, None)
        function = method(self._made, self._kind, call.method)
        if call.method in ("setPreferableBackend", "setPreferableTarget"):
            args = [computing(call.method, each, self._cuda) for each in args]
            kwargs = {name: computing(name, each, self._cuda) for name, each in kwargs.items()}
        elif call.method == "forward" and self._kind == "Net":
            function = dialects.forward(self._made, self._host)
        elif call.method == "setInput":
            function = dialects.set_input(self._made, self._host)
        with _converted():
            result = function(*args, **kwargs)
        if isinstance(result, cv2.dnn.Model):  # setters of models give the model itself
            return None
        return result


class _Copies(Sequence[Array]):
    """The parts of a message, each copied when it is taken: OpenCV may keep what the next message overwrites."""

    def __init__(self, parts: Sequence[Array]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: Any) -> Any:
        return self._parts[index].copy()


class _Given:
    """What came with a request to make an object, and what values in it stand for."""

    def __init__(
        self,
        parts: Sequence[Array],
        files: ModelFiles,
        others: Sequence[Model],
        cuda: bool,
    ) -> None:
        self._parts = parts
        self._files = files
        self._others = others
        self._cuda = cuda

    def arguments(self, call: Invocation) -> tuple[list[object], dict[str, Any]]:
        args = [unpack(each, self._parts, self._special) for each in call.args]
        return args, unpack_all(call.kwargs, self._parts, self._special)

    def _special(self, value: Record | File | Other) -> object:
        match value:
            case File():
                return self._files.argument(value)
            case Other(index):
                return _other(self._others, index)
            case Record():
                return self._record(value)

    def _record(self, value: Record) -> Any:
        if value.kind not in RECORDS or not hasattr(cv2, value.kind):
            raise InvalidArgument(f"no host may make a cv2.{value.kind} at a destination")
        record = getattr(cv2, value.kind)()
        for name, field in unpack_all(value.fields, self._parts, self._special).items():
            if name.startswith("_") or not hasattr(record, name):
                raise InvalidArgument(f"cv2.{value.kind} has no field {name!r}")
            setattr(record, name, computing(name, field, self._cuda))
        return record


def _other(others: Sequence[Model], index: int) -> Any:
    other = others[index] if 0 <= index < len(others) else None
    if not isinstance(other, OpenCvObject) or other.made is None:
        raise InvalidArgument(f"object {index} of a request with {len(others)} is none of OpenCV's")
    return other.made


def _described(value: object) -> Value:
    if isinstance(value, cv2.dnn.Layer):
        return Record("Layer", {name: getattr(value, name) for name in _LAYER_FIELDS})  # blobs are asked for apart
    raise UnsupportedOperation(f"OpenCV gave a {type(value).__name__}, which cannot leave the destination")


@contextmanager
def _converted(translate: Callable[[str], str] = str) -> Iterator[None]:
    """Turn what OpenCV raises into errors that the host understands."""
    try:
        yield
    except cv2.error as exc:
        text = translate(str(exc))
        if exc.code == cv2.Error.StsNoMem or exc.code == cv2.Error.GpuApiCallError and "out of memory" in text:
            raise AcceleratorOutOfMemory(text) from exc
        raise OpenCvError(text) from exc
    except TypeError as exc:
        raise OpenCvTypeError(translate(str(exc))) from exc
    except SystemError as exc:  # a constructor of OpenCV's raised: the binding reports it in this way
        cause = exc.__cause__ or exc.__context__
        if isinstance(cause, cv2.error):
            raise OpenCvError(translate(str(cause))) from exc
        raise
