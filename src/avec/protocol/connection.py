"""One end of a connection as a state machine: who may send what, when. Sans-I/O.

    opening ──Hello/Welcome──▶ open ──Draining──▶ draining ──▶ closed

The host side numbers calls and keeps to the credit that Welcome granted; the destination side sees that numbers rise.
Not here: sockets, threads, clocks, and what the messages do.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal

from avec.errors import ProtocolError, ProtocolMismatch
from avec.protocol import messages
from avec.protocol.codec import META_LIMIT, STRANGER_LIMIT, Allocate, Buffer, Frame, FrameReader, Part, encode
from avec.protocol.messages import Message
from avec.tensor import Array

Role = Literal["host", "destination"]

_FROM_HOST = frozenset(
    {messages.Hello, messages.Offer, messages.Chunk, messages.Load, messages.Run, messages.Release,
     messages.Ping, messages.Pong, messages.Goodbye}
)  # fmt: skip
_FROM_DESTINATION = frozenset(set(messages.TYPES) - _FROM_HOST | {messages.Ping, messages.Pong})
CALLS = (messages.Offer, messages.Load, messages.Run)  # numbered by the host, each answered once
ANSWERS = (messages.Want, messages.Result, messages.Failed)


class State(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Connection:
    """The protocol's view of one connection. Not thread-safe: one lock for sending, one thread for receiving."""

    def __init__(self, role: Role, allocate: Allocate) -> None:
        self.role = role
        self.state = State.OPENING
        # What refuses a host may bring a traceback along; a host chose whom it talks to.
        self._reader = FrameReader(allocate, STRANGER_LIMIT if role == "destination" else META_LIMIT)
        self._sendable = _FROM_HOST if role == "host" else _FROM_DESTINATION
        self._receivable = _FROM_DESTINATION if role == "host" else _FROM_HOST
        self._last_call = 0

    def send(self, message: Message, number: int = 0, arrays: Sequence[Part] = ()) -> list[Buffer]:
        """Encode a message that may be sent now.

        Raises:
            ProtocolError: this end may not send it in this state (a defect here, not of the peer).
        """
        if type(message) not in self._sendable or self.state is State.CLOSED:
            raise ProtocolError(f"a {self.role} cannot send {type(message).__name__} when {self.state.value}")
        if self.role == "destination" and isinstance(message, messages.Welcome):
            self.state = State.OPEN
            self._reader.trust()
        return encode(message, number, arrays)

    def buffer(self) -> memoryview:
        """The memory where the next received bytes belong."""
        return self._reader.buffer()

    def advance(self, nbytes: int) -> Frame | None:
        """Take note of received bytes; give the frame that they completed, if any.

        Raises:
            ProtocolError: the bytes are no frame, or the message is not allowed now.
            ProtocolMismatch: the first message shows that there is no common version.
        """
        frame = self._reader.advance(nbytes)
        if frame is not None:
            self._check(frame)
        return frame

    def unfinished(self) -> tuple[Array, ...]:
        """The tensors of the frame that is being received."""
        return self._reader.unfinished()

    def end_of_stream(self) -> bool:
        """Take note that the peer closed; tell whether it did so between two frames."""
        self.state = State.CLOSED
        return self._reader.idle

    def _check(self, frame: Frame) -> None:
        kind = type(frame.message)
        if kind not in self._receivable:
            raise ProtocolError(f"a {self.role} does not take {kind.__name__}")
        if self.state is State.OPENING:
            self._check_first(frame.message)
        elif kind in (messages.Hello, messages.Welcome, messages.Refused):
            raise ProtocolError(f"a second {kind.__name__} on one connection")
        if isinstance(frame.message, messages.Draining):
            self.state = State.DRAINING
        if self.role == "destination" and isinstance(frame.message, CALLS):
            if frame.number <= self._last_call:
                raise ProtocolError(f"call {frame.number} after call {self._last_call}: numbers must rise")
            self._last_call = frame.number

    def _check_first(self, message: Message) -> None:
        match message:
            case messages.Hello():
                agree(message.oldest, message.newest)
            case messages.Welcome():
                if not messages.OLDEST_VERSION <= message.version <= messages.VERSION:
                    raise ProtocolMismatch(mismatch_text(message.version, message.version))
                self.state = State.OPEN
                self._reader.trust()
            case messages.Refused() | messages.Status():
                self.state = State.CLOSED
            case _:
                raise ProtocolError(f"{type(message).__name__} before the hello is done")


def agree(oldest: int, newest: int) -> int:
    """Choose the newest version that both ends speak.

    Raises:
        ProtocolMismatch: there is none.
    """
    version = min(newest, messages.VERSION)
    if version < max(oldest, messages.OLDEST_VERSION):
        raise ProtocolMismatch(mismatch_text(oldest, newest))
    return version


def mismatch_text(oldest: int, newest: int) -> str:
    """Say which versions met and what to do."""
    theirs = f"{oldest}" if oldest == newest else f"{oldest}…{newest}"
    return (
        f"the peer speaks protocol version {theirs}, this end {messages.OLDEST_VERSION}…{messages.VERSION}; "
        "install the same AVEC release on both machines"
    )
