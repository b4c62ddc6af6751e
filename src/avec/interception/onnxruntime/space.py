"""This process's space at a destination: how requests get there, and how what they give comes back.

One space for each session with a destination. Numbers of values and bindings that the application no longer refers to
ride along with the next request.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from avec.errors import ProtocolError, SessionLost
from avec.interception.active import session as active_session
from avec.protocol.onnx import (
    Answered,
    Infos,
    LoadSession,
    OpenSpace,
    Raised,
    Request,
    SessionRequest,
    SpaceRequest,
    Value,
    Values,
)
from avec.tensor import Array

from .effects import Effects
from .library import library

if TYPE_CHECKING:
    from avec.host.calls import Call
    from avec.host.session import Session

FORMAT = "onnx"
_ENCODER = msgspec.msgpack.Encoder()
_ANSWERS: msgspec.msgpack.Decoder[Answered] = msgspec.msgpack.Decoder(Answered)
_DROPPED_LIMIT = 4096  # numbers in one request, so that it stays small


class Pending:
    """One request under way."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def answer(self) -> tuple[Values | Infos | None, tuple[Array, ...]]:
        """Block until the answer is here.

        Raises:
            What the engine raised, as onnxruntime's own exception; AvecError: the call could not be carried out.
        """
        reply = self._call.wait()
        if not reply.body:
            return None, reply.arrays
        try:
            answered = _ANSWERS.decode(reply.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise ProtocolError(f"the destination's answer to {self._call.name} cannot be understood: {exc}") from exc
        if isinstance(answered, Raised):
            raise library().raised(answered.exception, answered.text)
        return (answered if isinstance(answered, Values | Infos) else None), reply.arrays

    def values(self) -> tuple[tuple[Value, ...], tuple[Array, ...]]:
        """Block until values are here, with the parts that they are made of; raises as `answer`."""
        answered, parts = self.answer()
        if not isinstance(answered, Values):
            raise ProtocolError(f"the destination answered {type(answered).__name__} to {self._call.name}")
        return answered.values, parts

    @property
    def done(self) -> bool:
        """Whether `answer` would not block."""
        return self._call.done

    def wait_sent(self) -> None:
        """Block until the arrays that went along may change again."""
        self._call.wait_sent()


class Space:
    """Owns what this process keeps at one destination."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._process = os.getpid()
        self._values = itertools.count(1)
        self._bindings = itertools.count(1)
        self._folders = itertools.count(1)
        self._dropped: deque[int] = deque()  # appended to by destructors, so nothing here takes a lock
        self._unbound: dict[int, deque[int]] = {}
        self.handle = session.new_handle()
        self._effects = Effects(self.handle)
        self._remembering: set[int] = set()  # handles of sessions whose runs depend on earlier ones
        self._opened = session.load(self.handle, FORMAT, _ENCODER.encode(OpenSpace()))

    def new_value(self) -> int:
        """Number a value."""
        return next(self._values)

    def new_binding(self) -> int:
        """Number a binding."""
        return next(self._bindings)

    def new_folder(self) -> int:
        """Number a folder of side files."""
        return next(self._folders)

    def drop(self, value: int) -> None:
        """Say that a value is no longer used. May be called from a destructor."""
        self._dropped.append(value)

    def unbind(self, handle: int, binding: int) -> None:
        """Say that a binding of a session is no longer used. May be called from a destructor."""
        self._unbound.setdefault(handle, deque()).append(binding)

    def release(self, handle: int) -> None:
        """Say that a session is no longer used, and its bindings with it. May be called from a destructor."""
        self._unbound.pop(handle, None)
        self._remembering.discard(handle)
        self.session.release(handle)

    def load(
        self, handle: int, request: LoadSession, parts: Sequence[Array], files: Mapping[str, str], remembers: bool
    ) -> Call:
        """Have a session made; `remembers` says that runs of it depend on those before."""
        self.check_process()
        self._opened.wait()  # where there is no ONNX executor, that is what is to be said
        if remembers:
            self._remembering.add(handle)
        effect = self._effects.of_load(handle, request)
        return self.session.load(handle, FORMAT, _ENCODER.encode(request), parts, files, effect)

    def run(
        self,
        name: str,
        request: SpaceRequest | SessionRequest,
        parts: Sequence[Array] = (),
        files: Mapping[str, str] | None = None,
        handle: int = 0,
        into: Sequence[Array | None] = (),
    ) -> Pending:
        """Send a request, about values unless the handle of a session is given; does not wait."""
        self.check_process()
        if self._opened.error is not None:
            self._opened.wait()
        request = self._with_dropped(request, handle)
        body = _ENCODER.encode(request)
        effect = self._effects.of(request, handle, handle in self._remembering)
        call = self.session.run(handle or self.handle, f"onnx.{name}", body, parts, files, into, effect=effect)
        return Pending(call)

    def check_process(self) -> None:
        """Raise SessionLost in a child of the process that this belongs to."""
        if os.getpid() != self._process:
            raise SessionLost(
                f"this onnxruntime object belongs to process {self._process}, and this is its child {os.getpid()}; "
                "make it in the process that uses it"
            )

    def _with_dropped(self, request: SpaceRequest | SessionRequest, handle: int) -> SpaceRequest | SessionRequest:
        unbound = self._unbound.get(handle)
        if not self._dropped and not unbound:
            return request
        changed: Request = msgspec.structs.replace(
            request, dropped=_taken(self._dropped), unbound=_taken(unbound) if unbound else ()
        )
        return changed  # type: ignore[return-value]  # `replace` gives the same type


def _taken(numbers: deque[int]) -> tuple[int, ...]:
    taken: list[int] = []
    while numbers and len(taken) < _DROPPED_LIMIT:
        taken.append(numbers.popleft())
    return tuple(taken)


_current: Space | None = None
_lock = threading.Lock()


def space() -> Space:
    """This process's space; opens the session with the destination at the first call."""
    global _current
    session = active_session()
    with _lock:
        if _current is None or _current.session is not session:
            _current = Space(session)
        return _current


def _forget() -> None:
    """In a forked child: the lock may be held by a thread of the parent's, and the space is the parent's."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
