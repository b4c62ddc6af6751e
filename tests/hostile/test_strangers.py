"""What somebody who is not known yet can hold of a destination: little memory, a place for seconds, nobody's time."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from avec.destination.waiting_room import STRANGER_COUNT_LIMIT, SUBSCRIBER_COUNT_LIMIT
from avec.host.session import probe
from avec.protocol import messages
from avec.protocol.codec import MAGIC, STRANGER_LIMIT
from destinations import Destination, await_true, host_settings, running
from hostile.test_boundaries import ALL
from protocol.frames import header
from protocol.golden import frame_bytes

HELD_NBYTES = 64 * 1024
COUNT = SUBSCRIBER_COUNT_LIMIT - 4
HELLO_TIMEOUT_S = {"tcp": 3.0, "tls": 10.0}  # in which a busy machine shakes hands with COUNT of them


def resident_nbytes(pid: int) -> int:
    """A process's own memory. Source: proc_pid_smaps(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


@pytest.fixture(scope="module", params=["tcp", "tls"] if ALL else ["tcp"])
def impatient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination that gives strangers a few seconds."""
    options, seconds = ("--listen", f"{request.param}://127.0.0.1:0"), str(HELLO_TIMEOUT_S[request.param])
    with running(tmp_path_factory.mktemp("strangers"), *options, AVEC_HELLO_TIMEOUT_S=seconds) as it:
        yield it


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Destination]:
    """A destination that gives strangers longer than a test takes."""
    with running(tmp_path / "patient", AVEC_HELLO_TIMEOUT_S="60") as it:
        yield it


def connected(destination: Destination, address: str = "127.0.0.1") -> socket.socket:
    """A connection from an address, with hands shaken where that is asked for."""
    host, port = destination.url.partition("://")[2].split(":")
    sock = socket.create_connection((host, int(port)), 10.0, (address, 0))
    if destination.url.startswith("tls"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    return sock


def test_strangers_hold_little_memory_and_their_places_for_seconds(impatient: Destination, tmp_path: Path) -> None:
    server = impatient.process.pid
    with connected(impatient) as first:  # what is made once is there
        first.sendall(bytes(24))
        while first.recv(4096):
            pass
    before = resident_nbytes(server)
    almost = header(messages.Hello, STRANGER_LIMIT, 0) + bytes(STRANGER_LIMIT - 1)
    with ExitStack() as stack:
        socks = [stack.enter_context(connected(impatient)) for _ in range(COUNT)]
        began_s = time.monotonic()
        for sock in socks:
            sock.sendall(almost)
        text = impatient.log_text()
        assert "said no hello" not in text, "the machine was too slow to show anything"
        time.sleep(0.3)  # nothing tells that the bytes have been taken
        assert (resident_nbytes(server) - before) / COUNT < HELD_NBYTES
        for sock in socks:
            try:
                while sock.recv(4096):
                    pass
            except OSError:
                continue
        assert time.monotonic() - began_s < 30.0
    await_true(lambda: "said no hello" in impatient.log_text(), "the log tells of it")
    if impatient.url.startswith("tcp"):  # where anybody may ask
        assert probe(impatient.url, host_settings(tmp_path)).totals.refused["silence"] >= COUNT


@pytest.mark.parametrize("impatient", ["tcp"], indirect=True)
def test_who_does_not_read_an_answer_holds_nobody_up(impatient: Destination, tmp_path: Path) -> None:
    with ExitStack() as stack:
        host, port = impatient.url.removeprefix("tcp://").split(":")
        question = frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "status", "x"), 0, ())
        for _ in range(20):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.connect((host, int(port)))
            sock.sendall(question)
        began_s = time.monotonic()
        assert probe(impatient.url, host_settings(tmp_path / "host")).formats
        assert time.monotonic() - began_s < 10.0  # one after the other they would take a minute


def test_silent_connections_of_one_address_keep_nobody_out_there(patient: Destination, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for _ in range(SUBSCRIBER_COUNT_LIMIT + 16):
            stack.enter_context(connected(patient))
        for _ in range(8):
            assert probe(patient.url, host_settings(tmp_path)).places.strangers < SUBSCRIBER_COUNT_LIMIT


def test_silent_connections_of_many_addresses_keep_nobody_out_and_who_has_few_keeps_them(
    patient: Destination, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        few = stack.enter_context(connected(patient, "127.0.0.2"))
        for number in range(STRANGER_COUNT_LIMIT):
            stack.enter_context(connected(patient, f"127.0.1.{number // SUBSCRIBER_COUNT_LIMIT}"))
        assert probe(patient.url, host_settings(tmp_path)).places.strangers == STRANGER_COUNT_LIMIT - 1
        few.sendall(frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "status", "x"), 0, ()))
        assert few.recv(4096)[:2] == MAGIC
