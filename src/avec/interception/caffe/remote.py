"""A net at the destination as the host keeps track of it: which side has the newer contents of each array.

Requests are sent without waiting; each takes along what the application may have changed. The host waits only for
what the application looks at. One net is used by one thread at a time, as in Caffe.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from avec.errors import AvecError, SessionLost
from avec.protocol.caffe import (
    WEIGHTS,
    BlobRef,
    CopyFrom,
    Forward,
    LoadNet,
    NetDescription,
    Read,
    Request,
    Reshape,
    Reshaped,
    Shapes,
)

from .dataflow import Flow, flow, given_blobs, sharing_groups, sources
from .memory import Floats, Issued, Memory, NetArray, Shape

if TYPE_CHECKING:
    from avec.host.calls import Call
    from avec.host.session import Session

FORMAT = "caffe"

_ENCODER = msgspec.msgpack.Encoder()
_DESCRIPTIONS = msgspec.msgpack.Decoder(NetDescription)
_SHAPES = msgspec.msgpack.Decoder(Shapes)
_NO_SHAPES = _ENCODER.encode(Shapes())


class Results(Protocol):
    """Views that are made when they are looked at, or at the latest before shapes change."""

    def fix(self) -> None:
        """Make them now."""


class RemoteNet:
    """Owns the handle of one net at the destination; it is released when nobody refers to this object any more."""

    def __init__(self, session: Session, prototxt: bytes, request: LoadNet, weights_digest: str | None) -> None:
        """Build the net at the destination; blocks until it is there.

        Raises:
            InvalidModel, UnsupportedOperation, AcceleratorOutOfMemory: the net cannot be built.
            DestinationError: the destination failed.
        """
        self._session = session
        self._process = os.getpid()
        self._source = request.source
        self._handle = session.new_handle()
        weakref.finalize(self, session.release, self._handle).atexit = False
        files = {} if weights_digest is None else {WEIGHTS: weights_digest}
        network = np.frombuffer(prototxt, np.uint8)
        reply = session.load(self._handle, FORMAT, _ENCODER.encode(request), [network], files).wait()
        self.description = _DESCRIPTIONS.decode(reply.arrays[0].data)
        self._groups = sharing_groups(self.description)
        self.blobs = _blob_arrays(self.description, self._groups)
        self.parameters = _parameter_arrays(self.description)
        self._flows: dict[tuple[int, int], Flow] = {}  # those that have run
        self._issued: deque[Issued] = deque()
        self._reshaped: dict[int, Shape] = {}  # not told yet
        self._uneven = False  # a blob has a new shape that has not reached all layers
        self._reshaping: Issued | None = None  # the last request under way that may change shapes
        # By place the blobs whose contents the host may have: those that it gives, and those it has looked at.
        self._seen = {array.ref.index: array for array in self.blobs if array.given}
        self._open_parameters: dict[BlobRef, NetArray] = {}  # parameters that the application may have changed
        self._results: list[weakref.ref[Results]] = []

    def view(self, array: NetArray) -> Floats:
        """Hand out a view of an array's newest contents; blocks while they come from the destination."""
        memory = array.memory
        self._settle_shapes(array)
        if memory.stale:
            self._refresh(array)
        if memory.upload is not None:
            self._wait_sent(memory.upload)
            memory.upload = None
        memory.touched, memory.looked_at = True, memory.changed
        if array.ref.layer >= 0:
            self._open_parameters[array.ref] = array
        elif not array.ref.diff:
            self._seen[array.ref.index] = array
        return memory.view(array.shape)

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
        array.shape = shape
        array.memory.touched = True
        array.memory.fit(shape)
        self._seen[array.ref.index] = array
        self._reshaped[array.ref.index] = shape
        self._uneven = True

    def reshape(self) -> None:
        """Let the changed shapes reach all layers; does not wait."""
        self._fix_results()
        self._take_done()
        self._reshaping = self._issue("caffe.reshape", Reshape(reshaped=self._take_reshaped()))
        self._uneven = False

    def forward(self, start: int, end: int, results: Iterable[NetArray], asked: Iterable[NetArray] = ()) -> None:
        """Run layers start…end (inclusive); waits only where the application holds views of what changes.

        Args:
            results: what the application will probably look at, judged by what it did last time.
            asked: what it certainly will look at.
        """
        self._take_done()
        if self._uneven:
            self._fix_results()
        flow = self._flow(start, end)
        writes = self._changed_blobs(flow) + self._changed_parameters()
        held = any(array.memory.held for array in writes)
        wanted, watched = self._expect(flow, results, asked)
        self._note_run(start, end, flow)
        request = Forward(
            tuple(array.ref for array in writes),
            self._take_reshaped(),
            start,
            end,
            tuple(array.memory.origin for array in wanted),
        )
        issued = self._issue("caffe.forward", request, writes, wanted)
        if self._uneven:
            self._reshaping = issued
            self._uneven = start > 0 or end < len(self.parameters) - 1
        if watched:
            self._settle(issued)
        elif held:
            self._wait_sent(issued.call)

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
        writes = self._changed_parameters()
        request = CopyFrom(tuple(array.ref for array in writes), self._take_reshaped(), source)
        held = [array for layer in self.parameters for array in layer if array.memory.held]
        for layer in self.parameters:
            for array in layer:
                array.memory.stale = True
        self._settle(self._issue("caffe.copy_from", request, writes, files={WEIGHTS: digest}))
        if held:
            self._read(held)

    def _flow(self, start: int, end: int) -> Flow:
        found = self._flows.get((start, end))
        return found or flow(self.description.layers, self._groups, start, end)

    def _note_run(self, start: int, end: int, ran: Flow) -> None:
        """Mark what a range changes as stale, the first time. Later only what the host has seen since has to be."""
        if (start, end) not in self._flows:
            self._flows[start, end] = ran
            for index in ran.changes:
                memory = self.blobs[index].memory
                memory.changed = memory.stale = True

    def _changed_blobs(self, flow: Flow) -> list[NetArray]:
        """The blobs that a range reads and the application may have written."""
        changed = [self.blobs[index] for index in flow.reads if _may_have_changed(self.blobs[index].memory)]
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
        candidates = {array.ref.index: array for array in (*results, *asked)} | self._seen
        for index, array in candidates.items():
            if index not in flow.changes:
                continue
            memory = array.memory
            held = memory.held
            watched = watched or held
            if held or memory.looked_at or id(memory) in certain:
                wanted[id(memory)] = array
            memory.origin = BlobRef(flow.changes[index])
            memory.stale, memory.touched, memory.coming = True, held, None
        for array in wanted.values():
            array.memory.looked_at = False
            self._seen[array.ref.index] = array
        for layer in flow.changed_parameters:
            for array in self.parameters[layer]:
                array.memory.stale = True
                if array.memory.held:
                    wanted[id(array.memory)] = array
                    watched = True
        return list(wanted.values()), watched

    def _issue(
        self,
        name: str,
        request: Request,
        writes: Sequence[NetArray] = (),
        wanted: Sequence[NetArray] = (),
        files: Mapping[str, str] | None = None,
    ) -> Issued:
        self._check_process()
        contents = [array.memory.values(array.shape) for array in writes]
        into = [array.memory.values(self._sent_shape(array)) if self._knows_shape(array) else None for array in wanted]
        call = self._session.run(self._handle, name, _ENCODER.encode(request), contents, files, into)
        issued = Issued(call, writes, wanted)
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
            self._settle(self._reshaping)

    def _refresh(self, array: NetArray) -> None:
        memory = array.memory
        if memory.coming is not None:
            self._settle(memory.coming)
            return
        layer = array.ref.layer
        # A layer's weights are seldom looked at without its bias; one wait serves both.
        others = [] if layer < 0 else [each for each in self.parameters[layer] if each.memory.stale]
        self._read(others or [array])

    def _read(self, arrays: Sequence[NetArray]) -> None:
        request = Read(wanted=tuple(array.memory.origin for array in arrays), reshaped=self._take_reshaped())
        self._settle(self._issue("caffe.read", request, wanted=arrays))

    def _settle(self, issued: Issued) -> None:
        """Wait for a request, and take in the answers up to it in their order."""
        self._check_process()
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
        if reply.body != _NO_SHAPES:
            self._take_shapes(_SHAPES.decode(reply.body).shapes)
        for array, received in zip(issued.wanted, reply.arrays, strict=True):
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
            self._check_process()
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
                array.shape = shape
                array.memory.fit(shape)
                if array.memory.changed and not array.memory.touched:
                    array.memory.stale = True

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise SessionLost(
                f"the net of {self._source} belongs to process {self._process}, and this is its child {os.getpid()}; "
                "make a caffe.Net in the process that uses it"
            )


def _may_have_changed(memory: Memory) -> bool:
    return not memory.stale and (memory.touched or memory.held)


def _blob_arrays(description: NetDescription, groups: Sequence[int]) -> list[NetArray]:
    given, filled = given_blobs(description), sources(description)
    arrays: list[NetArray] = []
    for index, blob in enumerate(description.blobs):
        group = groups[index]
        # Before the first forward all other blobs are zeros, on both sides.
        memory = Memory(BlobRef(index), blob.shape, index in filled) if group == index else arrays[group].memory
        arrays.append(NetArray(BlobRef(index), blob.shape, memory, index in given))
    return arrays


def _parameter_arrays(description: NetDescription) -> list[list[NetArray]]:
    arrays: list[list[NetArray]] = []
    for place, layer in enumerate(description.layers):
        arrays.append([])
        for index, parameter in enumerate(layer.parameters):
            ref, (owner, its_index) = BlobRef(index, place), parameter.owner
            memory = Memory(ref, parameter.shape, stale=True) if owner < 0 else arrays[owner][its_index].memory
            arrays[-1].append(NetArray(ref, parameter.shape, memory, given=True))
    return arrays
