"""A connection whose hello has not arrived: encrypted or plain, it costs little and is believed nothing.

Not here: how many may wait (`waiting_room`), and whether it may come in (`admission`).
"""

from __future__ import annotations

import contextlib
import ssl

from avec.communication.tcp import TcpTransport
from avec.communication.tls import TlsState, TlsTransport
from avec.communication.transport import Transport
from avec.destination.subscribers import subscriber_at
from avec.errors import AuthenticationFailed, AvecError, ErrorRecord, ProtocolError
from avec.protocol.codec import MAGIC, allocate_array, encode
from avec.protocol.connection import Connection
from avec.protocol.messages import Hello, Message, Refused

PIECE_NBYTES = 4096
ANSWER_NBYTES = 128 * 1024  # that the kernel holds: a whole answer, so that nobody here waits for who does not read it
ANSWER_S = 0.2  # where it does not: as long as all hosts may be held up
ENCRYPTED_LIMIT = 16 * 1024  # bytes of a handshake with the host's certificate and a hello


class Stranger:
    """One connection until its hello is here."""

    def __init__(self, transport: TcpTransport, context: ssl.SSLContext | None, deadline_s: float) -> None:
        self.transport = transport
        self.subscriber = subscriber_at(transport.peer)
        self.deadline_s = deadline_s
        self._connection = Connection("destination", allocate_array)
        self._state = None if context is None else TlsState(context, server_side=True)
        self._received = 0

    @property
    def encrypted(self) -> bool:
        """Whether its bytes are."""
        return self._state is not None

    @property
    def names(self) -> list[str]:
        """The names in its certificate, if it has shown one that an authority of ours has signed."""
        return [] if self._state is None else self._state.names()

    def receive(self) -> Hello | None:
        """Take what has arrived; give the hello once it is complete.

        Raises:
            AvecError: what arrived is no acceptable hello.
            OSError: the connection broke, or is not encrypted as it must be.
        """
        if self._state is not None:
            return self._receive_encrypted(self._state)
        nbytes = self.transport.receive_into(self._connection.buffer())
        if not nbytes:
            raise ConnectionError("closed before its hello")
        return self._advance(nbytes)

    def answer(self, message: Message) -> None:
        """Send one last message; a stranger that does not take it is no loss."""
        with contextlib.suppress(OSError):
            self.transport.part(ANSWER_NBYTES, ANSWER_S)
            if self._state is None or not self._state.shaken:
                self.transport.send(self._connection.send(message))
            else:
                self._open_transport(self._state).send(self._connection.send(message))

    def refuse(self, exc: AvecError) -> None:
        """Say why it is not let in, without where in the program that was found out."""
        if self._state is None or self._state.shaken:
            self.answer(Refused(ErrorRecord(exc.code, str(exc))))

    def open_transport(self) -> Transport:
        """The connection as who serves it uses it."""
        return self.transport if self._state is None else self._open_transport(self._state)

    def _open_transport(self, state: TlsState) -> TlsTransport:
        return TlsTransport(self.transport, state)

    def _receive_encrypted(self, state: TlsState) -> Hello | None:
        piece = memoryview(bytearray(PIECE_NBYTES))
        nbytes = self.transport.receive_into(piece)
        if not nbytes:
            raise ConnectionError("closed before its hello")
        if not self._received and piece[: len(MAGIC)] == MAGIC[:nbytes]:
            self._tell_plain()
        self._received += nbytes
        if self._received > ENCRYPTED_LIMIT:
            raise ProtocolError(f"{self._received} bytes before a hello, and at most {ENCRYPTED_LIMIT} are taken")
        state.feed(piece[:nbytes])
        if not state.shaken and not self._shake(state):
            return None
        while nbytes := state.read_into(self._connection.buffer()):
            if (hello := self._advance(nbytes)) is not None:
                return hello
        if state.ended:
            raise ConnectionError("closed before its hello")
        return None

    def _shake(self, state: TlsState) -> bool:
        try:
            return state.shake()
        finally:
            waiting: list[bytes] = []
            state.take(waiting)
            self.transport.send(waiting)  # two kilobytes at most, which an unused connection takes without blocking

    def _advance(self, nbytes: int) -> Hello | None:
        frame = self._connection.advance(nbytes)
        if frame is None:
            return None
        if not isinstance(frame.message, Hello):
            raise ProtocolError(f"{type(frame.message).__name__} in place of a hello")
        return frame.message

    def _tell_plain(self) -> None:
        text = "this destination takes encrypted connections only: write its URL with tls:// in the place of tcp://"
        record = ErrorRecord(AuthenticationFailed.code, text)
        with contextlib.suppress(OSError):
            self.transport.send(encode(Refused(record)))
        raise ConnectionError("it does not speak TLS")
