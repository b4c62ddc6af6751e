"""What requests do to the values and bindings that a host has at a destination, for the journal of its session.

A run of a model that does not remember anything leaves nothing. What is not sure to be so is taken for a change of
anything.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from avec.host.journal import READS, Effect, Thing
from avec.protocol.onnx import (
    Allocate,
    Answered,
    Ask,
    CopyOutputs,
    Fetch,
    Held,
    Items,
    LoadAdapter,
    LoadSession,
    Put,
    Raised,
    RunSession,
    RunSettings,
    RunToValues,
    SessionRequest,
    SpaceRequest,
    Sparse,
    Stage,
    Update,
    Value,
)

_ANSWERS: msgspec.msgpack.Decoder[Answered] = msgspec.msgpack.Decoder(Answered)


class Effects:
    """The effects of requests on one space and the sessions in it."""

    def __init__(self, space: int) -> None:
        self._space = space

    def of_load(self, handle: int, request: LoadSession) -> Effect:
        """What making a session does."""
        folder: set[Thing] = {(self._space, ("folder", request.staged))} if request.staged else set()
        read = folder | self._read(each.value for each in request.options.initializers)
        return Effect(frozenset({_model(handle)}), frozenset(read), frozenset(folder), (self._space,))

    def of(self, request: SpaceRequest | SessionRequest, handle: int, remembers: bool) -> Effect:
        """What a request does; `handle` is its session's, 0 for one on values."""
        drops = frozenset(thing for number in request.dropped for thing in self._value(number))
        match request:
            case Stage():
                folder: frozenset[Thing] = frozenset({(self._space, ("folder", request.folder))})
                return Effect(folder, folder, drops)  # more files come into the same folder
            case Put():
                return Effect(self._value(request.value), frozenset(self._read([request.contents])), drops)
            case Allocate() | LoadAdapter():
                return Effect(self._value(request.value), frozenset(), drops)
            case Update():
                exists, contents = (self._space, request.value), (self._space, (request.value, "contents"))
                read = {exists, *self._read([request.contents])}
                return Effect(frozenset({contents}), frozenset(read), drops, refused=_is_raised)
            case Fetch() | Ask():
                return Effect(drops=drops) if drops else READS
            case CopyOutputs(changes=(), unbound=()):
                return Effect(drops=drops) if drops else READS
            case RunSession() if not remembers and not request.unbound:
                return Effect(drops=drops) if drops else READS
            case RunToValues() if not remembers and not request.unbound:
                made = frozenset(thing for number in request.results for thing in self._value(number))
                read = {_model(handle), *self._read(request.feeds.values()), *self._adapters(request.settings)}
                return Effect(made, frozenset(read), drops, (self._space,))
        return Effect(drops=drops, concerns=(self._space,), anything=True)

    def _value(self, number: int) -> frozenset[Thing]:
        return frozenset({(self._space, number), (self._space, (number, "contents"))})

    def _read(self, values: Iterable[Value]) -> set[Thing]:
        found: set[Thing] = set()
        waiting = list(values)
        while waiting:
            match waiting.pop():
                case Held(value=number):
                    found |= self._value(number)
                case Items(items=items):
                    waiting += items
                case Sparse(values=dense, indices=indices):
                    waiting += [dense, *indices]
        return found

    def _adapters(self, settings: RunSettings | None) -> set[Thing]:
        return {thing for number in (settings.adapters if settings else ()) for thing in self._value(number)}


def _is_raised(body: bytes) -> bool:
    """Whether an answer says that the engine has raised something."""
    return isinstance(_ANSWERS.decode(body), Raised)


def _model(handle: int) -> Thing:
    return handle, "model"
