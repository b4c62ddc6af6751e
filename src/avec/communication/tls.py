"""tls://: TLS 1.3 by Python's ssl over a blocking socket.

The cryptography (`TlsState`) is apart from the network. OpenSSL allows no two threads in one connection, so each step
of it takes a lock; a thread that waits for the network holds none, so that sending and receiving never wait for one
another. The host knows the destination by the fingerprint of its certificate, which needs no authority and no names.
Not here: making certificates and choosing whom to let in (`destination`).
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from avec.communication.tcp import TcpTransport
from avec.communication.tcp import connect as connect_tcp
from avec.errors import ConfigurationError, DestinationUnreachable, DestinationUntrusted
from avec.protocol.codec import Buffer

RECEIVE_NBYTES = 256 * 1024  # of encrypted bytes at once: 16 records
PIECE_NBYTES = 256 * 1024  # that are encrypted before they are sent, so that the other thread gets its turn
JOIN_NBYTES = 16 * 1024  # smaller buffers are joined into one record, which is no longer than this
FINGERPRINT_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class Trust:
    """What a host knows of a destination, and shows it of itself."""

    fingerprint: str  # "sha256:" and 64 hex digits, of the destination's certificate
    certificate: Path | None = None  # the host's own with its key, in PEM, where the destination asks for one


class TlsState:
    """One end's cryptography: encrypted bytes in and out, plain bytes out and in. Sans-I/O; thread-safe."""

    def __init__(self, context: ssl.SSLContext, server_side: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._lock = threading.Lock()
        self.shaken = False  # hands: both ends have keys
        self.ended = False  # the peer has said that nothing more comes

    def feed(self, data: Buffer) -> None:
        """Take encrypted bytes that came."""
        with self._lock:
            self._incoming.write(data)

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done. What it wants to send waits to be taken.

        Raises:
            ConnectionError: the peer's part of it is wrong.
        """
        with self._lock:
            try:
                self._object.do_handshake()
                self.shaken = True
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError as exc:
                raise ConnectionError(f"no TLS 1.3 connection came about: {exc.reason or exc}") from exc
        return True

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt what has come, as far as it fits; 0 when a record is not complete, or at the end.

        Raises:
            ConnectionError: the bytes were changed on their way, or are none of this connection's.
        """
        nbytes = 0
        with self._lock:
            try:
                while nbytes < buffer.nbytes:
                    # typeshed knows neither that it reads into any memory nor that it gives a number then.
                    count = cast(int, self._object.read(buffer.nbytes - nbytes, cast(bytearray, buffer[nbytes:])))
                    if not count:
                        self.ended = True
                        break
                    nbytes += count
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.ended = True
            except ssl.SSLError as exc:
                raise ConnectionError(f"TLS: {exc.reason or exc}") from exc
        return nbytes

    def write(self, data: Buffer, written: list[int]) -> None:
        """Encrypt, and append the number of plain bytes to `written`, which tells the truth even if an interrupt
        is raised: what is encrypted must be sent, since the peer counts records."""
        with self._lock:
            before = self._outgoing.pending
            try:
                written.extend(map(self._object.write, (data,)))
            except ssl.SSLError as exc:
                raise ConnectionError(f"TLS: {exc.reason or exc}") from exc
            except BaseException:  # ssl looks for interrupts after it has encrypted
                if not written and self._outgoing.pending > before:
                    written.append(memoryview(data).nbytes)
                raise

    def take(self, into: list[bytes]) -> None:
        """Move the encrypted bytes that are to be sent into a list."""
        with self._lock:
            into.extend(map(self._outgoing.read, (-1,)))  # in one call: an interrupt between two would lose them

    def certificate(self) -> bytes:
        """The peer's certificate (DER), whose key it has proved to have; empty where it has shown none."""
        with self._lock:
            return self._object.getpeercert(binary_form=True) or b""

    def names(self) -> list[str]:
        """The common names in the peer's certificate, if an authority of ours has signed it."""
        with self._lock:
            found = (self._object.getpeercert() or {}).get("subject", ())
        subject = cast("tuple[tuple[tuple[str, str], ...], ...]", found)
        return [value for part in subject for key, value in part if key == "commonName"]


class TlsTransport:
    """One TCP connection whose bytes are encrypted; see `Transport`.

    Neither end says in TLS that it has finished: the end of the TCP stream says it. Someone on the path could say it
    too, but the protocol's own frames tell where a conversation may end, and cutting it is in their power anyway.
    """

    def __init__(self, tcp: TcpTransport, state: TlsState) -> None:
        """Encrypt a connection whose hands are shaken."""
        self._tcp = tcp
        self._state = state
        self._way: tuple[list[bytes], list[int]] = ([], [])  # encrypted bytes, and how many of them were sent
        self._received = memoryview(b"")  # made when first needed: a stranger who is only answered costs less
        self._ahead_memory = memoryview(bytearray(JOIN_NBYTES))
        self._ahead = self._ahead_memory[:0]  # decrypted while somebody asked whether there is anything

    @property
    def peer(self) -> str:
        return self._tcp.peer

    def fileno(self) -> int:
        return self._tcp.fileno()

    def set_tick(self, seconds: float) -> None:
        self._tcp.set_tick(seconds)

    def send(self, buffers: Sequence[Buffer]) -> None:
        for piece in _pieces(buffers):
            self._state.write(piece, [])
            self._flush()

    def send_at_once(self, data: bytes, sent: list[int]) -> None:
        self._state.write(data, sent)
        self._flush()  # which does not block, since the socket is writable, but for what was left after an interrupt

    def writable(self) -> bool:
        return self._tcp.writable()

    def readable(self, timeout_s: float = 0.0) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not self._ahead.nbytes:
            self._ahead = self._ahead_memory[: self._state.read_into(self._ahead_memory)]
            if self._ahead.nbytes or self._state.ended:
                break
            if not self._tcp.readable(max(0.0, deadline_s - time.monotonic())):
                return False
            if not self._feed():
                break  # the end, which can be received at once
        return True

    def receive_into(self, buffer: memoryview) -> int:
        if self._ahead.nbytes:
            nbytes = min(self._ahead.nbytes, buffer.nbytes)
            buffer[:nbytes] = self._ahead[:nbytes]
            self._ahead = self._ahead[nbytes:]
            return nbytes
        while not (nbytes := self._state.read_into(buffer)):
            if self._state.ended or not self._feed():
                return 0
        return nbytes

    def is_cut(self) -> bool:
        return self._tcp.is_cut()

    def finish(self) -> None:
        self._tcp.finish()

    def abort(self) -> None:
        self._tcp.abort()

    def close(self) -> None:
        self._tcp.close()

    def _feed(self) -> int:
        self._received = self._received or memoryview(bytearray(RECEIVE_NBYTES))
        nbytes = self._tcp.receive_into(self._received)
        self._state.feed(self._received[:nbytes])
        return nbytes

    def _flush(self) -> None:
        """Send what is encrypted. After an interrupt the rest waits for the next one who sends, at least a Ping."""
        encrypted, sent = self._way
        self._state.take(encrypted)
        data = memoryview(b"".join(encrypted))
        while (count := sum(sent)) < data.nbytes:
            self._tcp.send_some(data[count:], sent)
        self._way = ([], [])


def host_context(trust: Trust) -> ssl.SSLContext:
    """What a host asks of a connection: TLS 1.3; `connect` looks at the fingerprint.

    Raises:
        ConfigurationError: the host's own certificate cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the fingerprint takes the place of names and authorities
    context.verify_mode = ssl.CERT_NONE
    if trust.certificate is not None:
        load_certificate(context, trust.certificate)
    return context


def destination_context(certificate: Path, authority: Path | None = None) -> ssl.SSLContext:
    """What a destination asks of a connection: TLS 1.3, and a certificate of the host's if `authority` is given.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nothing is resumed, so there is nothing to replay
    load_certificate(context, certificate)
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigurationError(f"cannot read the certificates of an authority in {authority}: {exc}") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, path: Path) -> None:
    """Give a context its own certificate and key, both in one PEM file.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    try:
        context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"cannot read a certificate and its private key from {path}: {exc}") from exc


def fingerprint_of(certificate: bytes) -> str:
    """The name of a certificate (DER) that a host knows its destination by."""
    return FINGERPRINT_PREFIX + hashlib.sha256(certificate).hexdigest()


def connect(host: str, port: int, timeout_s: float, trust: Trust | None) -> TlsTransport:
    """Connect; see `communication.connect`."""
    url = f"tls://{host}:{port}"
    if trust is None:
        raise DestinationUntrusted(
            f"nothing is known by which {url} could prove to be the destination that you mean; paste the line "
            "`avec login …` that `avec serve` printed there when it began"
        )
    state = TlsState(host_context(trust), server_side=False)
    deadline_s = time.monotonic() + timeout_s
    tcp = connect_tcp(host, port, timeout_s, "tls")
    try:
        shake_hands(tcp, state, deadline_s)
        _check_fingerprint(url, fingerprint_of(state.certificate()), trust.fingerprint)
    except ConnectionError as exc:
        tcp.close()
        if isinstance(exc, DestinationUntrusted):
            raise
        raise DestinationUnreachable(f"no destination answers at {url} ({exc}); is it a `tls` one?") from exc
    except BaseException:
        tcp.close()
        raise
    return TlsTransport(tcp, state)


def shake_hands(tcp: TcpTransport, state: TlsState, deadline_s: float) -> None:
    """Make the keys, blocking.

    Args:
        deadline_s: on the monotonic clock.

    Raises:
        ConnectionError: it did not come about in time, or at all.
    """
    memory = memoryview(bytearray(JOIN_NBYTES))
    done = False
    while not done:
        try:
            done = state.shake()
        finally:  # what went wrong is told to the peer as well
            waiting: list[bytes] = []
            state.take(waiting)
            tcp.send(waiting)
        if done:
            return
        if not tcp.readable(max(0.0, deadline_s - time.monotonic())):
            raise ConnectionError("the TLS handshake took too long")
        nbytes = tcp.receive_into(memory)
        if not nbytes:
            raise ConnectionError("closed in the TLS handshake")
        state.feed(memory[:nbytes])


def _check_fingerprint(url: str, found: str, expected: str) -> None:
    if not hmac.compare_digest(found, expected):
        raise DestinationUntrusted(
            f"who answers at {url} has the certificate {found}, and the destination that you logged in to has "
            f"{expected}. Somebody may be between; or it was set up anew: compare with the line that `avec serve` "
            "printed there, and paste that"
        )


def _pieces(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """Cut and join buffers into what is encrypted at a time; neither bytes nor their order change."""
    small: list[Buffer] = []
    nbytes = 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if nbytes + view.nbytes <= JOIN_NBYTES:
            small.append(view)
            nbytes += view.nbytes
            continue
        if nbytes:
            yield b"".join(small)
            small, nbytes = [], 0
        if view.nbytes <= JOIN_NBYTES:
            small, nbytes = [view], view.nbytes
            continue
        for start in range(0, view.nbytes, PIECE_NBYTES):
            yield view[start : start + PIECE_NBYTES]
    if nbytes:
        yield b"".join(small)
