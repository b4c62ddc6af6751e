"""What is fuzzed: functions that take any bytes and may raise nothing but what the receiving threads expect.

Each is quick and has no state, so that `fuzz.py` can call it millions of times and `test_corpus.py` replays what was
found. The first bytes of an input choose among a target's variants, so that the fuzzer can turn to each.
Not here: bytes that are known to be bad, and by what text they are refused (`bad_frames`).
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from avec.communication.tcp import TcpTransport
from avec.communication.tls import destination_context
from avec.destination.audit import Line
from avec.destination.certificates import make_certificate
from avec.destination.guests import Guest
from avec.destination.orders import DATAGRAM_NBYTES, Assignment
from avec.destination.stranger import Stranger
from avec.errors import AvecError, ProtocolError, ProtocolMismatch
from avec.protocol import messages
from avec.protocol.codec import HEADER, MAGIC, Buffer
from avec.protocol.connection import Connection, State
from avec.protocol.messages import Message, Welcome
from avec.tensor import Array, TensorSpec

SLOW_S = 0.1  # processor time that one input may take, at the best of TRIALS: a collector may run in any of them
TRIALS = 3
HELD_NBYTES = 1 << 20  # of tensors that a target really allocates; the rest of a larger one is not waited for
PROGRAM_LIMIT = 64

Target = Callable[[bytes], None]


class Enough(Exception):
    """The input promises more than is worth giving memory for; a peer would have to send it."""


def limited(target: Target) -> Target:
    """A target that also fails when an input takes too long."""

    @functools.wraps(target)
    def timed(data: bytes) -> None:
        for _ in range(TRIALS):
            began_s = time.thread_time()
            target(data)
            took_s = time.thread_time() - began_s
            if took_s < SLOW_S:
                return
        raise AssertionError(f"{len(data)} bytes took {took_s:.3f} s")

    return timed


def _allocate(number: int, message: Message, index: int, spec: TensorSpec) -> Array:
    if spec.nbytes > HELD_NBYTES:
        raise Enough
    return np.empty(spec.shape, spec.dtype)


def _opening_host() -> Connection:
    return Connection("host", _allocate)


def _opening_destination() -> Connection:
    return Connection("destination", _allocate)


def _open_destination() -> Connection:
    connection = Connection("destination", _allocate)
    connection.send(Welcome(messages.VERSION, "1", "fuzz"))
    return connection


def _open_host() -> Connection:
    connection = Connection("host", _allocate)
    _feed(connection, _frame(0, 1, msgspec.msgpack.encode(Welcome(messages.VERSION, "1", "fuzz")), 0))
    return connection


ENDS = (_opening_destination, _open_destination, _opening_host, _open_host)


def _frame(number: int, kind: int, meta: bytes, payload_nbytes: int) -> bytes:
    return HEADER.pack(MAGIC, messages.VERSION, kind, len(meta), payload_nbytes, number) + meta


def _feed(connection: Connection, data: bytes, step: int = 1 << 16) -> None:
    view = memoryview(data)
    while view:
        target = connection.buffer()
        count = min(len(view), target.nbytes, step)
        target[:count] = view[:count]
        view = view[count:]
        connection.advance(count)


@limited
def stream(data: bytes) -> None:
    """Any bytes at either end of a connection, before and after its opening, in pieces of any size."""
    if len(data) < 2:
        return
    connection = ENDS[data[0] % len(ENDS)]()
    with contextlib.suppress(ProtocolError, ProtocolMismatch, Enough):
        _feed(connection, data[2:], step=data[1] or 1 << 16)
    connection.unfinished()
    connection.end_of_stream()
    assert connection.state is State.CLOSED


@limited
def message(data: bytes) -> None:
    """Any bytes as a message of any type, behind a header that is right."""
    if len(data) < 4:
        return
    connection = ENDS[data[0] % len(ENDS)]()
    kind, payload_nbytes = data[1] % len(messages.TYPES), int.from_bytes(data[2:4], "little")
    with contextlib.suppress(ProtocolError, ProtocolMismatch, Enough):
        _feed(connection, _frame(data[0] + 1, kind, data[4:], payload_nbytes) + bytes(payload_nbytes))
    connection.unfinished()


class _Wire:
    """What a stranger is given in a connection's place: the bytes that come, in pieces, and nobody who reads."""

    peer = "192.0.2.1:7"

    def __init__(self, data: bytes, step: int) -> None:
        self._left = memoryview(data)
        self._step = step
        self.sent = 0

    def receive_into(self, buffer: memoryview) -> int:
        count = min(len(self._left), len(buffer), self._step)
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def part(self, nbytes: int, timeout_s: float) -> None:
        assert nbytes > 0 < timeout_s

    def send(self, buffers: Sequence[Buffer]) -> None:
        self.sent += sum(len(each) for each in buffers)


@functools.cache
def _context() -> ssl.SSLContext:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(make_certificate("fuzz"))
        return destination_context(Path(file.name), None)


def _meet(data: bytes, context: ssl.SSLContext | None) -> None:
    """What the server does with a stranger, up to what it tells its zygote."""
    if len(data) < 1:
        return
    wire = _Wire(data[1:], step=data[0] or 1 << 16)
    stranger = Stranger(cast(TcpTransport, wire), context, deadline_s=0.0)
    try:
        while (hello := stranger.receive()) is None:
            continue
        _welcome(hello, stranger)
    except AvecError as exc:
        stranger.refuse(exc)
    except OSError:
        return


def _welcome(hello: messages.Hello, stranger: Stranger) -> None:
    program = ascii(hello.program[:PROGRAM_LIMIT])[1:-1]
    guest = Guest(Line("", 0.0, "", stranger.transport.peer, hello.purpose, program, "left"))
    guest.resume_s = max(0.0, min(30.0, hello.resume_s))
    assert 0.0 <= guest.resume_s <= 30.0
    if hello.purpose == "resume":
        guest.check(hello, "")
    purpose = "upload" if hello.purpose == "upload" else "session"
    order = Assignment(purpose, "1", program, hello.numerics, 0, "", stranger.transport.peer, None, "", guest.resume_s)
    assert len(msgspec.json.encode(order)) < DATAGRAM_NBYTES


@limited
def plain_stranger(data: bytes) -> None:
    """A server's first bytes from somebody, where nothing is encrypted."""
    _meet(data, None)


@limited
def encrypted_stranger(data: bytes) -> None:
    """A server's first bytes from somebody, where all is encrypted."""
    _meet(data, _context())


TARGETS: dict[str, Target] = {
    "stream": stream,
    "message": message,
    "plain_stranger": plain_stranger,
    "encrypted_stranger": encrypted_stranger,
}
