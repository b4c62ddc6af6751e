"""A net at the destination as the host keeps track of it: which side has the newer contents of each array.

Requests are sent without waiting; each takes along what the application may have changed. The host waits only for
what the application looks at. One net is used by one thread at a time, as in Caffe.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from avec.errors import AvecError
from avec.protocol.caffe import (
    WEIGHTS,
    Backward,
    BlobRef,
    ClearDiffs,
    CopyFrom,
    Forward,
    NetDescription,
    NetRequest,
    Progress,
    Read,
    Reseed,
    Reshape,
    Reshaped,
    Shapes,
    ShareWith,
    SolverRequest,
    Within,
)

from .arrays import blob_arrays, parameter_arrays
from .dataflow import Flow, Flows, Range
from .effects import Effects
from .handle import Handle
from .memory import Floats, Issued, Memory, NetArray, Shape

if TYPE_CHECKING:
    from avec.host.calls import Call

_SHAPES = msgspec.msgpack.Decoder(Shapes)
_PROGRESS = msgspec.msgpack.Decoder(Progress)
_NO_SHAPES = msgspec.msgpack.encode(Shapes())

# Makes a request from its writes, changed shapes, and what is wanted back.
Making: TypeAlias = Callable[
    [tuple[BlobRef, ...], tuple[Reshaped, ...], tuple[BlobRef, ...]], "NetRequest | SolverRequest"
]


class Results(Protocol):
    """Views that are made when they are looked at, or at the latest before shapes change."""

    def fix(self) -> None:
        """Make them now."""


class RemoteNet:
    """Keeps track of one complete net; `handle` is its own, or that of the solver in which it has a place."""

    def __init__(self, handle: Handle, description: NetDescription, place: int | None = None) -> None:
        self.handle = handle
        self.place = place  # in a solver
        self.description = description
        self.blobs = blob_arrays(description)
        self.parameters = parameter_arrays(description)
        self._flows = Flows(description)
        self._effects = Effects(handle.number, description, self._flows)
        self._effects.shared = place is not None
        self._ran: set[Range] = set()
        self._issued: deque[Issued] = deque()
        self._reshaped: dict[int, Shape] = {}  # not told yet
        self._uneven = False  # a blob has a new shape that has not reached all layers
        self._reshaping: Issued | None = None  # the last request under way that may change shapes
        # The blobs and diffs whose contents the host may have: those that it gives, and those it has looked at.
        self._seen = {array.ref: array for array in self.blobs if array.given}
        self._open_parameters: dict[BlobRef, NetArray] = {}  # parameters that the application may have changed
        self._results: list[weakref.ref[Results]] = []
        self._lenders: list[RemoteNet] = []  # nets whose parameters this one uses
        self._seed: int | None = None  # to begin random numbers anew with

    def view(self, array: NetArray) -> Floats:
        """Hand out a view of an array's newest contents; blocks while they come from the destination."""
        self._settle_shapes(array)
        self._ready(array)
        memory = array.memory
        memory.touched, memory.looked_at = True, memory.changed
        return memory.view(array.shape)

    def give(self, array: NetArray, contents: Floats) -> None:
        """Make an array, which the host alone produces, hold contents of any shape; they are no longer the caller's."""
        if array.shape != contents.shape:
            self.reshape_blob(array, contents.shape)
        if array.memory.held:
            self.view(array)[...] = contents
        else:
            array.memory.give(contents)
        self._seen[array.ref] = array

    def shape(self, array: NetArray) -> Shape:
        """An array's shape; blocks while a change of another blob's shape is under way that may change it."""
        self._settle_shapes(array)
        return array.shape

    def reshape_blob(self, array: NetArray, shape: Shape) -> None:
        """Change one blob's shape on the host; the destination hears of it with the next request."""
        if self.shape(array) == shape:
            return
        self._fix_results()
        if array.memory.stale:
            self._refresh(array)
        array.resize(shape)
        array.memory.touched = True
        self._seen[array.ref] = array
        self._reshaped[array.ref.index] = shape
        self._uneven = True

    def reshape(self, start: int = 0, end: int = -1) -> None:
        """Let the changed shapes reach layers start…end; does not wait."""
        self._fix_results()
        self._take_done()
        self._reshaping = self._issue("caffe.reshape", Reshape((), self._take_reshaped(), start, end))
        self._uneven = False

    def forward(self, start: int, end: int, results: Iterable[NetArray], asked: Iterable[NetArray] = ()) -> None:
        """Run layers start…end (inclusive); waits only where the application holds views of what changes.

        Args:
            results: what the application will probably look at, judged by what it did last time.
            asked: what it certainly will look at.
        """
        uneven = self._uneven
        issued = self.run(
            ("forward", start, end),
            lambda writes, reshaped, wanted: Forward(writes, reshaped, start, end, wanted),
            results,
            asked,
        )
        if uneven:
            self._reshaping = issued if issued in self._issued else None
            self._uneven = start > 0 or end < len(self.parameters) - 1

    def backward(self, start: int, end: int, results: Iterable[NetArray], asked: Iterable[NetArray] = ()) -> None:
        """Run layers start…end (inclusive, start ≥ end) backwards; waits only where views are held of what changes."""
        self.run(
            ("backward", start, end),
            lambda writes, reshaped, wanted: Backward(writes, reshaped, start, end, wanted),
            results,
            asked,
        )

    def run(
        self,
        layers: Range,
        make: Making,
        results: Iterable[NetArray] = (),
        asked: Iterable[NetArray] = (),
        extra: Sequence[Floats] = (),
        brings: bool = True,
    ) -> Issued:
        """Issue a request that changes what the flow of `layers` says.

        Args:
            extra: what goes along besides the writes.
            brings: whether the answer brings what is wanted; if not, views that are held need a request more.
        """
        for lender in self._lenders:
            lender.flush()
        self._take_done()
        if self._seed is not None:
            self._issue("caffe.reseed", Reseed((), self._take_reshaped(), self._seed))
            self._seed = None
        if self._uneven:
            self._fix_results()
        flow = self._flows.of(layers)
        writes = self._changed_blobs(flow) + self._changed_parameters()
        held = any(array.memory.held for array in writes)
        wanted, watched = self._expect(flow, results, asked)
        wanted = wanted if brings else []
        self._note_run(layers, flow)
        if self._lenders and any(not ref.diff for ref in flow.changed_parameters):
            for lender in self._lenders:
                lender.mark_stale(array for layer in lender.parameters for array in layer)
        request = make(
            tuple(array.ref for array in writes),
            self._take_reshaped(),
            tuple(array.memory.origin for array in wanted),
        )
        issued = self._issue(f"caffe.{layers[0]}", request, writes, wanted, extra=extra)
        if watched:
            self.settle(issued)
            if not brings:
                self._refresh_held()
        elif held:
            self._wait_sent(issued.call)
        return issued

    def all_ran(self) -> None:
        """Take note that a pass has gone through all layers, in pieces: new shapes have reached them."""
        self._uneven = bool(self._reshaped)

    def watch(self, results: Results) -> None:
        """Have results fixed before the shapes change that they have now."""
        self._results = [each for each in self._results if each() is not None]
        self._results.append(weakref.ref(results))

    def _fix_results(self) -> None:
        results, self._results = self._results, []
        for each in results:
            if (living := each()) is not None:
                living.fix()

    def copy_from(self, digest: str, source: str) -> None:
        """Copy parameters from a model that the destination has into layers of the same name; waits."""
        self._overwrite(lambda writes, reshaped, _: CopyFrom(writes, reshaped, source), "copy_from", digest)

    def _overwrite(self, make: Making, name: str, digest: str | None = None, others: Sequence[Handle] = ()) -> None:
        """Issue a request that replaces parameters' contents; waits."""
        for lender in self._lenders:
            lender.flush()
        writes = self._changed_parameters()
        request = make(tuple(array.ref for array in writes), self._take_reshaped(), ())
        arrays = [array for layer in self.parameters for array in layer]
        held = [array for array in arrays if array.memory.held]
        self.mark_stale(arrays)
        files = None if digest is None else {WEIGHTS: digest}
        self.settle(self._issue(f"caffe.{name}", request, writes, files=files, others=others))
        if held:
            self._read(held)

    def clear_diffs(self) -> None:
        """Set the diffs of all parameters to 0; does not wait."""
        diffs = [array.diff for layer in self.parameters for array in layer if array.diff is not None]
        self.mark_stale(diffs)
        for diff in diffs:
            self._open_parameters.pop(diff.ref, None)
        self._issue("caffe.clear_diffs", ClearDiffs((), self._take_reshaped()))
        held = [diff for diff in diffs if diff.memory.held]
        if held:
            self._read(held)

    def share_with(self, other: RemoteNet) -> None:
        """Use another net's parameters; waits. See `sharing` for the arrays.

        Raises:
            InvalidModel, InvalidArgument: layers of the same name have other parameters.
        """
        other.flush()
        self._overwrite(
            lambda writes, reshaped, _: ShareWith(writes, reshaped, other.place or 0),
            "share_with",
            others=(other.handle,),
        )

    def borrow(self, other: RemoteNet) -> None:
        """Note that another net's parameters are this one's, so that what is written there is sent in time."""
        for lender in (other, *other._lenders):
            if lender is not self and lender not in self._lenders:
                self._lenders.append(lender)
                self._effects.shared = lender._effects.shared = True

    def reseed(self, seed: int) -> None:
        """Begin random numbers anew with the next request that runs layers."""
        self._seed = seed

    def flush(self) -> None:
        """Send what the application has written into parameters and given blobs; does not wait for an answer."""
        self._take_done()
        blobs = [array for array in self.blobs if array.given and _may_have_changed(array.memory)]
        writes = blobs + self._changed_parameters()
        if writes or self._reshaped:
            held = any(array.memory.held for array in writes)
            request = Read(tuple(array.ref for array in writes), self._take_reshaped())
            issued = self._issue("caffe.write", request, writes)
            if held:
                self._wait_sent(issued.call)

    @property
    def under_way(self) -> bool:
        """Whether requests have not been waited for."""
        return bool(self._issued)

    def settle_all(self) -> None:
        """Wait for all requests, and raise what failed."""
        while self._issued:
            self._take_in()

    def contents(self, arrays: Sequence[NetArray]) -> list[Floats]:
        """The newest contents of arrays, fetched together; to be used before anything else is asked of the net."""
        self.settle_all()
        if self._lenders:  # what of the arrays is shared, the other net's arrays know better
            self.flush()
            self.mark_stale(arrays)
        for lender in self._lenders:
            lender.flush()
        stale = {array.memory: array for array in arrays if array.memory.stale}
        if stale:
            self._read(list(stale.values()))
        return [array.memory.values(array.shape) for array in arrays]

    def put_parameter(self, array: NetArray, values: Floats) -> None:
        """Write a parameter without fetching what it had."""
        array.memory.stale, array.memory.coming = False, None
        array.memory.digest = b""
        self.view(array)[...] = values.reshape(array.shape)

    def mark_stale(self, arrays: Iterable[NetArray]) -> None:
        """Take note that the destination has newer contents."""
        for array in arrays:
            array.memory.stale, array.memory.coming = True, None

    def mark_forwarded(self) -> None:
        """Take note that all layers have run at the destination without a request of this net's."""
        layers = ("forward", 0, len(self.parameters) - 1)
        flow = self._flows.of(layers)
        self._expect(flow, (), ())
        self._note_run(layers, flow)
        self._refresh_held()

    def _refresh_held(self) -> None:
        """Bring what the application holds views of, where the destination has newer contents."""
        blobs = [each for array in self.blobs for each in (array, array.diff) if each is not None]
        parameters = [each for layer in self.parameters for array in layer for each in (array, array.diff) if each]
        held = {each.memory: each for each in (*blobs, *parameters) if each.memory.held and each.memory.stale}
        if held:
            self._read(list(held.values()))

    def _array(self, ref: BlobRef) -> NetArray:
        array = self.blobs[ref.index] if ref.layer < 0 else self.parameters[ref.layer][ref.index]
        if not ref.diff:
            return array
        assert array.diff is not None  # a blob's or a parameter's
        return array.diff

    def _note_run(self, layers: Range, ran: Flow) -> None:
        """Mark what a range changes as stale, the first time. Later only what the host has seen since has to be."""
        if layers not in self._ran:
            self._ran.add(layers)
            for ref in ran.changes:
                memory = self._array(ref).memory
                memory.changed = memory.stale = True

    def _changed_blobs(self, flow: Flow) -> list[NetArray]:
        """The blobs that a range reads and the application may have written."""
        changed = [array for array in map(self._array, flow.reads) if _may_have_changed(array.memory)]
        for array in changed:
            self._settle_shapes(array)
        return changed

    def _changed_parameters(self) -> list[NetArray]:
        """The parameters whose contents are no longer those of the destination."""
        changed = []
        for ref, array in tuple(self._open_parameters.items()):
            memory = array.memory
            if memory.stale:
                continue
            digest = memory.new_digest()
            if digest != memory.digest:
                memory.digest = digest
                changed.append(array)
            if not memory.held:
                del self._open_parameters[ref]
        return changed

    def _expect(
        self, flow: Flow, results: Iterable[NetArray], asked: Iterable[NetArray]
    ) -> tuple[list[NetArray], bool]:
        """Mark what a range changes as stale. Say what to ask for, and whether a view is held of any of it."""
        certain = {id(array.memory) for array in asked}
        certain.update(id(array.memory) for array in results if not array.memory.changed)  # looked at, most likely
        wanted: dict[int, NetArray] = {}
        watched = False
        candidates = {array.ref: array for array in (*results, *asked)} | self._seen
        for ref, array in candidates.items():
            origin = flow.changes.get(ref)
            if origin is None:
                continue
            memory = array.memory
            held = memory.held
            watched = watched or held
            if held or memory.looked_at or id(memory) in certain:
                wanted[id(memory)] = array
            memory.origin = origin
            memory.stale, memory.touched, memory.coming = True, held, None
        for array in wanted.values():
            array.memory.looked_at = False
            self._seen[array.ref] = array
        for ref in flow.changed_parameters:
            array = self._array(ref)
            memory = array.memory
            held = memory.held
            watched = watched or held
            if held or memory.looked_at:
                wanted[id(memory)] = array
            memory.stale, memory.changed, memory.looked_at, memory.coming = True, True, False, None
        return list(wanted.values()), watched

    def _issue(
        self,
        name: str,
        request: NetRequest | SolverRequest,
        writes: Sequence[NetArray] = (),
        wanted: Sequence[NetArray] = (),
        files: Mapping[str, str] | None = None,
        others: Sequence[Handle] = (),
        extra: Sequence[Floats] = (),
    ) -> Issued:
        contents = [array.memory.values(array.shape) for array in writes] + list(extra)
        into = [array.memory.values(self._sent_shape(array)) if self._knows_shape(array) else None for array in wanted]
        effect = self._effects.of(request)
        whole: NetRequest | SolverRequest | Within = request
        if self.place is not None and not isinstance(request, SolverRequest):
            whole = Within(self.place, request)
        call = self.handle.run(name, whole, contents, files, into, others, effect)
        issued = Issued(call, writes, wanted, isinstance(request, SolverRequest))
        for array in writes:
            array.memory.touched = array.memory.held  # who holds a view can write into it after this
            array.memory.upload = call
        for array in wanted:
            array.memory.coming = issued
        self._issued.append(issued)
        return issued

    def _sent_shape(self, array: NetArray) -> Shape:
        """The shape in which an array's contents come: blobs that share memory may each have their own."""
        origin = array.memory.origin
        return array.shape if origin.layer >= 0 else self.blobs[origin.index].shape

    def _knows_shape(self, array: NetArray) -> bool:
        return array.given or (self._reshaping is None and not self._uneven)

    def _take_reshaped(self) -> tuple[Reshaped, ...]:
        changes = tuple(Reshaped(index, shape) for index, shape in self._reshaped.items())
        self._reshaped.clear()
        return changes

    def _settle_shapes(self, array: NetArray) -> None:
        if self._reshaping is not None and not array.given:
            self.settle(self._reshaping)

    def _ready(self, array: NetArray) -> None:
        """Have the newest contents, and the right to change them."""
        memory = array.memory
        if memory.stale:
            self._refresh(array)
        if memory.upload is not None:
            self._wait_sent(memory.upload)
            memory.upload = None
        if array.ref.layer >= 0:
            self._open_parameters[array.ref] = array
        else:
            self._seen[array.ref] = array

    def _refresh(self, array: NetArray) -> None:
        memory = array.memory
        if memory.coming is not None:
            self.settle(memory.coming)
            return
        # A layer's weights are seldom looked at without its bias; one wait serves both.
        layer = () if array.ref.layer < 0 else self.parameters[array.ref.layer]
        sides = [each.diff if array.ref.diff else each for each in layer]
        others = {each.memory: each for each in sides if each is not None and each.memory.stale}
        self._read(list(others.values()) or [array])

    def _read(self, arrays: Sequence[NetArray]) -> None:
        request = Read((), self._take_reshaped(), tuple(array.memory.origin for array in arrays))
        self.settle(self._issue("caffe.read", request, wanted=arrays))

    def settle(self, issued: Issued) -> None:
        """Wait for a request, and take in the answers up to it in their order."""
        self.handle.check_process()
        while self._issued:
            if self._take_in() is issued:
                return

    def _take_done(self) -> None:
        """Take in the answers that are here; what has failed meanwhile is raised here."""
        while self._issued and self._issued[0].call.done:
            self._take_in()

    def _take_in(self) -> Issued:
        """Wait for the first request under way. When the application interrupts the wait, it stays the first."""
        issued = self._issued[0]
        try:
            reply = issued.call.wait()
        except AvecError:
            self._uneven = self._uneven or self._reshaping is issued
            self._forget(issued)
            self._undo(issued)
            raise
        self._forget(issued)
        if issued.on_solver:
            issued.progress = _PROGRESS.decode(reply.body)
            if issued.progress.shapes:
                self._take_shapes(issued.progress.shapes)
        elif reply.body != _NO_SHAPES:
            self._take_shapes(_SHAPES.decode(reply.body).shapes)
        extra = len(reply.arrays) - len(issued.wanted)
        issued.extra = reply.arrays[:extra]
        for array, received in zip(issued.wanted, reply.arrays[extra:], strict=True):
            memory = array.memory
            if memory.coming is issued:
                memory.take_over(received)
                memory.coming, memory.stale = None, False
                if array.ref.layer >= 0:
                    memory.digest = memory.new_digest()
        return issued

    def _forget(self, issued: Issued) -> None:
        self._issued.popleft()
        if self._reshaping is issued:
            self._reshaping = None

    def _wait_sent(self, call: Call) -> None:
        if not call.done:
            self.handle.check_process()
            call.wait_sent()

    def _undo(self, issued: Issued) -> None:
        """A request failed: what it sent may not have arrived, what it should have brought does not come."""
        for array in issued.sent:
            array.memory.touched = True
            if array.ref.layer >= 0:
                array.memory.digest = b""
                self._open_parameters[array.ref] = array
        for array in issued.wanted:
            if array.memory.coming is issued:
                array.memory.coming = None

    def _take_shapes(self, shapes: Sequence[Shape]) -> None:
        for index, (array, shape) in enumerate(zip(self.blobs, shapes, strict=True)):
            if array.shape != shape and not array.given and index not in self._reshaped:
                array.resize(shape)
                for each in (array, array.diff):
                    if each is not None and each.memory.changed and not each.memory.touched:
                        each.memory.stale = True


def _may_have_changed(memory: Memory) -> bool:
    return not memory.stale and (memory.touched or memory.held)
