"""tls:// is a transport; whom it trusts; what changed bytes and impatient interrupts do to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from avec import communication
from avec.communication import tls
from avec.communication.tcp import TcpTransport
from avec.communication.tls import TlsState, TlsTransport, Trust
from avec.errors import ConfigurationError, DestinationUnreachable, DestinationUntrusted
from communication.certificates import certificate, fingerprint
from conformance.transport import check_transport, receive_exactly


def trust() -> Trust:
    return Trust(fingerprint(certificate()))


def accept(tcp: TcpTransport, context: ssl.SSLContext | None = None) -> TlsTransport:
    state = TlsState(context or tls.destination_context(certificate()), server_side=True)
    tls.shake_hands(tcp, state, time.monotonic() + 10.0)
    return TlsTransport(tcp, state)


def tls_pair(known: Trust | None = None) -> tuple[TlsTransport, TlsTransport]:
    with contextlib.closing(communication.listen("tls://127.0.0.1:0")) as listener, ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(communication.connect, listener.url, 10.0, known or trust())
        accepted = listener.accept()
        assert isinstance(accepted, TcpTransport)
        theirs = accept(accepted)
        try:
            ours = connecting.result()
        except BaseException:
            theirs.close()
            raise
        assert isinstance(ours, TlsTransport)
        return ours, theirs


@contextlib.contextmanager
def open_tls_pair() -> Iterator[tuple[TlsTransport, TlsTransport]]:
    ours, theirs = tls_pair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        yield ours, theirs


def test_tls_conforms() -> None:
    check_transport(tls_pair)


def test_bytes_of_both_directions_at_once_arrive_unchanged() -> None:
    up = np.random.default_rng(1).integers(0, 256, 24 << 20, np.uint8).tobytes()
    down = np.random.default_rng(2).integers(0, 256, 24 << 20, np.uint8).tobytes()
    with open_tls_pair() as (ours, theirs), ThreadPoolExecutor(3) as pool:
        sending = [pool.submit(ours.send, [memoryview(up)]), pool.submit(theirs.send, [memoryview(down)])]
        received = pool.submit(receive_exactly, theirs, len(up))
        assert receive_exactly(ours, len(down)) == down
        assert received.result() == up
        for each in sending:
            each.result()


def test_nothing_older_than_tls_1_3_is_spoken() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = TlsState(tls.destination_context(certificate()), server_side=True)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server.feed(outgoing.read())
    with pytest.raises(ConnectionError, match="UNSUPPORTED_PROTOCOL"):
        server.shake()


def test_another_certificate_than_the_pinned_one_is_not_trusted() -> None:
    other = fingerprint(certificate("other"))
    with pytest.raises(DestinationUntrusted, match=f"{trust().fingerprint}.*{other}.*Somebody may be between"):
        tls_pair(Trust(other))


def test_without_a_fingerprint_no_byte_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        with pytest.raises(DestinationUntrusted, match="paste the line `avec login"):
            communication.connect(f"tls://127.0.0.1:{server.getsockname()[1]}", 5.0)
        with pytest.raises(TimeoutError):
            server.accept()


def test_somebody_who_does_not_speak_tls_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        url = f"tls://127.0.0.1:{server.getsockname()[1]}"
        connecting = pool.submit(communication.connect, url, 10.0, trust())
        with server.accept()[0] as sock:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with pytest.raises(DestinationUnreachable, match="is it a `tls` one"):
                connecting.result()


def test_a_handshake_that_stalls_ends_in_time_although_bytes_trickle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        began_s = time.monotonic()
        connecting = pool.submit(communication.connect, f"tls://127.0.0.1:{server.getsockname()[1]}", 0.4, trust())
        with server.accept()[0] as sock, contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):  # the begin of a record of 16 KB
                sock.sendall(bytes([byte]))
                if connecting.done():
                    break
                threading.Event().wait(0.02)
        with pytest.raises(DestinationUnreachable, match="took too long"):
            connecting.result()
        assert time.monotonic() - began_s < 5


def test_a_changed_byte_ends_the_connection_before_anything_of_it_is_believed() -> None:
    client = TlsState(tls.host_context(trust()), server_side=False)
    server = TlsState(tls.destination_context(certificate()), server_side=True)
    while not (client.shaken and server.shaken):
        for one, other in ((client, server), (server, client)):
            one.shake()
            waiting: list[bytes] = []
            one.take(waiting)
            other.feed(b"".join(waiting))
    client.write(b"a hello with a token", [])
    record: list[bytes] = []
    client.take(record)
    changed = bytearray(b"".join(record))
    changed[10] ^= 1
    server.feed(bytes(changed))
    memory = memoryview(bytearray(100))
    with pytest.raises(ConnectionError, match="TLS: .*BAD_RECORD_MAC|TLS: DECRYPTION_FAILED"):
        server.read_into(memory)
    assert not any(memory)


def test_what_an_interrupt_left_unsent_goes_out_first_with_the_next_send(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_tls_pair() as (ours, theirs):
        send_some = TcpTransport.send_some

        def interrupted(self: TcpTransport, data: memoryview, sent: list[int]) -> None:
            send_some(self, data[:7], sent)
            raise KeyboardInterrupt

        sent: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(TcpTransport, "send_some", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ours.send_at_once(b"first ", sent)
        assert sent == [6], "the frame is on its way, whatever the interrupt"
        ours.send([b"second"])
        assert receive_exactly(theirs, 12) == b"first second"


def test_asking_whether_something_came_loses_nothing_and_ends_at_the_end() -> None:
    with open_tls_pair() as (ours, theirs):
        theirs.send([bytes(40_000)])
        assert ours.readable(5.0)
        assert ours.readable()
        assert receive_exactly(ours, 40_000) == bytes(40_000)
        theirs.finish()
        assert ours.readable(5.0)
        assert ours.receive_into(memoryview(bytearray(1))) == 0


def test_a_destination_that_wants_certificates_refuses_a_host_without(tmp_path: Path) -> None:
    context = tls.destination_context(certificate(), authority=certificate("authority"))
    with contextlib.closing(communication.listen("tls://127.0.0.1:0")) as listener, ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(communication.connect, listener.url, 10.0, trust())
        tcp = listener.accept()
        assert isinstance(tcp, TcpTransport)
        with contextlib.closing(tcp), pytest.raises(ConnectionError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            accept(tcp, context)
        connecting.result().close()


def test_a_certificate_of_the_authority_names_its_host() -> None:
    authority = certificate("authority")  # signed by itself, so its own authority
    context = tls.destination_context(certificate(), authority)
    with contextlib.closing(communication.listen("tls://127.0.0.1:0")) as listener, ThreadPoolExecutor(1) as pool:
        known = Trust(fingerprint(certificate()), authority)
        connecting = pool.submit(communication.connect, listener.url, 10.0, known)
        tcp = listener.accept()
        assert isinstance(tcp, TcpTransport)
        state = TlsState(context, server_side=True)
        with contextlib.closing(tcp):
            tls.shake_hands(tcp, state, time.monotonic() + 10)
            assert state.names() == ["authority"]
        connecting.result().close()


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_a_file_without_a_certificate_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot read a certificate and its private key from .*own.pem"):
        tls.destination_context(path)
