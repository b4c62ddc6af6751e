"""What requests do to the values and bindings that a host has at a destination, for the journal of its session.

A run of a model that does not remember anything leaves nothing. What is not sure to be so is taken for a change of
anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from avec.host.journal import READS, Effect, Thing
from avec.protocol.onnx import (
    Allocate,
    Answered,
    Ask,
    Bind,
    Binding,
    BindInput,
    BindOutput,
    CopyOutputs,
    Fetch,
    Held,
    Items,
    LoadAdapter,
    LoadSession,
    NameOutputs,
    Put,
    Raised,
    RunBinding,
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


@dataclass(slots=True)
class _Binding:
    """The names that are bound in a binding. What an output is bound to and what it got are two things."""

    handle: int
    number: int
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    entangled: bool = False  # with values, or in some other way that is not followed

    def changed(self, changes: Iterable[Binding]) -> set[Thing]:
        """Take note of changes; what they overwrite."""
        overwritten: set[Thing] = set()
        for change in changes:
            match change:
                case BindInput(name=name, contents=contents) if not isinstance(contents, Held | Items | Sparse):
                    self.inputs.add(name)
                    overwritten.add(self._thing("input", name))
                case BindOutput(name=name, value=0):
                    self.outputs.add(name)
                    overwritten |= {self._thing("output", name), self._thing("got", name)}
                case _:
                    self.entangled = True
        return overwritten

    def bound(self) -> set[Thing]:
        """What a run depends on."""
        return {self._thing("input", name) for name in self.inputs} | {
            self._thing("output", name) for name in self.outputs
        }

    def got(self) -> set[Thing]:
        """What a run gives."""
        return {self._thing("got", name) for name in self.outputs}

    def things(self) -> frozenset[Thing]:
        """All of it."""
        return frozenset(self.bound() | self.got())

    def _thing(self, kind: str, name: str) -> Thing:
        return self.handle, (self.number, kind, name)


class Effects:
    """The effects of requests on one space and the sessions in it."""

    def __init__(self, space: int) -> None:
        self._space = space
        self._bindings: dict[tuple[int, int], _Binding] = {}  # by session and number

    def of_load(self, handle: int, request: LoadSession) -> Effect:
        """What making a session does."""
        folder: set[Thing] = {(self._space, ("folder", request.staged))} if request.staged else set()
        read = folder | self._read(each.value for each in request.options.initializers)
        return Effect(frozenset({_model(handle)}), frozenset(read), frozenset(folder), (self._space,))

    def of(self, request: SpaceRequest | SessionRequest, handle: int, remembers: bool) -> Effect:
        """What a request does; `handle` is its session's, 0 for one on values."""
        drops = frozenset(thing for number in request.dropped for thing in self._value(number))
        for number in request.unbound:
            binding = self._bindings.pop((handle, number), None)
            drops |= binding.things() if binding is not None else frozenset()
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
            case RunSession() if not remembers:
                return Effect(drops=drops) if drops else READS
            case Bind() | CopyOutputs() | NameOutputs() | RunBinding():
                return self._of_binding(request, handle, remembers, drops)
            case RunToValues() if not remembers:
                made = frozenset(thing for number in request.results for thing in self._value(number))
                read = {_model(handle), *self._read(request.feeds.values()), *self._adapters(request.settings)}
                return Effect(made, frozenset(read), drops, (self._space,))
        return Effect(drops=drops, concerns=(self._space,), anything=True)

    def _of_binding(
        self,
        request: Bind | CopyOutputs | NameOutputs | RunBinding,
        handle: int,
        remembers: bool,
        drops: frozenset[Thing],
    ) -> Effect:
        key = handle, request.binding
        binding = self._bindings.setdefault(key, _Binding(handle, request.binding))
        overwrites = binding.changed(request.changes)
        runs = isinstance(request, RunBinding)
        if binding.entangled or (runs and remembers):
            return Effect(drops=drops, concerns=(self._space,), anything=True)
        reads: set[Thing] = {_model(handle)}
        if isinstance(request, NameOutputs | RunBinding):
            reads |= (binding.bound() if runs else binding.got()) - overwrites
            overwrites |= binding.got() if runs else set()
            overwrites |= {thing for number in request.results for thing in self._value(number)}
        if isinstance(request, RunBinding):
            reads |= self._adapters(request.settings)
        if not overwrites:
            return Effect(drops=drops) if drops else READS
        return Effect(frozenset(overwrites), frozenset(reads), drops, (self._space,), refused=_is_raised)

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
