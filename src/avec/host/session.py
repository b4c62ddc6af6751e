"""The host's side of a session: calls go out numbered and unwaited-for, answers come back in the background.

One thread sends and one receives, so that an interrupt of the application never tears a frame; a small frame is sent
by the calling thread where that is one indivisible step. Thread-safe. When the connection breaks, the receiving thread
makes another to the same worker, and what that has not received is sent again; who waits just waits longer.
Where the worker is gone, another gets its state first.
Not here: what a call means (front-ends), how models get to the destination (`host.models`), reconnecting (`mending`),
what becomes of a dead worker's state (`recovery`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from avec.communication.channel import SMALL_NBYTES, Channel, clock_ns
from avec.errors import AvecError, DestinationDraining, DestinationError, ProtocolError, SessionLost, unpack
from avec.host.calls import Call, Credit, Happening, Reply
from avec.host.encoding import Encodings, Written
from avec.host.greeting import Resumption, greet
from avec.host.journal import CHANGES, READS, Effect
from avec.host.mending import FIRST_EPOCH, Attempts, WorkerGone, reconnect
from avec.host.outbox import Outbox, Outgoing, Releasing
from avec.host.progress import Progress
from avec.host.recovery import Recovery
from avec.host.unanswered import Copies, Releases, unreceived
from avec.profiling import Origin, Recorder
from avec.protocol.codec import Buffer, Frame, encode
from avec.protocol.messages import (
    AcceleratorInfo,
    Draining,
    Failed,
    Goodbye,
    Load,
    Message,
    Offer,
    Result,
    Run,
    Status,
    Timings,
    Want,
    Welcome,
)
from avec.tensor import Array, TensorSpec

if TYPE_CHECKING:
    from avec.config import Settings
    from avec.host.uploading import Source
    from avec.modelcache import Manifest

GIVE_UP_S = 0.5  # for an attempt to reconnect to end when the session is closed; it may go on without anybody


class Session:
    """One host's use of one destination. A context manager; it ends with `close`, `forget` or the peer's end."""

    def __init__(
        self, url: str, settings: Settings, program: str = "", on_mended: Callable[[str], None] | None = None
    ) -> None:
        """Open a session; blocks until the destination's worker is ready.

        Args:
            url: the destination.
            program: the application's name, for the destination's log.
            on_mended: told in one line when a broken connection was replaced, by the receiving thread.

        Raises:
            DestinationUnreachable: nobody answered, or not in time.
            DestinationError: the destination refused; the text says why.
        """
        self.url = url
        self.recorder = Recorder()
        self._calls: dict[int, Call] = {}
        self._failed: dict[int, list[Call]] = {}  # by handle, in order: failures that no wait has raised yet
        self._numbers = itertools.count(1)
        self._handles = itertools.count(1)
        self._lock = threading.Lock()
        self.issued = 0  # the last call that was handed on; an interrupted caller sees by it whether its own was
        self._lost: str | None = None
        self._draining: str | None = None
        self._closing = False
        self._settings = settings
        self._on_mended = on_mended
        self._away = False  # the connection broke, and another is being made
        self._epoch = FIRST_EPOCH  # or that of the attempt which made the connection
        self._answered_number = 0  # the last call whose answer has arrived
        self._copies = Copies()
        self._given_up = threading.Event()  # nobody wants the session any more
        self.mended = 0  # how often a broken connection was replaced
        self._channel, welcome = greet(url, settings, "session", program, self._allocate)
        if not isinstance(welcome, Welcome) or welcome.accelerator is None:
            self._channel.close()
            raise ProtocolError(f"{url} answered {type(welcome).__name__} to the request for a session")
        self.welcome = welcome
        self.resume_s = min(settings.resume_timeout_s, welcome.resume_s)  # 0: a broken connection is a lost session
        self.accelerator = welcome.accelerator
        self._recovery = Recovery(url, settings, program, self._copies, self.resume_s > 0)
        self._releases = Releases(self._recovery.release)
        try:
            self._encodings = Encodings(settings.codec, welcome.codecs)
        except AvecError:
            self._channel.close()
            raise
        self._credit = Credit(self.welcome.credit_calls, self.welcome.credit_nbytes)
        self._numerics = settings.numerics
        self._channel.measure()
        self._outbox = Outbox(lambda: self._channel, self.resume_s > 0, self._lose)
        self._receiver = threading.Thread(target=self._receive_all, name="avec-receive", daemon=True)
        self._receiver.start()

    @property
    def usable(self) -> bool:
        """Whether calls can still be made: not lost, not draining, not closed."""
        return self._lost is None and self._draining is None and not self._closing

    def new_handle(self) -> int:
        """Number a thing that will live at the destination."""
        return next(self._handles)

    def load(
        self,
        handle: int,
        format: str,
        body: bytes,
        arrays: Sequence[Array] = (),
        files: Mapping[str, str] | None = None,
        effect: Effect = CHANGES,
    ) -> Call:
        """Have an executor make what `handle` will name; files are role → digest of models already offered."""
        answered = self._answered_number
        message = Load(handle=handle, format=format, files=dict(files or {}), body=body, answered=answered)
        return self._call(message, handle, f"{format}.load", arrays, (), effect, Written(clock_ns(), arrays))

    def run(
        self,
        handle: int,
        name: str,
        body: bytes,
        arrays: Sequence[Array] = (),
        files: Mapping[str, str] | None = None,
        into: Sequence[Array | None] = (),
        handles: Sequence[int] = (),
        effect: Effect = CHANGES,
    ) -> Call:
        """Make a call on a handle, without waiting for it.

        Args:
            name: what the call is called in profiles, "caffe.forward".
            body: the format's request.
            arrays: C-contiguous tensors that go along; they must not change until `Call.wait_sent` returns, or `wait`.
            into: where to receive the result's tensors, by place; one that does not fit its tensor, or None, is
                passed over and new memory taken. Nobody may read or write it until the call is waited for.
            handles: of other things that the call needs.
            effect: on the session's state; what it says too much costs memory and time, what it leaves out is lost
                with a worker.

        Raises:
            SessionLost, DestinationDraining: the destination takes no calls any more.
        """
        written = Written(clock_ns(), arrays)
        if effect.restoring is None:  # a snapshot is never to lose anything, whatever results are asked for as
            written = self._encodings.write(handle, name, arrays, overlapped=bool(self._calls))
        message = Run(
            handle=handle,
            files=dict(files or {}),
            body=body,
            handles=tuple(handles),
            answered=self._answered_number,
            codecs=written.asked,
        )
        return self._call(message, handle, name, arrays, into, effect, written)

    def offer(self, digest: str, nbytes: int, chunk_digests: Array) -> Call:
        """Ask which chunks of a model are missing; the reply's `missing` says it. See `host.models`."""
        message = Offer(digest=digest, nbytes=nbytes, answered=self._answered_number)
        written = Written(clock_ns(), (chunk_digests,))
        return self._call(message, 0, "offer", (chunk_digests,), (), READS, written)

    def remember(self, manifest: Manifest, source: Source) -> None:
        """Take note of where a model comes from that the destination has now: another worker may lack it."""
        self._recovery.remember(manifest, source)

    def snapshot_due(self, handle: int) -> bool:
        """Whether the state of a handle should be asked for now, by a call with `Effect.restoring`."""
        return self._recovery.is_due(handle)

    @property
    def restarted(self) -> int:
        """How often another worker took the place of one that was gone."""
        return self._recovery.restarted

    def release(self, handle: int) -> None:
        """Say that a handle is no longer used. Never blocks and may be called from a destructor."""
        if self.resume_s:
            self._releases.add(self.issued, handle)  # before it is known whether this connection carries it
        self._outbox.put(Releasing(handle, self._channel))

    def wait_all(self) -> None:
        """Block until all calls made so far have ended; the next wait on a handle raises what failed on it."""
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.wait_ended()

    def undelivered(self) -> list[AvecError]:
        """The failures that no wait has raised; for a last word when the application ends."""
        with self._lock:
            return [call.error for calls in self._failed.values() for call in calls if call.error]

    @property
    def snapshots(self) -> int:
        """How often a copy of the state has come here."""
        return self._recovery.snapshots

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye, take the answers that are due, release the connection; twice is harmless.

        Waits at most `timeout_s` for calls that are still under way; then they are given up.
        """
        if self._closing:
            return
        self._closing = True
        self._outbox.put(self._goodbye(self._channel))
        self._receiver.join(timeout_s)  # it ends when the destination has answered everything and closed
        with self._lock:  # afterwards no other connection takes the place of this one
            self._given_up.set()
        self._channel.abort()
        self._receiver.join(GIVE_UP_S if self._away else None)
        self._outbox.close()
        if not self._receiver.is_alive():  # else it closes what it has, once it sees that nobody wants that
            self._channel.close()
            self._recovery.close()
        self._note_origin()

    def forget(self) -> None:
        """Let go of the connection in a forked child without ending it for the parent."""
        self._closing = True
        self._lost = "the session belongs to the parent process"
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _call(
        self,
        message: Load | Run | Offer,
        handle: int,
        name: str,
        arrays: Sequence[Array],
        into: Sequence[Array | None],
        effect: Effect,
        written: Written,
    ) -> Call:
        progress = Progress(written.began_ns)
        nbytes = sum(array.nbytes for array in arrays)
        self._check_usable()
        asked_ns = clock_ns()
        self._credit.take(nbytes)
        progress.blocked_ns = clock_ns() - asked_ns  # next to nothing while there is credit
        with self._lock:
            number = next(self._numbers)
            try:
                self._check_usable()  # again: it may have changed since, and after a Goodbye nothing is answered
                buffers = encode(message, number, written.parts)
            except (ValueError, DestinationError):
                self._credit.give_back(nbytes)
                raise
            progress.wire_nbytes_up = len(buffers[0]) + sum(part.nbytes for part in written.parts)
            progress.encoded_ns = clock_ns()
            keep = self._keep_frames if self.resume_s else None
            call = Call(
                number,
                handle,
                name,
                nbytes,
                progress,
                into,
                self._raise_late,
                self.recorder.add,
                keep,
                self._recovery.wants(handle, effect),
                None if isinstance(message, Offer) else message,
            )
            call.written = written
            self._hand_on(call, buffers)
        if self._lost is not None:  # between the check and the registration: nobody else would end this call
            self._end_calls()
        return call

    def _hand_on(self, call: Call, buffers: Sequence[Buffer]) -> None:
        """Have a call sent; after an interrupt it was handed on as a whole, or it was not made."""
        handed_on: list[Any] = []
        try:
            if self.resume_s:
                call.frames = buffers
            self._calls[call.number] = call
            if self._away:
                handed_on.append(None)  # it is sent with all others, once there is a connection again
            # A small call is sent by this thread, which saves waking another; not while something earlier is queued.
            elif call.progress.wire_nbytes_up <= SMALL_NBYTES and self._outbox.empty:
                data = b"".join(buffers)
                if self.resume_s:
                    call.frames = (data,)
                self._channel.send_at_once(data, handed_on)
                if handed_on:
                    call.sent.happen()
            if not handed_on:
                self._outbox.put(Outgoing(buffers, self._channel, call.sent), handed_on)
        except BaseException:
            if not handed_on:
                del self._calls[call.number]
                self._credit.give_back(call.nbytes)
            raise
        finally:
            if handed_on:
                self.issued = call.number

    def _check_usable(self) -> None:
        if self._draining is not None:
            raise DestinationDraining(f"{self.url} takes no more calls: {self._draining}")
        if self._lost is not None:
            raise SessionLost(f"the session with {self.url} is lost: {self._lost}")

    def _raise_late(self, waited: Call) -> None:
        """Raise the earliest failure on this call's handle, up to this call, that no wait has raised yet."""
        with self._lock:
            failed = self._failed.get(waited.handle, [])
            if not failed or failed[0].number > waited.number:
                return
            error = failed.pop(0).error
        if error is not None:
            raise error

    def _allocate(self, number: int, message: Message, index: int, spec: TensorSpec) -> Array:
        return self._memory(self._calls.get(number), index, spec)

    def _memory(self, call: Call | None, index: int, spec: TensorSpec) -> Array:
        if call is not None and call.effect is not None and call.effect.restoring is not None:
            return self._recovery.room(spec)
        target = call.into[index] if call is not None and index < len(call.into) else None
        if target is not None and target.dtype == spec.dtype and target.shape == spec.shape:
            if target.flags.c_contiguous and target.flags.writeable:
                return target
        return np.empty(spec.shape, spec.dtype)

    def _keep_frames(self, call: Call, sent: Happening) -> bool:
        """Make the frames of a call that was sent independent of the application's memory; see Call's `on_sent`."""
        frames = call.frames
        if frames is None or call.copied or len(frames) == 1:  # of a small call, or without tensors
            return True
        copies = self._copies.of(frames)
        with self._lock:
            if call.sent is not sent:
                return False
            if call.number in self._calls:
                call.frames, call.copied = copies, True
        return True

    def _receive_all(self) -> None:
        try:
            while True:
                try:
                    frame = self._channel.receive()
                except SessionLost as exc:
                    self._mend(exc)
                else:
                    self._take(frame)
        except (SessionLost, ProtocolError) as exc:
            self._lose(str(exc))
        except MemoryError as exc:
            self._lose(f"this host has no memory for a result: {exc}")
        except BaseException as exc:  # nobody shall wait for what nobody receives
            self._lose(f"its receiving thread failed: {exc!r}")
            raise
        if self._given_up.is_set():
            self._channel.retire()  # `close` may not have waited

    def _mend(self, broke: SessionLost) -> None:
        """Replace the connection that broke by another to the same worker, and have sent what that has not received.

        Raises:
            SessionLost: the session cannot be resumed, or is not to be.
        """
        with self._lock:
            over = self._draining is not None or (self._closing and not self._calls)
            if not self.resume_s or over or self._given_up.is_set():
                raise broke
            self._away = True
        self._channel.abort()  # wakes the sending thread
        attempts = Attempts(self.resume_s, self._given_up, self._recovery.possible and not self._closing)
        wish = Resumption(self.welcome.session, self.welcome.secret, self._epoch + 1, self._answered_number)
        how = "over a new connection"
        try:
            try:
                channel, welcome, self._epoch = reconnect(self.url, self._settings, wish, attempts, self._allocate)
                received = welcome.received
            except WorkerGone as gone:
                if self._closing:
                    raise
                received = self._answered_number
                channel, self.welcome = self._restart(gone, attempts)
                how = f"at another worker, where {self._recovery.made_again} calls were made again,"
                self._epoch = FIRST_EPOCH
            self._go_on(channel, received)
        except SessionLost as exc:
            raise SessionLost(f"{broke}; {exc}") from exc
        self.mended += 1
        if self._on_mended is not None:
            took_s = time.monotonic() - attempts.began_s
            self._on_mended(f"{broke}; the session went on {how} after {took_s:.2f} s")

    def _restart(self, gone: WorkerGone, attempts: Attempts) -> tuple[Channel, Welcome]:
        with self._lock:
            waiting = list(self._calls.values())
        return self._recovery.restart(gone, attempts, self._allocate, waiting, self._answered_number)

    def _go_on(self, channel: Channel, received: int) -> None:
        """Take a new connection into use; `received` is the last call that the destination has."""
        with self._lock:
            refusal = self._refusal(waiting := unreceived(list(self._calls.values()), self._releases, received))
            if refusal is None:
                old, self._channel = self._channel, channel
                channel.link = old.link  # the clocks are the same
                self._away = False
                for call in self._calls.values():
                    sent, call.sent = call.sent, Happening()
                    sent.happen()  # who waits for it waits for the other now
                    if call.number <= received:
                        call.sent.happen()
                for each in waiting:
                    self._outbox.put(self._again(each, channel))
                if self._closing:
                    self._outbox.put(self._goodbye(channel))
        if refusal is not None:
            with contextlib.suppress(SessionLost):
                channel.send(Goodbye())
            channel.retire()
            raise SessionLost(refusal)
        old.retire()
        channel.measure()

    def _refusal(self, waiting: Sequence[Call | int]) -> str | None:
        """Why a session that the destination would resume cannot go on, if it cannot."""
        if self._given_up.is_set():
            return "it is over"
        for each in waiting:
            if isinstance(each, Call) and each.frames is None:
                return (
                    f"call {each.number} did not arrive and cannot be sent again, since the application has got the "
                    f"memory of its {each.nbytes} bytes back"
                )
        return None

    def _again(self, item: Call | int, channel: Channel) -> Outgoing | Releasing:
        if isinstance(item, int):
            return Releasing(item, channel)
        return Outgoing(item.frames or (), channel, item.sent)

    def _goodbye(self, channel: Channel) -> Outgoing:
        return Outgoing(encode(Goodbye()), channel)

    def _take(self, frame: Frame) -> None:
        match frame.message:
            case Result() as result:
                ended_ns = clock_ns()
                memory = functools.partial(self._memory, self._calls.get(frame.number))
                frame, decode_ns = self._encodings.read(frame, memory)
                call = self._answered(frame, result.timings, ended_ns)
                written, call.written = call.written or Written(0, ()), None  # it holds the application's tensors
                round_trip_ns = self._channel.link.round_trip_ns
                self._encodings.note(call.handle, call.name, written, call.progress, result, decode_ns, round_trip_ns)
                call.succeed(Reply(result.body, frame.arrays))
            case Want() as want:
                call = self._answered(frame, None, clock_ns())
                call.succeed(Reply(missing=want.missing))
            case Failed() as failed:
                call = self._answered(frame, failed.timings, clock_ns())
                call.written = None
                with self._lock:
                    self._failed.setdefault(call.handle, []).append(call)
                call.fail(unpack(failed.error))
            case Draining() as draining:
                with self._lock:
                    self._draining = draining.reason
                    # Whatever was queued before it is still carried out and answered.
                    self._outbox.put(self._goodbye(self._channel))
            case _:
                raise ProtocolError(f"{type(frame.message).__name__} is not expected in a session")

    def _answered(self, frame: Frame, timings: Timings | None, ended_ns: int) -> Call:
        with self._lock:
            call = self._calls.pop(frame.number, None)
        if call is None:
            raise ProtocolError(f"an answer to call {frame.number}, which is not under way")
        self._answered_number = frame.number
        self._releases.forget(frame.number)
        self._recovery.take(call, frame, compared=self.accelerator.kind == "cpu")
        self._credit.give_back(call.nbytes)
        progress = call.progress
        progress.ended_ns, progress.timings, progress.wire_nbytes_down = ended_ns, timings, frame.nbytes
        progress.offset_ns = self._channel.link.offset_ns
        return call

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = self._draining or reason
        self._channel.abort()  # wakes the other thread
        self._end_calls()
        self._credit.open()

    def _end_calls(self) -> None:
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.fail(SessionLost(f"the session with {self.url} was lost during {call.name}: {self._lost}"))

    def _note_origin(self) -> None:
        self.recorder.codecs = self._encodings.uses()
        self.recorder.origin = Origin(
            self.url,
            describe(self.accelerator),
            self._numerics,
            self._channel.link.round_trip_ns / 1e6,
            self.welcome.software,
        )


def describe(accelerator: AcceleratorInfo) -> str:
    """Write an accelerator for a person: "NVIDIA H200 (cuda, 140 GiB)"."""
    return f"{accelerator.name} ({accelerator.kind}, {accelerator.memory_nbytes / 2**30:.0f} GiB)"


def probe(url: str, settings: Settings) -> Status:
    """Ask a destination what it is and does, without opening a session.

    Raises:
        DestinationUnreachable: nobody answered in time.
        ProtocolMismatch: it speaks another version.
    """
    channel, answer = greet(url, settings, "status")
    channel.close()
    if not isinstance(answer, Status):
        raise ProtocolError(f"{url} answered {type(answer).__name__} to the request for its status")
    return answer
