"""One call under way, and the credit that bounds how many there are. Used by `host.session` and by front-ends."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import msgspec

from avec.communication.channel import clock_ns
from avec.errors import AvecError
from avec.host.encoding import Written
from avec.host.journal import Effect
from avec.host.progress import Progress
from avec.profiling import ExecutionCycle
from avec.protocol.codec import Buffer
from avec.protocol.messages import Load, Run
from avec.tensor import Array

# Folders whose code is not the application's: AVEC's own, and those of the libraries that it stands under.
_passed_over: tuple[str, ...] = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,)


class Reply(msgspec.Struct, frozen=True):
    """What the destination answered."""

    body: bytes = b""
    arrays: tuple[Array, ...] = ()
    missing: tuple[tuple[int, int], ...] = ()  # chunks, when the call was an Offer


class Happening:
    """Something that happens once and is waited for: an Event takes five times as long to make and to wait for."""

    __slots__ = ("_held", "_lock", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._lock = threading.Lock()  # held until it happens
        self._lock.acquire()
        self._held = [self._lock]  # until somebody, one alone, has taken it to release it

    def happen(self) -> None:
        """Wake all who wait; twice is once."""
        self.happened = True
        try:
            held = self._held.pop()
        except IndexError:
            return
        held.release()

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until it has happened, or the time is over."""
        if not self.happened and self._lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
            self._lock.release()


class Call:
    """A numbered call. `wait` gives its reply; any thread may wait, also several times."""

    def __init__(
        self,
        number: int,
        handle: int,
        name: str,
        nbytes: int,
        progress: Progress,
        into: Sequence[Array | None],
        on_wait: Callable[[Call], None],
        record: Callable[[ExecutionCycle], None],
        on_sent: Callable[[Call, Happening], bool] | None = None,
        effect: Effect | None = None,
        message: Load | Run | None = None,
    ) -> None:
        """Describe a call.

        Args:
            effect: on the session's state, where it may have to be made again after it was answered.
            on_wait: called in `wait`, once the call has ended.
            on_sent: called in `wait_sent` of a call without an answer, with the sending that was waited for; False when
                the call is being sent again meanwhile.
        """
        self.number = number
        self.handle = handle
        self.name = name
        self.nbytes = nbytes  # of the tensors that went along
        self.progress = progress
        self.into = into
        self.site = where_called()
        self._on_wait = on_wait
        self._record_cycle = record
        self.sent = Happening()
        self.frames: Sequence[Buffer] | None = None  # to be sent again; None: cannot be, or need not
        self.written: Written | None = None  # what codecs made of its tensors
        self.copied = False  # the frames are copies, and the application may change its memory
        self._on_sent = on_sent
        self.effect = effect
        self.message = message
        self._ended = Happening()
        self._reply = Reply()
        self._error: AvecError | None = None
        self._awaited = False
        self._unrecorded = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether the answer is here, so that `wait` would not block."""
        return self._ended.happened

    def wait_sent(self) -> None:
        """Block until the call's tensors were handed to the network, or copied, so that they may change again."""
        while not self.done:
            sent = self.sent
            self._block(sent)
            if self.done or self._on_sent is None or self._on_sent(self, sent):
                return

    def wait_ended(self, timeout_s: float | None = None) -> None:
        """Block until the answer is here, or the call has failed, or the time is over; raises in no case."""
        self._ended.wait(timeout_s)

    def wait(self) -> Reply:
        """Block until the answer is here.

        Raises:
            AvecError: this call failed, or an earlier one on the same handle that nobody has waited for.
        """
        self._awaited = True
        self.progress.waited |= not self.done
        if self.effect is not None and self._on_sent is not None and not self.done:
            self._on_sent(self, self.sent)  # copies what may change once this returns, while there is time
        self._block(self._ended)
        self._record()
        self._on_wait(self)
        if self._error is not None:
            raise self._error
        return self._reply

    def _block(self, until: Happening) -> None:
        if not until.happened:
            began_ns = clock_ns()
            until.wait()
            self.progress.blocked_ns += clock_ns() - began_ns

    def succeed(self, reply: Reply) -> None:
        """End with a reply; `progress` is complete."""
        self._reply = reply
        self._end()

    def fail(self, error: AvecError) -> None:
        """End with an error, which says where the application made this call."""
        error.call_number = self.number
        error.add_note(f"The failing call was {self.name}, made at {self.site}.")
        self._error = error
        self._end()

    @property
    def error(self) -> AvecError | None:
        """What the call failed with, if it did."""
        return self._error

    def _end(self) -> None:
        self._ended.happen()
        self.sent.happen()
        if not self._awaited:
            self._record()

    def _record(self) -> None:
        # A waiting thread records, so that its wake-up counts; where nobody waits, the thread that ended the call does.
        if self._error is not None or not self._unrecorded.acquire(blocking=False):
            return
        progress = self.progress
        self._record_cycle(
            ExecutionCycle(
                call=self.number,
                name=self.name,
                site=self.site,
                began_ns=progress.began_ns,
                stages_ns=progress.stages_ns(clock_ns()),
                tensor_nbytes_up=self.nbytes,
                tensor_nbytes_down=sum(array.nbytes for array in self._reply.arrays),
                wire_nbytes_up=progress.wire_nbytes_up,
                wire_nbytes_down=progress.wire_nbytes_down,
                kernels=progress.timings.kernels if progress.timings else 0,
                waited=progress.waited,
                blocked_ns=progress.blocked_ns,
            )
        )


class Credit:
    """How many calls and tensor bytes may be unanswered, so that the destination never has to stop reading."""

    def __init__(self, calls: int, nbytes: int) -> None:
        self._calls = calls
        self._nbytes = nbytes
        self._taken_calls = 0
        self._taken_nbytes = 0
        self._open = False
        # Entered by itself: an interrupt within a Condition's own `__enter__`, which is Python, would keep it for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def take(self, nbytes: int) -> None:
        """Block until a call of this size fits; one larger than the whole credit waits until it is alone."""
        with self._lock:
            self._changed.wait_for(lambda: self._open or self._fits(nbytes))
            self._taken_calls += 1
            self._taken_nbytes += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return what an answered call took."""
        with self._lock:
            self._taken_calls -= 1
            self._taken_nbytes -= nbytes
            self._changed.notify_all()  # whoever alone was told might not fit, or have been interrupted

    def open(self) -> None:
        """Let everybody pass: the session is lost, and whoever comes will be told."""
        with self._lock:
            self._open = True
            self._changed.notify_all()

    def _fits(self, nbytes: int) -> bool:
        if self._taken_calls == 0:
            return True
        return self._taken_calls < self._calls and self._taken_nbytes + nbytes <= self._nbytes


def _application_frame(frame: FrameType) -> FrameType:
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_passed_over):
        frame = frame.f_back
    return frame


def pass_over(folder: str) -> None:
    """Do not take a library's code for the application's when saying where a call was made."""
    global _passed_over
    if folder not in _passed_over:
        _passed_over += (folder,)


def where_called() -> str:
    """The innermost place in the application, "app.py:12", past AVEC's own frames and those of its libraries.

    In a thread of a library's own it is the place where the main thread waits for that.
    """
    frame = _application_frame(sys._getframe(1))
    if frame.f_code.co_filename.startswith(_passed_over):
        main = threading.main_thread().ident
        if main is not None and threading.get_ident() != main:
            frame = _application_frame(sys._current_frames().get(main, frame))
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
