"""What a peer can make fail in the server: a worker that was taken over, and whatever nobody has thought of yet."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

import avec
from avec.config import Settings
from avec.errors import DestinationUnreachable
from avec.host.greeting import greet
from avec.host.session import Session, probe
from destinations import Destination, await_true, floats, relu, running

LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438  # Source: pidfd_getfd(2); Python has no name for it
DATAGRAMS = {
    "no JSON": b"\xff",
    "text that is no UTF-8": b'{"type":"\xff"}',
    "arrays in arrays": b'{"type":"Ask","x":' + b"[" * 5000,
    "objects in objects": b'{"x":' * 1500,
    "a connection that never was": b'{"type":"Broken","epoch":' + b"9" * 4000 + b"}",
    "a turn that it does not have": b'{"type":"GiveBack"}',
    "an order": b'{"type":"Turn"}',
}

MISTAKES = """
from avec.destination.guests import Guest
from avec.destination.stranger import Stranger

receive = Stranger.receive

def failing(self):
    hello = receive(self)
    if hello is not None and hello.program == "a mistake with strangers":
        raise ZeroDivisionError
    return hello

note_broken = Guest._note_broken

def mistaken(self, broken):
    if self.session == "1":
        raise ZeroDivisionError
    return note_broken(self, broken)

Stranger.receive, Guest._note_broken = failing, mistaken
"""


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination that no test may end."""
    with running(tmp_path_factory.mktemp("taken")) as it:
        yield it
        assert it.stop() == 0, it.log_text()


def says(worker: int, data: bytes) -> None:
    """Send a datagram over the sockets by which a worker is tied to the destination, as if it were that worker."""
    folder = Path(f"/proc/{worker}/fd")
    numbers = [int(entry.name) for entry in folder.iterdir() if os.readlink(entry).startswith("socket:")]
    with ExitStack() as stack:
        process = os.pidfd_open(worker)
        stack.callback(os.close, process)
        for number in numbers:
            if (copy := LIBC.syscall(PIDFD_GETFD, process, number, 0)) < 0:
                pytest.skip(
                    f"this system lets nobody have another process's sockets: {os.strerror(ctypes.get_errno())}"
                )
            sock = stack.enter_context(socket.socket(fileno=copy))
            if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                with suppress(OSError):  # it was cut off already
                    sock.send(data)


@pytest.mark.parametrize("name", DATAGRAMS)
def test_a_worker_that_was_taken_over_can_say_nothing_that_ends_the_destination(
    destination: Destination, settings: Settings, name: str
) -> None:
    await_true(lambda: not destination.workers(), "no other worker is left")
    with Session(destination.url, settings) as taken:
        relu(taken)
        says(destination.only_worker(), DATAGRAMS[name])
        for _ in range(2):  # the second after the server has certainly heard
            assert probe(destination.url, settings).formats
        with Session(destination.url, settings) as other:
            assert relu(other).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


def test_a_mistake_of_the_servers_own_ends_the_peer_that_it_shows_with_and_no_other(
    tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "sitecustomize.py").write_text(MISTAKES)
    path = f"{tmp_path}:{Path(avec.__file__).parent.parent}"
    with running(tmp_path / "destination", PYTHONPATH=path) as destination:
        with pytest.raises(DestinationUnreachable):
            greet(destination.url, settings, "status", "a mistake with strangers")
        with Session(destination.url, settings) as session:
            net = relu(session)
            says(destination.only_worker(), b'{"type":"Broken","epoch":1}')
            await_true(lambda: "the worker of session 1 made" in destination.log_text(), "it is logged")
            assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert session.mended == 1, "another worker has taken over"
        text = destination.log_text()
        assert text.count("made the destination fail, and is dropped") == 2
        assert text.count("\nZeroDivisionError") == 2, "with its traceback"
        assert destination.stop() == 0
