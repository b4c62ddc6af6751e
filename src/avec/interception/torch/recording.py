"""The stream of operators on its way to the destination: recorded, sent in batches, waited for where a value is read.

Not here: what is recorded (`kernels`, `special`) and what a tensor is (`storages`).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from avec import config
from avec.errors import AvecError, DestinationError, ExecutionError
from avec.host.calls import where_called
from avec.host.journal import CHANGES, READS, Effect
from avec.interception.active import opened as opened_session
from avec.interception.active import session as active_session
from avec.protocol.torch import (
    FORMAT,
    Answer,
    Batch,
    LoadGraph,
    LoadKernel,
    Memory,
    MemoryStatistics,
    Open,
    Opened,
    Read,
    Request,
    Restore,
    Save,
    Skipped,
    Template,
)
from avec.tensor import Array

from .failures import Places, as_torch
from .known_templates import KnownTemplates
from .reads_ahead import Reading, ReadsAhead
from .repeats import Repeats
from .room import Room
from .storages import Arena
from .stream import NUMBER_NBYTES, Stream
from .traces import NOT_LOOKED_FOR, Traces

if TYPE_CHECKING:
    from avec.host.calls import Call, Reply
    from avec.host.session import Session

# A batch is sent so that the destination works while the host goes on. It ends after an operator whose template says
# so, not at a fixed length: a loop that never waits would else be cut at other places each time, and not repeat.
# Each batch takes the host's interpreter for about 0.15 ms, there and back: so few, but for the first after a wait.
BATCH_NUMBERS = 1440  # at most: about 300 operators
LEAST_NUMBERS = 960  # in a batch
FIRST_NUMBERS = 120  # in the first after a wait, when the destination has nothing to do; then it grows
GROWTH = 4
CUTTING = 4  # one of so many templates ends a batch
READING_LIMIT = 64  # reads that nobody has waited for
BATCH_FILES = 256  # digests that a batch names
PAYLOAD_NBYTES = 1 << 20  # uploads that wait in a batch
FINISH_TIMEOUT_S = 2.0  # a program must not hang at its end because a destination is busy

# What becomes of the stream's state when its worker dies.
NOT_REBUILT = Effect(
    anything=True, unkept="what PyTorch programs have at a destination is kept with --recovery snapshot only"
)

_CLEAR: Callable[[Any], None] = list.clear

_BAD_FORK = (
    "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start"
    " method"
)

_set_eval_frame: Any = torch._C._dynamo.eval_frame.set_eval_frame
_ENCODER = msgspec.msgpack.Encoder()
_ANSWER = msgspec.msgpack.Decoder(Answer)
_OPENED = msgspec.msgpack.Decoder(Opened)


def cuts_after(template: int) -> bool:
    """Whether a batch ends after an operator of this template."""
    return template % CUTTING == 0


class Recording:
    """This process's stream. What is not sent yet is public to the kernels, which append to it inline.

    Numbers alone may be appended by one call without `lock`, which CPython makes atomic; whoever adds to a second list
    as well takes the lock, and does that in a `finally`: an interrupt (Ctrl-C) can be raised after each call of a
    function, and would leave a stream in which everything later takes the wrong floats.
    """

    def __init__(self, arena: Arena, stream: Stream) -> None:
        self.arena = arena
        self.stream = stream
        stream.least = FIRST_NUMBERS
        self.lock = threading.RLock()
        self._session: Session | None = None
        self._destination: Opened | None = None
        self._described_to_parent: Opened | None = None
        self._handle = 0
        # Whether this is a forked child of a process that had a session: what it inherited is of no use to it.
        self.inherited = False
        self.capturing = False  # a CUDA graph: what is recorded is kept
        self.waits_are_told = self.waits_are_errors = False  # Source: torch.cuda.set_sync_debug_mode
        self.generation = 0  # of templates: a new one begins when they are forgotten
        self._epoch = 0
        self._failure = ""
        self._places = Places()
        self._known = KnownTemplates()
        self._forget = False  # the destination has to forget its templates with the next batch
        self._caches: list[dict[object, object]] = []
        self.forgetting: list[Callable[[], None]] = []  # called when the caches are emptied
        self._payloads: list[Array] = []
        self._payloads_nbytes = 0
        self._lends = False  # some of the payloads are the application's memory until it has waited
        self._lent: Call | None = None  # the last that took such ones along
        self._files: dict[str, str] = {}
        self._reading: deque[tuple[Call, Array]] = deque()  # reads that nobody has waited for
        self._loss_told = False  # an exception has said that the session is lost
        self._traces: Traces | None = None
        self._ahead = ReadsAhead()
        path = config.load().torch_repeats
        self.repeats = None if path is None else Repeats(path)  # for `avec doctor --trace`
        self._last: Call | None = None  # the last batch that was sent
        self._room = Room(arena, lambda: self.destination.devices, self._free_nbytes)
        arena.admit = self._room.admit
        self.on_open: list[Callable[[], None]] = []  # called when a session has been opened

    @property
    def opened(self) -> bool:
        """Whether there is a session; asking opens none."""
        return self._session is not None

    @property
    def destination(self) -> Opened:
        """What the destination's torch is and has; opens the session if need be.

        Raises:
            RuntimeError: this is a forked child of a process that has used the accelerator, as in torch.
            DestinationError: the destination cannot be reached or refuses.
        """
        if self._destination is None:
            with self.lock:
                if self._destination is None:
                    self._open()
        assert self._destination is not None  # for mypy
        return self._destination

    @property
    def described(self) -> Opened:
        """The same for those who only ask: a forked child, which cannot compute there, knows what its parent did."""
        if self._described_to_parent is not None and self.inherited:
            return self._described_to_parent
        self._described_to_parent = self.destination
        return self._described_to_parent

    @property
    def session(self) -> Session:
        """The session, opened if need be."""
        _ = self.destination
        assert self._session is not None
        return self._session

    def _open(self) -> None:
        if self.inherited:
            raise RuntimeError(_BAD_FORK)
        self._traces = Traces(self._known.template) if config.load().torch_replay == "on" else None
        session = active_session()
        handle = session.new_handle()
        opening = _ENCODER.encode(Open(str(torch.__version__)))
        effect = NOT_REBUILT
        if config.load().recovery == "snapshot":
            effect = Effect(frozenset({(handle, "stream")}), frozenset(), saves=True)
        reply = session.load(handle, FORMAT, opening, effect=effect).wait()
        self._session, self._handle, self._destination = session, handle, _OPENED.decode(reply.body)
        for function in self.on_open:
            function()

    def after_fork(self) -> None:
        """In a forked child: nothing that the parent has recorded is the child's to send."""
        self.lock = threading.RLock()
        self.stream.take()
        self._payloads.clear()
        self._reading.clear()
        self._ahead.forget()
        if self._session is not None:
            self.inherited = True
            self._destination = None
            self.arena.abandon(_BAD_FORK)

    def template(self, template: Template) -> int:
        """The number of a template; a new one goes to the destination with the next batch."""
        encoded = _ENCODER.encode(template)
        with self.lock:
            number = self._known.number(encoded)
            if number is None:
                if self._known.full and not self.capturing:
                    self._forget_templates()
                number = self._known.add(encoded)
                if self.repeats is not None:
                    self.repeats.describe(number, template)
        return number

    def cache(self) -> dict[object, object]:
        """A dictionary for things that name templates; it is emptied when templates are forgotten."""
        cache: dict[object, object] = {}
        self._caches.append(cache)
        return cache

    def forget_calls(self) -> None:
        """Empty the caches: a setting has changed that decides what calls give."""
        for cache in self._caches:
            cache.clear()
        for function in self.forgetting:
            function()

    def _forget_templates(self) -> None:
        self.flush()
        self.forget_calls()
        self._known.forget()
        self.arena.forget_layouts()
        if self._traces is not None:
            self._traces.forget()
        self._ahead.forget()
        self._forget = True
        self.generation += 1

    def begin_with(self, numbers: Sequence[int]) -> None:
        """Put operators that take no floats before all that is recorded."""
        with self.lock:
            self.stream.begin_with(numbers)
            self._places.move(len(numbers))

    def templates(self) -> dict[int, Template]:
        """All templates by their numbers."""
        with self.lock:
            return self._known.templates()

    def begin_capture(self) -> None:
        """From now on, keep what is recorded for `end_capture`. Source: torch.cuda.CUDAGraph.capture_begin."""
        with self.lock:
            self.flush()
            self.arena.hold()
            self.capturing = True

    def end_capture(self) -> tuple[list[int], list[float], list[int]]:
        """Give what was recorded since `begin_capture`: numbers, floats, and the places that died meanwhile."""
        with self.lock:
            self.arena.sweep(self.stream)
            numbers, floats = self.stream.take()
            self._places.marks.clear()
            self.capturing = False
            return numbers, floats, self.arena.let_go()

    def replay(self, numbers: Sequence[int], floats: Sequence[float]) -> None:
        """Record what was captured once more."""
        with self.lock:
            self.refuse_in_capture("replaying a graph")
            self.stream.add(numbers, floats)
            self.flush()

    def refuse_in_capture(self, what: str) -> None:
        """Raise what torch raises if a CUDA graph is being captured, of which `what` cannot be part."""
        if self.capturing:
            raise torch.AcceleratorError(
                f"CUDA error: operation not permitted when stream is capturing\n{what} cannot be part of a CUDA graph"
            )

    def _about_to_wait(self, what: str) -> None:
        self.refuse_in_capture(what)
        if self.waits_are_errors:
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.waits_are_told:
            file, _, line = where_called().rpartition(":")
            warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, file, int(line))

    def mark(self) -> None:
        """Note where in the application the next operator is called: it is of a kind that may fail at the destination.

        Not done for every operator, because finding the place takes as long as recording it.
        """
        self._places.mark(len(self.stream))

    def record(self, template: int, numbers: Sequence[int], floats: Sequence[float] = ()) -> None:
        """Append one operator; send a batch if it is time."""
        with self.lock:
            self.stream.add((template, *numbers), floats)
            if self._is_due(template):
                self.flush()

    def record_marked(self, numbers: Sequence[int], floats: Sequence[float]) -> None:
        """Append one operator, its template's number among the numbers, with its place in the application."""
        with self.lock:
            self.mark()
            self.stream.add(numbers, floats)

    def _is_due(self, template: int) -> bool:
        count = len(self.stream)
        return count > self.stream.least and (cuts_after(template) or count > BATCH_NUMBERS)

    def upload(self, template: int, numbers: Sequence[int], payload: Array, borrowed: bool) -> None:
        """Append an operator that takes a payload.

        Args:
            payload: its bytes, uint8.
            borrowed: the memory is the application's: it has been copied or sent when this returns.
        """
        with self.lock:
            self.refuse_in_capture("copying from the host's memory")
            large = payload.nbytes >= PAYLOAD_NBYTES
            kept = payload if large or not borrowed else payload.copy()
            self._lends |= not borrowed
            try:
                self.stream.extend((template, *numbers))
            finally:
                self._payloads.append(kept)
            self._payloads_nbytes += payload.nbytes
            full = self._payloads_nbytes >= PAYLOAD_NBYTES
            call = self.flush() if full or self._is_due(template) else None
        if call is not None and large and borrowed:
            call.wait_sent()

    def upload_file(self, template: int, address: int, digest: str) -> None:
        """Append an upload of what the destination has in its model cache."""
        with self.lock:
            self.refuse_in_capture("copying from the host's memory")
            role = len(self._files)
            self._files[str(role)] = digest
            self.stream.extend((template, address, role))
            if role + 1 >= BATCH_FILES:
                self.flush()

    def flush(self) -> Call | None:
        """Send what is recorded, without waiting; None when there was nothing to send.

        Raises:
            SessionLost, DestinationDraining: the destination takes no calls any more.
        """
        if self._session is None and not self.stream:
            return None
        with self.lock:
            self.arena.sweep(self.stream)
            if self.capturing or not self.stream:
                return None
            call = self._send().call
            self._room.see(lambda: self.wait(call))
            self._save_if_due()
        return call

    def _ask_for(self, read: Read, into: Array, anew: bool = False) -> Reading:
        """Send what is recorded, and have a tensor's elements sent back, if they were not read ahead."""
        with self.lock:
            self.refuse_in_capture("reading a value")
            self.arena.sweep(self.stream)
            # A wait promises that the reads before it have arrived: it has to be for a later call then.
            reading = self._send(read, into, anew or bool(self._reading))
            last = self._last
            if last is not None and last is not reading.call:  # nobody is about to wait for it
                self._room.see(lambda: self.wait(last))
            self._save_if_due()
        return reading

    def _save_if_due(self) -> None:
        """Have the stream's state brought to this host now and then, where it is kept in case that the worker dies."""
        if not self.session.snapshot_due(self._handle):
            return
        traces = self._traces.kept if self._traces is not None else {}
        described = _ENCODER.encode((self._known.encoded(), [(number, *kept) for number, kept in traces.items()]))
        body = _ENCODER.encode(Restore(self._epoch))

        def restoring(answer: bytes, parts: Sequence[Array]) -> tuple[bytes, Sequence[Array]]:
            return body, (*parts, np.frombuffer(described, np.uint8))

        save = _ENCODER.encode(Save(self._epoch, config.load().snapshot_limit_nbytes))
        effect = Effect(anything=True, refused=bool, restoring=restoring)
        self.session.run(self._handle, "torch.save", save, effect=effect)

    def _send(self, read: Read | None = None, into: Array | None = None, anew: bool = False) -> Reading:
        """Send what is recorded; the call, or that of an earlier batch which has read ahead what is asked for.

        Args:
            read: what to have sent back, `into` this memory.
            anew: what was read ahead is not wanted.
        """
        session = self.session
        with self.lock:
            stretch, floats = self.stream.recorded()
            issued = session.issued
            # Emptied in one call, between whose parts no interrupt can come.
            emptied: list[object] = []
            emptying = itertools.chain(
                self.stream.taking(len(stretch) // NUMBER_NBYTES, len(floats) // NUMBER_NBYTES),
                map(_CLEAR, (self._known.new, self._payloads)),
            )
            traces = self._traces if stretch else None
            found = NOT_LOOKED_FOR if traces is None else traces.find(stretch)
            if stretch:
                self._ahead.pass_over(found)
            nbytes = 0 if into is None else into.nbytes
            taken = self._ahead.take(read, nbytes, found) if read is not None and not anew else None
            if taken is not None and not stretch:
                return taken
            asked = read if taken is None else None
            wanted = self._ahead.wanted(found, asked, nbytes)
            parts: list[Array] = [
                np.frombuffer(found.names if found.known else stretch, np.uint64),
                np.frombuffer(floats, np.float64),
                np.frombuffer(_ENCODER.encode(self._known.new) if self._known.new else b"", np.uint8),
                *self._payloads,
            ]
            while parts and not parts[-1].size and not self._payloads:
                parts.pop()
            described, first_template = len(self._known.new), self._known.first_new
            if self.repeats is not None and stretch:
                self.repeats.see(np.frombuffer(found.kind, np.uint64).tolist(), found.known, self._places.marks)
            forget_traces = traces is not None and traces.forgotten
            read_ahead, forget = tuple(wanted), self._forget
            body = _ENCODER.encode(
                Batch(self._epoch, asked, read_ahead, first_template, forget, forget_traces, found.number, found.known)
            )
            receiving = (into,) if asked is not None else ()
            try:
                effect = CHANGES if stretch or described or self._forget or forget_traces else READS
                call = _unseen(
                    session.run, self._handle, "torch.run", body, parts, self._files, receiving, effect=effect
                )
            except DestinationError:
                self._loss_told = True
                raise
            finally:
                if session.issued != issued:  # else an interrupt or an error came before it was sent
                    self._payloads_nbytes, self._files, self._forget = 0, {}, False
                    if traces is not None:
                        traces.forgotten = False
                    emptied.extend(emptying)
            if traces is not None:
                traces.sent(stretch, found, floats)
            if found.known:
                self._ahead.sent(found, call, len(receiving), wanted)
            if forget_traces:
                self._ahead.forget()
            if self._lends:
                self._lent, self._lends = call, False
            self._last = call
            self.stream.least = min(GROWTH * self.stream.least, LEAST_NUMBERS)
            self._places.send(call)
        return taken or Reading(call)

    def read(self, read: Read, into: Array) -> None:
        """Send what is recorded, wait for a tensor's elements, and put them `into` uint8 memory.

        Raises:
            AvecError, or torch's own class for it: an operator has failed; nothing after it took effect.
        """
        self._about_to_wait("reading a value")
        reading = self._ask_for(read, into)
        self.stream.least = FIRST_NUMBERS
        if self._lent is not None and self._lent.number > reading.call.number:  # it may not have left yet
            self._lent.wait_sent()
        reply = self.wait(reading.call)
        if not reply.arrays[reading.place].size:  # its storage was another, or not there, in that batch
            reading = self._ask_for(read, into, anew=True)
            reply = self.wait(reading.call)
        _put(reply, into, reading.place)

    def read_later(self, read: Read, into: Array) -> Call:
        """Send what is recorded; a tensor's elements are in uint8 memory when this or a later call was waited for."""
        call = self._ask_for(read, into, anew=True).call
        with self.lock:
            self._reading.append((call, into))
            oldest = self._reading[0][0]
            full = len(self._reading) > READING_LIMIT
        if full:
            self.wait(oldest)
        return call

    def ask(self, request: Request) -> Answer | None:
        """Send a request of another kind after all that is recorded, and wait for its answer."""
        return self.decode(self.wait(self.request(request)))

    def request(self, request: Request, parts: Sequence[Array] = ()) -> Call:
        """Send a request after all that is recorded, without waiting. Its epoch is filled in."""
        self.flush()
        body = _ENCODER.encode(msgspec.structs.replace(request, epoch=self._epoch))
        effect = READS
        if isinstance(request, LoadGraph | LoadKernel):
            thing = self._handle, (type(request).__name__, request.number)
            effect = Effect(frozenset({thing}), frozenset())
        name = f"torch.{type(request).__name__.lower()}"
        return _unseen(self.session.run, self._handle, name, body, parts, effect=effect)

    def evaluate(self, template: int, numbers: Sequence[int], floats: Sequence[float]) -> Answer | None:
        """Append an operator whose results depend on data, send what is recorded and wait for what came out."""
        with self.lock:
            self._about_to_wait("an operator whose result's shape depends on data")
            self.arena.sweep(self.stream)
            self.stream.add((template, *numbers), floats)
            call = self._send().call
        self.stream.least = FIRST_NUMBERS
        return self.decode(self.wait(call))

    def decode(self, reply: Reply) -> Answer | None:
        """What an answer says; None when it is empty."""
        return _ANSWER.decode(reply.body) if reply.body else None

    def is_newest(self, call: Call) -> bool:
        """Whether no operator was issued after a call."""
        return not self.stream and (self._last is None or self._last.number < call.number)

    def wait(self, call: Call) -> Reply:
        """Wait for an answer; raise what has failed up to there, once, as torch would."""
        try:
            reply = call.wait()
            self._end_reading(call)
        except AvecError as exc:
            self._end_reading(call)
            exc.__traceback__ = None  # the call keeps it, and so would keep the application's frames and their tensors
            if isinstance(exc, ExecutionError):
                with self.lock:  # what is sent before that is not carried out
                    self._ahead.forget()
                    self._epoch += 1
                self._failure = str(exc)
                self._places.tell(exc)
            else:
                self._loss_told = True
            raise as_torch(exc) from None
        if reply.body and isinstance(_ANSWER.decode(reply.body), Skipped):
            raise RuntimeError(f"not computed, because an operator before it had failed: {self._failure}")
        return reply

    def _end_reading(self, waited: Call) -> None:
        """End the reads that nobody has waited for and that came before a call which has ended."""
        with self.lock:
            ended = []
            while self._reading and self._reading[0][0].number <= waited.number:
                ended.append(self._reading.popleft())
        for call, into in ended:
            with contextlib.suppress(AvecError):  # the wait for the later call has raised it
                _put(call.wait(), into)

    def _free_nbytes(self, device: int) -> int:
        memory = self.ask(MemoryStatistics(0, device))
        return memory.free if isinstance(memory, Memory) else 0

    def finish(self) -> None:
        """Send what is left at the end of the process, so that its failures can be reported."""
        if self._session is None or self.inherited or self._loss_told:
            return
        if opened_session() is not self._session:  # it was closed, as in a child that multiprocessing has made
            return
        lost: AvecError | None = None
        try:
            self.flush()
            if self.repeats is not None:
                self.repeats.write()
            if self._last is not None:
                self._last.wait_ended(FINISH_TIMEOUT_S)
                lost = self._last.error
        except AvecError as exc:
            lost = exc
        if isinstance(lost, DestinationError):  # nothing waited for it; others are told when the session ends
            sys.stderr.write(f"avec: the program's last operators were not carried out: {lost}\n")


def _unseen(function: Callable[..., Call], *args: Any, **options: Any) -> Call:
    """Call it while Dynamo looks at no frame: to convert one, it reads generators' states, in the middle of a batch.

    It leaves AVEC's files alone, see `dynamo`; but what a dataclass has generated stands in none of them.
    """
    before = _set_eval_frame(None)
    try:
        return function(*args, **options)
    finally:
        _set_eval_frame(before)


def _put(reply: Reply, into: Array, place: int = 0) -> None:
    """Put what was read where it is wanted, unless it was received there; nothing was if it was not carried out."""
    for received in reply.arrays[place : place + 1]:
        if received is not into:
            np.copyto(into, received.reshape(-1).view(np.uint8))
