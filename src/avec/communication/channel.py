"""A protocol connection over a transport: thread-safe sending, receiving with heartbeat. Used by both ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avec.communication.link import Link
from avec.communication.transport import Transport
from avec.errors import ProtocolError, SessionLost
from avec.protocol.codec import Allocate, Buffer, Frame, Part, allocate_array
from avec.protocol.connection import Connection, Role, State
from avec.protocol.messages import Message, Ping, Pong
from avec.tensor import Array

clock_ns = time.monotonic_ns
STAGE_NBYTES = 16 * 1024  # smaller pieces than this are received together; larger ones where they belong
SMALL_NBYTES = 16 * 1024  # bytes that a socket which is writable takes without blocking
LIFE_NS = 100_000_000  # nanoseconds: while bytes come in, something goes out at least so often


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """After `interval_s` of silence a Ping goes out; after `misses` silent intervals the peer counts as lost."""

    interval_s: float
    misses: int


class Channel:
    """One connection in use. Any thread may send; one thread receives."""

    def __init__(
        self, transport: Transport, role: Role, heartbeat: Heartbeat, allocate: Allocate = allocate_array
    ) -> None:
        self.link = Link()
        self._transport = transport
        self._connection = Connection(role, allocate)
        self._sending = threading.Lock()
        self._sent_ns = clock_ns()
        self._finished = False
        self._stage = memoryview(bytearray(STAGE_NBYTES))  # what was received at once, to be taken piece by piece
        self._staged = self._stage[:0]
        self.set_heartbeat(heartbeat)

    @property
    def peer(self) -> str:
        """The other end's address, for messages."""
        return self._transport.peer

    def set_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Change how long silence is borne."""
        self._heartbeat = heartbeat
        self._transport.set_tick(heartbeat.interval_s)

    def encode(self, message: Message, number: int = 0, arrays: Sequence[Part] = ()) -> list[Buffer]:
        """Encode a frame for `send_encoded`; errors in the message show here.

        Raises:
            SessionLost: the peer has closed the connection.
        """
        if self._connection.state is State.CLOSED:
            raise SessionLost(f"{self.peer} closed the connection")
        return self._connection.send(message, number, arrays)

    def send(self, message: Message, number: int = 0, arrays: Sequence[Part] = ()) -> None:
        """Send one frame, blocking while the network is full.

        Raises:
            SessionLost: the peer or the network is gone.
        """
        self.send_encoded(self.encode(message, number, arrays))

    def send_encoded(self, buffers: Sequence[Buffer]) -> None:
        """Send one or more encoded frames in one gathering write."""
        try:
            with self._sending:
                self._transport.send(buffers)
                self._sent_ns = clock_ns()
        except OSError as exc:
            raise SessionLost(f"sending to {self.peer} failed: {exc}") from exc

    def send_at_once(self, data: bytes, sent: list[int]) -> None:
        """Send an encoded frame from this thread, if nobody else is sending and it goes out without blocking.

        Args:
            data: a frame of SMALL_NBYTES at most.
            sent: gets an item exactly when the frame was sent, even if an interrupt is raised here.
        """
        held: list[bool] = []
        try:
            # In one call, since between two an interrupt could be raised, and nobody would ever send again.
            held.extend(map(self._sending.acquire, (False,)))
            if held[0] and not self._finished and self._transport.writable():  # then there is room for all of it
                self._transport.send_at_once(data, sent)
                if sent and sent[0] < len(data):
                    self._transport.send([memoryview(data)[sent[0] :]])
                self._sent_ns = clock_ns()
        except OSError:
            self._transport.abort()  # the receiving side finds the connection broken and says so
        finally:
            if held and held[0]:
                self._sending.release()

    def receive(self) -> Frame:
        """Receive the next frame that is not part of the heartbeat.

        Raises:
            SessionLost: the peer closed, was silent too long, or the network failed.
            ProtocolError: the peer sent what the protocol does not allow.
        """
        while True:
            frame = self._receive_frame()
            match frame.message:
                case Ping() as ping:
                    self._answer(ping)
                case Pong() as pong:
                    self.link.observe(pong, clock_ns())
                case _:
                    return frame

    def measure(self) -> None:
        """Ask for one round-trip sample; `receive` takes the answer."""
        self._send_if_free(lambda: Ping(clock_ns()))

    def readable(self) -> bool:
        """Whether something has arrived that `receive` would take."""
        return self._staged.nbytes > 0 or self._transport.readable()

    def discard(self, timeout_s: float) -> None:
        """Read and throw away what still comes, until the peer closes: closing first would reset the connection and
        lose the last message that was sent to it (RFC 9293 §3.6.1)."""
        self._transport.set_tick(timeout_s)
        waste = memoryview(bytearray(64 * 1024))
        with contextlib.suppress(OSError):  # TimeoutError is one: enough was waited
            while self._transport.receive_into(waste):
                pass

    def finish(self) -> None:
        """Say that nothing more will be sent; what was sent still arrives, and receiving goes on."""
        with self._sending:
            self._finished = True
            self._transport.finish()

    def abort(self) -> None:
        """End the connection at once, from any thread; blocked calls raise SessionLost."""
        self._transport.abort()

    def close(self) -> None:
        """Release the descriptor; no thread may be sending or receiving."""
        self._transport.close()

    def retire(self) -> None:
        """End the connection at once and release the descriptor, although others may be sending: they get SessionLost.

        To be called by the receiving thread.
        """
        self._transport.abort()  # whoever sends now is done soon
        with self._sending:  # a descriptor that is released while somebody sends may be another connection's by then
            self._finished = True
            self._transport.close()

    def unfinished(self) -> tuple[Array, ...]:
        """The tensors of a frame that will never be complete, for those who gave the memory."""
        return self._connection.unfinished()

    def _receive_frame(self) -> Frame:
        silent = 0
        while True:
            try:
                nbytes = self._receive_into(self._connection.buffer())
            except TimeoutError as exc:
                silent += 1
                if self._transport.is_cut():
                    raise SessionLost(f"{self.peer} acknowledges nothing any more; the link is cut") from exc
                if silent >= self._heartbeat.misses:
                    seconds = silent * self._heartbeat.interval_s
                    raise SessionLost(f"nothing came from {self.peer} for {seconds:.1f} s; the link is cut") from exc
                self.measure()
                continue
            except OSError as exc:
                raise SessionLost(f"the connection to {self.peer} broke: {exc}") from exc
            if nbytes == 0:
                whole = self._connection.end_of_stream()
                raise SessionLost(f"{self.peer} closed the connection{'' if whole else ' in the middle of a message'}")
            silent = 0
            if clock_ns() - self._sent_ns > LIFE_NS:
                # A large frame keeps a slow link busy for longer than its sender bears silence, and the sender's Ping
                # waits behind that frame.
                self.measure()
            if (frame := self._connection.advance(nbytes)) is not None:
                return frame

    def _receive_into(self, target: memoryview) -> int:
        """Receive into memory; a frame's small pieces, which come together, cost one system call in all."""
        if not self._staged.nbytes:
            if target.nbytes >= STAGE_NBYTES:
                return self._transport.receive_into(target)
            self._staged = self._stage[: self._transport.receive_into(self._stage)]
        nbytes = min(target.nbytes, self._staged.nbytes)
        target[:nbytes] = self._staged[:nbytes]
        self._staged = self._staged[nbytes:]
        return nbytes

    def _answer(self, ping: Ping) -> None:
        received_ns = clock_ns()
        self._send_if_free(lambda: Pong(ping.sent_ns, received_ns, clock_ns()))

    def _send_if_free(self, make: Callable[[], Message]) -> None:
        # Never wait here. Both receiving threads waiting to send, with both windows full, would be a deadlock; and a
        # send under way shows the peer as well as a heartbeat that this end lives.
        if not self._sending.acquire(blocking=False):
            return
        try:
            if not self._finished and self._transport.writable():
                self._transport.send(self._connection.send(make()))
                self._sent_ns = clock_ns()
        except (OSError, ProtocolError):
            self._transport.abort()  # the receiving side finds the connection broken and says so
        finally:
            self._sending.release()
