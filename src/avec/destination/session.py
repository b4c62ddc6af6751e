"""The destination's side of a session: one host's calls, carried out in order on handles that only it can name.

One thread receives, so that a heartbeat is answered while the accelerator works; the other carries out the calls and
sends their results. Not here: processes and sockets (`worker`, `server`), what a call means (`executors`).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from avec.communication.channel import Channel, clock_ns
from avec.destination.buffers import BufferPool
from avec.destination.executors import Answer, Executor, Model
from avec.errors import InvalidArgument, ProtocolError, SessionLost, UnsupportedOperation, pack
from avec.modelcache import Manifest, ModelCache, PinnedModel
from avec.protocol.codec import Frame
from avec.protocol.connection import CALLS
from avec.protocol.messages import (
    Draining,
    Failed,
    Goodbye,
    Load,
    Message,
    Offer,
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
IDLE_BUFFERS_NBYTES = 512 << 20
FAREWELL_S = 30.0  # for a host on a slow link to receive its last results

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


class Session:
    """Serves one host over one channel until it leaves or is gone."""

    def __init__(
        self,
        channel: Channel,
        pool: BufferPool,
        cache: ModelCache,
        executors: Mapping[str, Executor],
        on_lost: Callable[[SessionLost | ProtocolError], None],
    ) -> None:
        """Prepare to serve.

        Args:
            pool: where the channel receives tensors into.
            executors: by model format.
            on_lost: called by the receiving thread when the host is gone or broke the protocol, perhaps in the middle
                of a long call.
        """
        self._channel = channel
        self._pool = pool
        self._cache = cache
        self._executors = executors
        self._models: dict[int, Model] = {}
        self._inbox: queue.SimpleQueue[tuple[Frame, int] | Draining | Exception] = queue.SimpleQueue()
        self._grant = _Grant()
        self._on_lost = on_lost
        self._pins = ExitStack()
        self._pinned: dict[str, PinnedModel] = {}

    def serve(self, welcome: Welcome) -> None:
        """Open the session and carry out calls; returns when the host has said goodbye.

        Raises:
            SessionLost: the host is gone.
            ProtocolError: the host broke the protocol.
        """
        self._channel.send(welcome)
        receiver = threading.Thread(target=self._receive_all, name="avec-receive", daemon=True)
        receiver.start()
        with self._pins:
            while True:
                match self._inbox.get():
                    case Draining() as draining:
                        self._channel.send(draining)
                    case Exception() as exc:
                        raise exc
                    case (Frame(message=Goodbye()), _):
                        # Results may still be on their way. Were the connection closed now, a Ping of the host's would
                        # reset it and lose them; the host closes when it has all (RFC 9293 §3.6.1).
                        self._channel.finish()
                        receiver.join(FAREWELL_S)
                        return
                    case (frame, received_ns):
                        self._take(frame, received_ns)

    def drain(self, reason: str) -> None:
        """Ask the host to leave; what it has sent is still carried out. May be called from a signal handler."""
        self._inbox.put(Draining(reason))

    def _receive_all(self) -> None:
        leaving = False
        try:
            while True:
                frame = self._channel.receive()
                received_ns = clock_ns()
                leaving = isinstance(frame.message, Goodbye)
                if isinstance(frame.message, CALLS):
                    self._grant.note_call(_nbytes(frame))
                self._inbox.put((frame, received_ns))
        except (SessionLost, ProtocolError) as exc:
            if leaving and isinstance(exc, SessionLost):
                return
            self._inbox.put(exc)
            self._on_lost(exc)

    def _take(self, frame: Frame, received_ns: int) -> None:
        """Carry out one message and answer it; a call's failure is an answer, and the session goes on."""
        message, began_ns, kernels = frame.message, clock_ns(), 0
        result: Message
        arrays: Sequence[Array] = ()
        try:
            match message:
                case Release(handles=handles):
                    self._release(handles)
                    return
                case Offer():
                    result = self._consider(message, frame.arrays)
                case Load() | Run():
                    answer = self._load(message, frame) if isinstance(message, Load) else self._run(message, frame)
                    result, arrays, kernels = Result(body=answer.body), answer.arrays, answer.kernels
                case _:
                    raise ProtocolError(f"{type(message).__name__} is not expected in a session")
        except ProtocolError:
            raise
        except Exception as exc:  # whatever a call raises belongs to the host, with its type and traceback
            log.debug("call %d failed", frame.number, exc_info=exc)
            result = Failed(pack(exc))
        finally:
            self._pool.give_back(frame.arrays)
        if isinstance(result, Result | Failed):
            ended_ns = clock_ns()
            timings = Timings(received_ns, began_ns - received_ns, ended_ns - began_ns, ended_ns, kernels)
            result = msgspec.structs.replace(result, timings=timings)
        self._grant.note_answer(_nbytes(frame))
        self._channel.send(result, frame.number, arrays)

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
        with self._open_files(load.files) as files:
            model, answer = executor.load(load.body, frame.arrays, files)
        self._models[load.handle] = model
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

    @contextmanager
    def _open_files(self, digests: Mapping[str, str]) -> Iterator[dict[str, Path]]:
        with ExitStack() as stack:
            yield {role: stack.enter_context(self._cache.open(digest)).path for role, digest in digests.items()}


def _nbytes(frame: Frame) -> int:
    return sum(array.nbytes for array in frame.arrays)
