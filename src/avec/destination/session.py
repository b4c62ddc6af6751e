"""The destination's side of a session: one host's calls, carried out in order on handles that only it can name.

One thread receives, so that a heartbeat is answered while the accelerator works; the other carries out the calls and
sends their results. When the connection breaks, calls go on, and the session waits for its host to come back over
another connection, which has a higher epoch and a receiving thread of its own: from then on nothing is taken from the
old one. Not here: processes and sockets (`worker`, `server`), what a call means (`executors`), sending (`answers`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec

from avec.communication.channel import Channel, clock_ns
from avec.destination.answers import Answers, AnswersGone, Overtaken
from avec.destination.buffers import BufferPool
from avec.destination.encoding import Encodings
from avec.destination.executors import Answer, Executor, Model
from avec.destination.sharing.turns import Alone, Turns
from avec.errors import (
    DestinationError,
    InvalidArgument,
    ProtocolError,
    QuotaExceeded,
    SessionLost,
    UnsupportedOperation,
    pack,
)
from avec.modelcache import Manifest, ModelCache, PinnedModel
from avec.protocol.codec import Frame, Part
from avec.protocol.connection import CALLS
from avec.protocol.messages import (
    Draining,
    Failed,
    Goodbye,
    Load,
    Message,
    Offer,
    Refused,
    Release,
    Result,
    Run,
    Timings,
    Want,
    Welcome,
)
from avec.tensor import Array

CREDIT_CALLS = 256  # unanswered calls: more than any link needs, few enough to be nothing in memory
CREDIT_NBYTES = 256 << 20  # payload bytes in them, which is what a session can make the worker hold in its queue
# Answers that nobody waits for are sent together, since each takes the interpreter of a host that is issuing.
LATE_S = 0.005
LATE_LIMIT = 32
IDLE_BUFFERS_NBYTES = 512 << 20
FAREWELL_S = 30.0  # for a host on a slow link to receive its last results
RELEASES_NBYTES = 1 << 20  # of Release frames that wait to be carried out; no credit bounds those
LIFE_S = 0.1  # while a host waits for room for them, it is told so often that the worker lives
LOOK_S = 0.2  # how often who waits for a host looks whether the destination shuts down

log = logging.getLogger("avec.destination")


class _Grant:
    """Holds a host to its credit: the receiving thread takes note of calls, the other of their answers."""

    def __init__(self) -> None:
        self._calls = 0
        self._nbytes = 0
        self._lock = threading.Lock()

    def note_call(self, nbytes: int) -> None:
        with self._lock:
            if self._calls and (self._calls >= CREDIT_CALLS or self._nbytes + nbytes > CREDIT_NBYTES):
                raise ProtocolError(
                    f"a call of {nbytes} bytes after {self._calls} unanswered ones with {self._nbytes} bytes; "
                    f"{CREDIT_CALLS} calls with {CREDIT_NBYTES} bytes were granted"
                )
            self._calls += 1
            self._nbytes += nbytes

    def note_answer(self, nbytes: int) -> None:
        with self._lock:
            self._calls -= 1
            self._nbytes -= nbytes


class _Releases:
    """Bounds the Release frames that wait behind a long call: beyond it the receiving thread takes nothing more."""

    def __init__(self) -> None:
        self._nbytes = 0
        self._changed = threading.Condition()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait for some, for a while; whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._nbytes < RELEASES_NBYTES, timeout_s)

    def add(self, nbytes: int) -> None:
        """Take note of more, or with a negative number of fewer."""
        with self._changed:
            self._nbytes += nbytes
            self._changed.notify_all()


class Session:
    """Serves one host over one channel until it leaves or is gone."""

    def __init__(
        self,
        channel: Channel,
        pool: BufferPool,
        cache: ModelCache,
        executors: Mapping[str, Executor],
        on_lost: Callable[[DestinationError], None],
        resume_s: float = 0.0,
        on_broken: Callable[[int], None] = lambda epoch: None,
        turns: Turns | Alone | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            pool: where the channel receives tensors into.
            executors: by model format.
            on_lost: called by a receiving thread when the host is gone or broke the protocol, or when that thread
                itself failed, perhaps in the middle of a long call.
            resume_s: how long to wait for a host whose connection broke; 0: it is gone at once.
            on_broken: called by a receiving thread when that wait begins, with the epoch of the connection that broke.
            turns: on the accelerator that the executors use.
        """
        self._channel = channel
        self._pool = pool
        self._cache = cache
        self._executors = executors
        self._models: dict[int, Model] = {}
        self._inbox: queue.SimpleQueue[tuple[Frame, int] | Draining | Exception] = queue.SimpleQueue()
        self._grant = _Grant()
        self._releases = _Releases()
        self._encodings = Encodings(pool)
        self._on_lost = on_lost
        self._resume_s = resume_s
        self._on_broken = on_broken
        self._turns = turns or Alone()
        self.max_models: int | None = None  # loaded at a time
        self._pins = ExitStack()
        self._pinned: dict[str, PinnedModel] = {}
        self._answers = Answers(channel, pool, keep=resume_s > 0)
        self._late: list[tuple[Message, int, Sequence[Part]]] = []  # answers that nobody waits for
        self._taking = threading.Lock()  # guards what follows: whose frames are taken, and which were
        self._overtaken = threading.Condition(self._taking)
        self._epoch = 1
        self._received = 0  # the last call that arrived
        self._leaving = False  # the host has said goodbye
        self._receiver: threading.Thread | None = None
        self._draining = False
        self._failed = 0  # calls

    def serve(self, welcome: Welcome) -> None:
        """Open the session and carry out calls; returns when the host has said goodbye.

        Raises:
            SessionLost: the host is gone.
            ProtocolError: the host broke the protocol.
            DestinationError: receiving failed.
        """
        self._welcome = welcome
        self._channel.send(welcome)
        with self._taking:
            self._attend(self._channel, 1, None)
        with self._pins:
            while True:
                match self._next():
                    case None:
                        self._answer()
                    case Draining() as draining:
                        self._tell(draining)
                    case Exception() as exc:
                        raise exc
                    case (Frame(message=Goodbye()), _):
                        self._answer()
                        self._part()
                        return
                    case (frame, received_ns):
                        self._take(frame, received_ns)

    def _next(self) -> tuple[Frame, int] | Draining | Exception | None:
        """What comes next; None where nothing does while answers wait to be sent."""
        try:
            return self._inbox.get(timeout=LATE_S if self._late else None)
        except queue.Empty:
            return None

    def _answer(self) -> None:
        """Send the answers that wait."""
        late, self._late = self._late, []
        if late:
            self._answers.deliver(late)

    def resume(self, channel: Channel, epoch: int, answered: int) -> None:
        """Go on over another connection; the one before is taken nothing from any more.

        Args:
            epoch: higher than those before.
            answered: the last call whose answer the host has received.
        """
        with self._taking:
            old, self._channel, self._epoch = self._channel, channel, epoch
            self._overtaken.notify_all()
            self._attend(channel, epoch, answered)
        old.abort()

    def drain(self, reason: str) -> None:
        """Ask the host to leave; what it has sent is still carried out. May be called from a signal handler."""
        self._draining = True
        self._inbox.put(Draining(reason))

    def vacate(self, reason: str) -> None:
        """End a session that waits for its host, because its place is needed."""
        self._lose(SessionLost(reason))

    def _tell(self, draining: Draining) -> None:
        try:
            self._channel.send(draining)
        except SessionLost:
            if not self._resume_s:
                raise
            self._channel.abort()  # its receiving thread finds it broken, and nobody waits for the host any more

    def _part(self) -> None:
        """End the connection after a goodbye."""
        # Results may still be on their way. Were the connection closed now, a Ping of the host's would reset it and
        # lose them; the host closes when it has all (RFC 9293 §3.6.1).
        with self._taking:
            channel, receiver = self._channel, self._receiver
        channel.finish()
        if receiver is not None:
            receiver.join(FAREWELL_S)

    def _attend(self, channel: Channel, epoch: int, answered: int | None) -> None:
        arguments = (channel, epoch, answered, self._received)
        self._receiver = threading.Thread(target=self._receive_all, args=arguments, name="avec-receive", daemon=True)
        self._receiver.start()

    def _receive_all(self, channel: Channel, epoch: int, answered: int | None, received: int) -> None:
        try:
            self._attend_to(channel, epoch, answered, received)
        except BaseException as exc:  # nobody shall wait for what nobody receives
            log.exception("session %s: receiving from %s failed", self._welcome.session, channel.peer)
            channel.abort()
            self._lose(DestinationError(f"receiving failed: {exc!r}"))

    def _attend_to(self, channel: Channel, epoch: int, answered: int | None, received: int) -> None:
        """Serve one connection to its end, and wait until another takes its place, or its host is lost."""
        try:
            self._receive(channel, epoch, answered, received)
        except Overtaken:
            self._answers.part(channel)
        except AnswersGone as exc:
            with suppress(SessionLost):
                channel.send(Refused(pack(exc)))
            self._answers.part(channel)
            self._lose(exc)
        except SessionLost as exc:
            self._answers.part(channel)
            self._await_host(epoch, exc)
        except ProtocolError as exc:
            self._answers.part(channel)
            self._lose(exc)

    def _receive(self, channel: Channel, epoch: int, answered: int | None, received: int) -> None:
        """Give the host what it lacks, if it has come back, and receive until the connection ends."""
        try:
            if answered is not None:
                welcome = msgspec.structs.replace(self._welcome, secret="", received=received)
                self._answers.take_over(channel, epoch, answered, welcome)
            while True:
                frame = channel.receive()
                noted = False
                try:
                    noted = self._note(frame, epoch)
                finally:
                    if not noted:
                        self._pool.give_back(frame.arrays)
                if isinstance(frame.message, Release):
                    while not self._releases.wait_for_room(LIFE_S):
                        channel.measure()
        finally:
            self._pool.give_back(channel.unfinished())

    def _note(self, frame: Frame, epoch: int) -> bool:
        """Have a frame carried out; False for what comes after a goodbye.

        Raises:
            Overtaken: a newer connection has taken over, and the host will send it again.
            ProtocolError: the host may not send that.
        """
        received_ns = clock_ns()
        message = frame.message
        with self._taking:
            if epoch != self._epoch:
                raise Overtaken(f"a frame of connection {epoch}, after connection {self._epoch} has taken over")
            if not isinstance(message, (*CALLS, Release, Goodbye)):  # else it would wait its turn, with its tensors
                raise ProtocolError(f"{type(message).__name__} is not expected in a session")
            if self._leaving:  # nothing but releases comes after a goodbye
                return False
            if isinstance(message, CALLS):
                if frame.number <= self._received:
                    raise ProtocolError(f"call {frame.number} a second time; the last was {self._received}")
                self._received = frame.number
                self._grant.note_call(_nbytes(frame))
            self._leaving = isinstance(message, Goodbye)
            if isinstance(message, Release):
                self._releases.add(frame.nbytes)
            self._inbox.put((frame, received_ns))
        if isinstance(message, CALLS):
            self._answers.acknowledge(message.answered)
        return True

    def _await_host(self, epoch: int, broke: SessionLost) -> None:
        """A connection broke: wait for another, on its receiving thread."""
        with self._taking:
            if epoch != self._epoch:
                return
            if self._leaving:
                self._answers.keep_none()
                return
        if not self._resume_s or self._draining:
            self._lose(broke)
            return
        log.info("session %s: %s; its host may come back for %g s", self._welcome.session, broke, self._resume_s)
        self._on_broken(epoch)
        deadline_s = time.monotonic() + self._resume_s
        with self._taking:
            while epoch == self._epoch and not self._draining and (left_s := deadline_s - time.monotonic()) > 0:
                self._overtaken.wait(min(left_s, LOOK_S))
            if epoch != self._epoch:
                return
            self._epoch += 1  # who comes now is too late
        reason = "it is shutting down" if self._draining else f"its host did not come back in {self._resume_s:g} s"
        self._lose(SessionLost(f"{broke}; {reason}"))

    def _lose(self, exc: DestinationError) -> None:
        self._inbox.put(exc)
        self._on_lost(exc)

    def _take(self, frame: Frame, received_ns: int) -> None:
        """Carry out one message and answer it; a call's failure is an answer, and the session goes on."""
        self._answers.secure()
        message, nbytes, kernels = frame.message, _nbytes(frame), 0
        taken_ns = decoded_ns = began_ns = clock_ns()
        end_turn = self._turns.rest
        result: Message
        arrays: Sequence[Array] = ()
        parts: Sequence[Part] = ()
        late = False
        try:
            if frame.refused is not None:
                raise frame.refused
            frame = self._encodings.decode(frame)
            decoded_ns = began_ns = clock_ns()
            if isinstance(message, Run):
                began_ns, end_turn = self._turns.begin(), self._turns.end
            match message:
                case Release(handles=handles):
                    self._releases.add(-frame.nbytes)
                    self._release(handles)
                    return
                case Offer():
                    result = self._consider(message, frame.arrays)
                case Load() | Run():
                    answer = self._load(message, frame) if isinstance(message, Load) else self._run(message, frame)
                    result, arrays, kernels = Result(body=answer.body), answer.arrays, answer.kernels
                    late = answer.late
                case _:
                    raise ProtocolError(f"{type(message).__name__} is not expected in a session")
        except ProtocolError:
            raise
        except Exception as exc:  # whatever a call raises belongs to the host, with its type and traceback
            log.debug("call %d failed", frame.number, exc_info=exc)
            result = Failed(pack(exc))
            self._failed += 1
            self._turns.show("failed", self._failed)
        finally:
            self._pool.give_back(frame.arrays)
            # Before the answer goes, which may take long: others have the accelerator meanwhile.
            end_turn(self._inbox.qsize())
        if isinstance(result, Result | Failed):
            ended_ns = clock_ns()
            parts = self._encodings.encode(message, arrays)
            sent_ns = clock_ns()
            queue_ns, compute_ns = began_ns - received_ns, ended_ns - began_ns
            decode_ns, encode_ns = decoded_ns - taken_ns, sent_ns - ended_ns
            timings = Timings(received_ns, queue_ns, compute_ns, sent_ns, kernels, decode_ns, encode_ns)
            result = msgspec.structs.replace(result, timings=timings)
        self._grant.note_answer(nbytes)
        self._late.append((result, frame.number, parts))
        if not late or len(self._late) >= LATE_LIMIT:
            self._answer()

    def _consider(self, offer: Offer, arrays: Sequence[Array]) -> Want:
        chunks = arrays[0].tobytes() if arrays else b""
        missing = self._cache.missing(Manifest(offer.digest, offer.nbytes, chunks))
        if not missing and offer.digest not in self._pinned and (model := self._cache.pin(offer.digest)):
            self._pinned[offer.digest] = self._pins.enter_context(model)
        return Want(offer.digest, tuple(missing))

    def _load(self, load: Load, frame: Frame) -> Answer:
        executor = self._executors.get(load.format)
        if executor is None:
            known = ", ".join(sorted(self._executors)) or "none"
            raise UnsupportedOperation(
                f"this destination has no executor for the format {load.format!r}; it has {known}"
            )
        if load.handle in self._models:
            raise InvalidArgument(f"handle {load.handle} is in use; release it first")
        if self.max_models is not None and len(self._models) >= self.max_models:
            raise QuotaExceeded(
                f"the session has {len(self._models)} models loaded, and {self.max_models} are allowed; release some, "
                "or ask the destination's administrator for more (session_max_models, avec user add --max-models)"
            )
        with self._open_files(load.files) as files:
            model, answer = executor.load(load.body, frame.arrays, files)
        self._models[load.handle] = model
        self._turns.show("models", len(self._models))
        return answer

    def _run(self, run: Run, frame: Frame) -> Answer:
        model, *others = (self._model(handle) for handle in (run.handle, *run.handles))
        with self._open_files(run.files) as files:
            return model.run(run.body, frame.arrays, files, others)

    def _model(self, handle: int) -> Model:
        model = self._models.get(handle)
        if model is None:
            raise InvalidArgument(f"handle {handle} names nothing in this session")
        return model

    def _release(self, handles: Sequence[int]) -> None:
        for handle in handles:
            if (model := self._models.pop(handle, None)) is not None:
                model.close()
        self._turns.show("models", len(self._models))

    def _open_files(self, digests: Mapping[str, str]) -> AbstractContextManager[dict[str, Path]]:
        return self._opened(digests) if digests else nullcontext({})

    @contextmanager
    def _opened(self, digests: Mapping[str, str]) -> Iterator[dict[str, Path]]:
        with ExitStack() as stack:
            yield {role: stack.enter_context(self._cache.open(digest)).path for role, digest in digests.items()}


def _nbytes(frame: Frame) -> int:
    return sum(array.nbytes for array in frame.arrays)
