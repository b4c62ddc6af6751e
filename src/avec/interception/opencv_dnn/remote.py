"""One object of OpenCV's at the destination. Calls whose result nobody looks at wait to go along with the next."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2

from avec import config
from avec.errors import SessionLost, UnsupportedOperation
from avec.host.models import provide
from avec.interception import session
from avec.protocol.opencv_dnn import (
    FORMAT,
    File,
    Invocation,
    Invoke,
    Make,
    Other,
    Record,
    Reserve,
    Value,
    decode_value,
    encode_body,
    pack,
)
from avec.tensor import Array

from .arguments import Fields, ModelFile, UnsendableArgument
from .effects import Effects
from .failures import as_opencv

if TYPE_CHECKING:
    from avec.host.calls import Call
    from avec.host.session import Session

COPY_LIMIT = 1 << 20  # bytes; copying less takes less than the hand-over to the sending thread of a message more
DEFERRED_LIMIT = 32  # calls that wait for the next; a program that never looks at a result must not pile them up


class Pending:
    """The result of a call that is under way."""

    def __init__(self, call: Call, finish: Callable[[], object]) -> None:
        """Take note of a call; `finish` waits for it and gives its result."""
        self._call = call
        self.wait = finish

    @property
    def done(self) -> bool:
        """Whether `wait` would not block."""
        return self._call.done

    def wait_ended(self, timeout_s: float | None) -> None:
        """Block until the result is here, or the time is over."""
        self._call.wait_ended(timeout_s)


class Remote(Protocol):
    """What does the work behind an object that the application holds."""

    def invoke(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> object:
        """Call a method; blocks for its result.

        Raises:
            UnsendableArgument: an argument is nothing that OpenCV would take.
            cv2.error: the call failed, or one before it that nobody has waited for.
            DestinationError: the destination failed.
        """

    def defer(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """Call a method whose result nobody looks at. Returns when the arguments may change. Raises as `invoke`."""

    def issue(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Pending:
        """Call a method without waiting, with arguments that do not change. Raises as `invoke`."""

    def flush(self) -> None:
        """Send what has been deferred."""


class RemoteObject:
    """Owns the handle of one object; released when nobody refers to this any more. Used by one thread at a time."""

    def __init__(self, what: str, uses: Sequence[RemoteObject] = ()) -> None:
        """Take a handle for an object that `make` will make.

        Args:
            what: for messages: "the net of face.onnx".
            uses: objects that it will use.
        """
        self._session = _session()
        self._what = what
        self._process = os.getpid()
        self._uses = uses
        self._deferred: list[Invocation] = []
        self._parts: list[Array] = []  # of the deferred calls
        self.number = self._session.new_handle()
        self._effects = Effects(self.number, [each.number for each in uses])
        for each in uses:
            each._effects.used = True
        weakref.finalize(self, self._session.release, self.number).atexit = False

    def make(self, method: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Have the object made; blocks until it is.

        Args:
            method: what makes it, see destination/executors/opencv_dnn/surface.py.
            args: they may hold ModelFiles and RemoteObjects.

        Raises:
            UnsendableArgument: an argument is nothing that OpenCV would take.
            cv2.error: OpenCV cannot make it.
            DestinationError: the destination failed.
        """
        making = _Making(self._session)
        with as_opencv():
            body = encode_body(Make(making.call(method, args, kwargs), cv2.__version__), making.parts)
            if making.others:
                self._session.load(self.number, FORMAT, encode_body(Reserve(), []))
                handles = [other.number for other in making.others]
                call = self._session.run(self.number, "opencv.make", body, making.parts, making.files, handles=handles)
            else:
                call = self._session.load(self.number, FORMAT, body, making.parts, making.files)
            call.wait()

    def invoke(self, method: str, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None) -> object:
        """See Remote."""
        return self.issue(method, args, kwargs).wait()

    def issue(self, method: str, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None) -> Pending:
        """See Remote."""
        self._pack(method, args, kwargs or {})
        call = self._send(f"opencv.{method}")
        return Pending(call, lambda: _result_of(call))

    def defer(self, method: str, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None) -> None:
        """See Remote."""
        before = len(self._parts)
        self._pack(method, args, kwargs or {})
        if sum(part.nbytes for part in self._parts[before:]) > COPY_LIMIT:
            self._send(f"opencv.{method}").wait_sent()
            return
        self._parts[before:] = [part.copy() for part in self._parts[before:]]
        if len(self._deferred) >= DEFERRED_LIMIT:
            self.flush()

    def flush(self) -> None:
        """See Remote."""
        if self._deferred:
            self._send(f"opencv.{self._deferred[-1].method}")

    def _pack(self, method: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        before = len(self._parts)
        try:
            packed = tuple(pack(_in_memory(each), self._parts, _unsendable) for each in args)
            named = {name: pack(_in_memory(each), self._parts, _unsendable) for name, each in kwargs.items()}
        except (TypeError, ValueError) as exc:
            del self._parts[before:]
            raise UnsendableArgument(f"cv2: {method}: {exc}") from exc
        self._deferred.append(Invocation(method, packed, named))

    def _send(self, name: str) -> Call:
        if os.getpid() != self._process:
            raise SessionLost(
                f"{self._what} belongs to process {self._process}, and this is its child {os.getpid()}; "
                "read the model in the process that uses it"
            )
        for used in self._uses:
            used.flush()
        calls, parts = tuple(self._deferred), self._parts
        self._deferred, self._parts = [], []
        body = encode_body(Invoke(calls), parts)
        return self._session.run(self.number, name, body, parts, effect=self._effects.of(calls))


class _Making:
    """What goes along with a request to make an object: arrays, files that the destination has, other objects."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.parts: list[Array] = []
        self.files: dict[str, str] = {}  # role → digest
        self.others: list[RemoteObject] = []

    def call(self, method: str, args: Sequence[object], kwargs: Mapping[str, object]) -> Invocation:
        try:
            packed = tuple(pack(each, self.parts, self._special) for each in args)
            named = {name: pack(each, self.parts, self._special) for name, each in kwargs.items()}
        except ValueError as exc:
            raise UnsendableArgument(f"cv2: {method}: {exc}") from exc
        return Invocation(method, packed, named)

    def _special(self, value: object) -> Value:
        match value:
            case ModelFile():
                beside = {name: self._provide(path) for name, path in value.beside.items()}
                return File(self._provide(value.source), value.written, beside)
            case Fields():
                fields = {name: pack(each, self.parts, self._special) for name, each in value.values.items()}
                return Record(value.kind, fields)
            case RemoteObject():
                value.flush()
                self.others.append(value)
                return Other(len(self.others) - 1)
            case _:
                return _unsendable(value)

    def _provide(self, source: Path | bytes) -> str:
        role = str(len(self.files))
        self.files[role] = provide(self._session, source, config.load())
        return role


def _result_of(call: Call) -> object:
    """Wait for a call and give OpenCV's result; a layer is given as a dictionary."""
    with as_opencv():
        reply = call.wait()
    return decode_value(reply.body, reply.arrays, _described)


def _described(value: Record | File | Other) -> object:
    if isinstance(value, Record) and value.kind == "Layer":
        return value.fields
    raise TypeError(f"a destination answered with a {type(value).__name__}")


def _in_memory(value: object) -> object:
    return value.get() if isinstance(value, cv2.UMat) else value


def _unsendable(value: object) -> Value:
    raise UnsendableArgument(f"a {type(value).__name__} cannot be sent to a destination")


def _session() -> Session:
    opened = session()
    if FORMAT not in opened.welcome.formats:
        raise UnsupportedOperation(
            f"{opened.url} has no OpenCV to run this with, only {', '.join(opened.welcome.formats)}; "
            "install opencv-python-headless at the destination"
        )
    return opened


__all__ = ["Pending", "Remote", "RemoteObject"]
