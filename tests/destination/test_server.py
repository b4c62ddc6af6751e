"""The server that hosts connect to: strangers, limits, the end. Each destination is started as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from avec.communication import connect
from avec.config import Settings
from avec.destination.waiting_room import SUBSCRIBER_COUNT_LIMIT
from avec.errors import (
    CacheUnavailable,
    DestinationDraining,
    DestinationError,
    DestinationUnreachable,
    ProtocolError,
    ProtocolMismatch,
    SessionLost,
    unpack,
)
from avec.host import models
from avec.host.session import Session, probe
from avec.modelcache import manifest_of_bytes
from avec.protocol import messages
from avec.protocol.codec import allocate_array
from avec.protocol.connection import Connection
from destinations import SLOW, SLOW_SHAPE, Destination, Net, alive, await_true, floats, host_settings, relu, running
from hostile.bad_frames import FRAMES, STRANGERS
from protocol.frames import NUMBERS, raw_frame
from protocol.golden import frame_bytes
from relay import Relay

pytestmark = pytest.mark.usefixtures("tidy")

Open = Callable[..., Session]
HELLO_TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination for two hosts that has little patience with strangers, and with hosts that answer nothing."""
    variables = {
        "AVEC_HELLO_TIMEOUT_S": str(HELLO_TIMEOUT_S),
        "AVEC_MAX_SESSIONS": "2",
        "AVEC_HEARTBEAT_S": "0.2",
        "AVEC_IDLE_HOST_TIMEOUT_S": "0.8",
    }
    with running(tmp_path_factory.mktemp("small"), **variables) as destination:
        yield destination
        assert destination.stop() == 0, destination.log_text()


@pytest.fixture
def small(small_server: Destination, settings: Settings) -> Destination:
    """That destination, once the sessions of the test before have ended."""
    await_true(lambda: small_server.sessions(settings) == 0, "all places are free")
    return small_server


def stranger(destination: Destination) -> socket.socket:
    host, port = destination.url.removeprefix("tcp://").split(":")
    sock = socket.create_connection((host, int(port)))
    sock.settimeout(10.0)
    return sock


def what_comes(sock: socket.socket) -> bytes:
    """All that the destination sends until it closes."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:  # it had not read all that it closed upon
        return data
    return data


def answer_to(destination: Destination, data: bytes) -> messages.Message | None:
    """The one message that a destination answers to a stranger's bytes, if it does."""
    with stranger(destination) as sock:
        sock.sendall(data)
        answer = what_comes(sock)
    connection = Connection("host", allocate_array)
    view = memoryview(answer)
    while view:
        count = min(len(view), connection.buffer().nbytes)
        connection.buffer()[:count] = view[:count]
        view = view[count:]
        if (frame := connection.advance(count)) is not None:
            return frame.message
    return None


def refusal(destination: Destination, data: bytes) -> Exception:
    answer = answer_to(destination, data)
    assert isinstance(answer, messages.Refused)
    return unpack(answer.error)


def test_an_address_that_others_can_reach_is_warned_of(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", "tcp://0.0.0.0:0", "--insecure") as destination:
        assert "is open to everybody who can reach it" in destination.log_text()


def test_loopback_is_not_warned_of(destination: Destination) -> None:
    assert "is open to everybody" not in destination.log_text()


@pytest.mark.parametrize("name", STRANGERS)
def test_a_hostile_stranger_is_told_why_it_is_refused(destination: Destination, name: str) -> None:
    data, reason = STRANGERS[name]
    refused = refusal(destination, data)
    assert isinstance(refused, ProtocolError)
    assert reason in str(refused)


def test_no_hostile_bytes_end_the_destination(destination: Destination, settings: Settings) -> None:
    for data, _ in [*FRAMES.values(), *STRANGERS.values()]:
        with stranger(destination) as sock:
            sock.sendall(data)
            with suppress(OSError):  # the destination may have hung up already
                sock.shutdown(socket.SHUT_WR)
            what_comes(sock)
    assert destination.sessions(settings) >= 0


def test_no_hostile_bytes_after_a_hello_end_more_than_their_own_worker(
    destination: Destination, open_session: Open
) -> None:
    bystander = relu(open_session())
    hello = frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "session", "hostile"), 0, ())
    socks = []
    with ExitStack() as stack:
        for data, _ in list(FRAMES.values())[:10]:
            sock = stack.enter_context(stranger(destination))
            sock.sendall(hello + data)
            socks.append(sock)
        for sock in socks:
            what_comes(sock)
    assert bystander.forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1


@pytest.mark.parametrize(("oldest", "newest"), [(messages.VERSION + 1, messages.VERSION + 2), (0, 0)])
def test_a_host_of_another_version_is_told_both_versions(destination: Destination, oldest: int, newest: int) -> None:
    refused = refusal(destination, frame_bytes(messages.Hello(oldest, newest, "session", "avec 9"), 0, ()))
    assert isinstance(refused, ProtocolMismatch)
    assert f"this end {messages.OLDEST_VERSION}…{messages.VERSION}" in str(refused)


def test_a_hello_that_has_grown_is_welcome(destination: Destination) -> None:
    hello = messages.Hello(1, messages.VERSION + 1, "status", "avec 9", "app.py")
    meta = [*msgspec.to_builtins(hello), {"new": True}]
    assert isinstance(answer_to(destination, raw_frame(messages.Hello, meta)), messages.Status)


@pytest.mark.parametrize("program", ["\0" * 3800, "字" * 1200, "a\nb\x1b[31m", "\\" * 3800])
def test_a_programs_name_can_neither_burst_nor_forge_the_log(destination: Destination, program: str) -> None:
    hello = frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "session", "avec", program), 0, ())
    with stranger(destination) as sock:
        sock.sendall(hello)
        assert sock.recv(3) == b"AV" + bytes([messages.VERSION])
        assert sock.recv(1) == bytes([NUMBERS[messages.Welcome]])
    assert max(map(len, destination.log_text().splitlines())) < 2000
    assert "\x1b" not in destination.log_text()


def test_half_a_hello_is_dropped_after_its_time(small: Destination) -> None:
    with stranger(small) as sock:
        sock.sendall(frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "session", "avec"), 0, ())[:-1])
        began_s = time.monotonic()
        assert what_comes(sock) == b""
        assert HELLO_TIMEOUT_S * 0.5 < time.monotonic() - began_s < HELLO_TIMEOUT_S + 5
    await_true(lambda: "said no hello in 0.4 s" in small.log_text(), "it is logged")


def test_a_hello_in_single_bytes_is_understood(small: Destination) -> None:
    with stranger(small) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "status", "avec"), 0, ()):
            sock.sendall(bytes([byte]))
        assert what_comes(sock)[3] == NUMBERS[messages.Status]


def test_of_strangers_beyond_the_limit_the_oldest_make_room(small: Destination, settings: Settings) -> None:
    before = probe(small.url, settings).totals.refused.get("crowd", 0)
    with ExitStack() as stack:
        for sock in [stack.enter_context(stranger(small)) for _ in range(SUBSCRIBER_COUNT_LIMIT + 8)]:
            assert what_comes(sock) == b""
    assert probe(small.url, settings).totals.refused["crowd"] == before + 8


def test_a_host_that_leaves_while_it_is_accepted_is_no_trouble(small: Destination, tmp_path: Path) -> None:
    os.kill(small.process.pid, signal.SIGSTOP)
    try:
        for _ in range(5):
            sock = stranger(small)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()  # sends a RST before it is accepted
    finally:
        os.kill(small.process.pid, signal.SIGCONT)
    assert probe(small.url, host_settings(tmp_path)).formats


def test_a_full_destination_says_so_and_takes_the_next_when_one_leaves(small: Destination, tmp_path: Path) -> None:
    settings = host_settings(tmp_path)
    with Session(small.url, settings), Session(small.url, settings) as second:
        assert second.welcome.sessions == 1
        with pytest.raises(
            DestinationError, match=r"is full: it serves 2 sessions.*\(--max-sessions 2\); try again later or elsewhere"
        ):
            Session(small.url, settings)
        assert probe(small.url, settings).sessions == 2
    await_true(lambda: probe(small.url, settings).sessions == 0, "both are gone")
    Session(small.url, settings).close()


def test_an_upload_takes_no_sessions_place(small: Destination, tmp_path: Path) -> None:
    settings = host_settings(tmp_path)
    with Session(small.url, settings), Session(small.url, settings) as second:
        assert models.provide(second, b"a model", settings)
        assert probe(small.url, settings).models >= 1


def test_a_session_ends_when_the_host_says_nothing_for_long(small: Destination) -> None:
    before = small.workers()
    with stranger(small) as sock:
        sock.sendall(frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "session", "avec"), 0, ()))
        assert sock.recv(1)
        worker = small.new_worker(before)
        what_comes(sock)
    await_true(lambda: not alive(worker), "the worker has ended")


def test_an_upload_ends_when_its_host_offers_models_and_reads_nothing_for_long(
    small: Destination, tmp_path: Path
) -> None:
    settings = host_settings(tmp_path)
    manifest = manifest_of_bytes(b"a model that is there")
    with Session(small.url, settings) as session:
        models.provide(session, b"a model that is there", settings)
    await_true(lambda: not small.workers(), "the workers of that have ended")
    offer = messages.Offer(digest=manifest.digest, nbytes=manifest.nbytes)
    offers = b"".join(
        frame_bytes(offer, number, (np.frombuffer(manifest.chunks, np.uint8),)) for number in range(1, 20_000)
    )
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # else the kernel holds megabytes of answers
        sock.connect(("127.0.0.1", int(small.url.rpartition(":")[2])))
        sock.settimeout(20.0)
        sock.sendall(frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "upload", "x"), 0, ()))
        with suppress(ConnectionError):  # it may have ended before it has read them all
            sock.sendall(offers)
        await_true(lambda: not small.workers(), "its worker has ended")
    assert "reads nothing" in small.log_text()


def test_sigterm_lets_a_call_under_way_be_answered_and_no_new_one_in(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host")
    with running(tmp_path / "served") as destination, Session(destination.url, settings) as session:
        net = Net(session, SLOW, SLOW_SHAPE)
        call = net.forward(np.zeros(SLOW_SHAPE, np.float32))
        call.wait_sent()
        destination.process.terminate()
        assert call.wait().arrays[0].shape == (1024, 4096)
        await_true(lambda: not session.usable, "the host knows")
        with pytest.raises(DestinationDraining, match="takes no more calls: it is shutting down"):
            net.forward(floats(1))
        assert destination.wait() == 0
        with pytest.raises(DestinationUnreachable):
            Session(destination.url, settings)


def test_a_host_is_told_while_the_destination_drains_that_it_does(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host")
    with running(tmp_path / "served") as destination, stranger(destination) as early:
        with Session(destination.url, settings) as session:
            Net(session, SLOW, SLOW_SHAPE).forward(np.zeros(SLOW_SHAPE, np.float32)).wait_sent()
            probe(destination.url, settings)  # the early stranger was accepted before this one
            destination.process.terminate()
            await_true(lambda: "draining" in destination.log_text(), "it drains")
            with pytest.raises(DestinationDraining, match="is shutting down and takes no more hosts"):
                Session(destination.url, settings)
            assert probe(destination.url, settings).draining
            early.sendall(frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "session", "avec"), 0, ()))
            assert what_comes(early)[3] == NUMBERS[messages.Refused]
        assert destination.wait() == 0


def test_a_second_sigterm_ends_at_once_what_the_first_would_wait_for(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host", heartbeat_s=60.0, recovery="off")
    with running(tmp_path / "served", AVEC_DRAIN_TIMEOUT_S="60") as destination:
        with Session(destination.url, settings) as session:
            worker = destination.only_worker()
            os.kill(worker, signal.SIGSTOP)  # it will never be done
            call = session.run(1, "test", b"")
            destination.process.terminate()
            await_true(lambda: "draining" in destination.log_text(), "it drains")
            began_s = time.monotonic()
            destination.process.terminate()
            assert destination.wait() == 0
            assert time.monotonic() - began_s < 5
            with pytest.raises(SessionLost):
                call.wait()
        assert not alive(worker)


def test_draining_ends_after_its_time(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host", heartbeat_s=60.0)
    with running(tmp_path / "served", AVEC_DRAIN_TIMEOUT_S="0.3") as destination:
        with Session(destination.url, settings):
            worker = destination.only_worker()
            os.kill(worker, signal.SIGSTOP)
            destination.process.terminate()
            assert destination.wait() == 0
        assert not alive(worker)


def test_a_killed_server_leaves_no_process(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host", recovery="off")
    with running(tmp_path / "served") as destination, Session(destination.url, settings) as session:
        processes = [destination.zygote_pid, *destination.workers()]
        call = Net(session, SLOW, SLOW_SHAPE, wait=False).forward(np.zeros(SLOW_SHAPE, np.float32))
        destination.process.kill()
        with pytest.raises(SessionLost):
            call.wait()
        await_true(lambda: not any(map(alive, processes)), "zygote and worker have ended")
        destination.wait()


def test_a_lifeline_holds_the_destination_until_its_process_and_all_sessions_are_gone(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host")
    with subprocess.Popen(["sleep", "1000"]) as application:
        with running(tmp_path / "served", "--lifeline", str(application.pid)) as destination:
            session = Session(destination.url, settings)
            application.kill()
            application.wait()
            with pytest.raises(DestinationUnreachable):
                while True:
                    probe(destination.url, settings)
            assert destination.process.poll() is None
            assert relu(session).forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1
            session.close()
            assert destination.wait() == 0


def test_the_first_line_names_url_accelerator_and_formats(tmp_path: Path, destination: Destination) -> None:
    status = probe(destination.url, host_settings(tmp_path))
    with closing(connect(destination.url, 5.0)) as transport:
        assert transport.peer == destination.url.removeprefix("tcp://")
    assert status.software.startswith("avec ")
    assert status.accelerators[0].name


def test_a_cache_folder_that_others_may_write_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(AssertionError, match="others could replace models in the cache folder"):
        with running(tmp_path):
            pass


def test_an_upload_to_a_full_disk_is_refused_with_what_to_do_and_the_destination_goes_on(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host")
    limited = ("sh", "-c", 'ulimit -f 8192; exec "$@"', "sh")  # blocks of 512 or 1024 bytes
    with running(tmp_path / "served", prefix=limited) as destination, Session(destination.url, settings) as session:
        with pytest.raises(CacheUnavailable, match="File too large.*free more or choose another --cache-dir"):
            models.provide(session, bytes(12 << 20), settings)
        assert models.provide(session, b"a small one", settings)
        left = [path for path in destination.cache_dir.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]
        assert left == []


def test_every_call_that_was_taken_before_the_host_knew_of_draining_is_answered(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host")
    with running(tmp_path / "served") as destination, Relay(destination.url) as relay:
        with Session(relay.url, settings) as session:
            net = relu(session, 500_000)
            x = np.ones(500_000, np.float32)
            relay.down.rate = 10_000_000
            calls = [net.forward(x) for _ in range(4)]
            destination.process.terminate()
            with pytest.raises(DestinationDraining):
                while True:
                    calls.append(net.forward(x))
                    calls[max(0, len(calls) - 4)].wait()
            assert [call.wait().arrays[0].sum() for call in calls] == [500_000.0] * len(calls)
        assert destination.wait() == 0
