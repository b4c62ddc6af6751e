"""What a host makes of a destination that does not keep to the protocol: an error by name, never a hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from avec.config import Settings
from avec.errors import (
    AcceleratorOutOfMemory,
    DestinationDraining,
    DestinationUnreachable,
    ErrorRecord,
    ProtocolError,
    ProtocolMismatch,
    SessionLost,
    pack,
)
from avec.host.session import Session, probe
from avec.protocol import messages
from destinations import await_true
from host.scripted import WELCOME, Peer, scripted
from hostile.bad_frames import FRAMES

Script = Callable[[Peer], None]


def first_answer(message: messages.Message) -> Script:
    def script(peer: Peer) -> None:
        peer.receive()
        peer.say(message)

    return script


def answer_to_call(message: messages.Message, off_by: int = 0) -> Script:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.say(message, peer.receive_call().number + off_by)

    return script


def loss(script: Script, settings: Settings) -> str:
    """Make a call at a destination that answers by a script; how the session was lost."""
    with scripted(script) as url, Session(url, settings) as session:
        with pytest.raises(SessionLost) as caught:
            session.run(1, "test", b"").wait()
        return str(caught.value)


def test_an_answer_to_no_call_ends_the_session(settings: Settings) -> None:
    assert "an answer to call 8, which is not under way" in loss(answer_to_call(messages.Result(), 7), settings)


def test_a_second_answer_to_a_call_ends_the_session(settings: Settings) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        number = peer.receive_call().number
        peer.say(messages.Result(), number)
        peer.say(messages.Result(), number)

    with scripted(script) as url, Session(url, settings) as session:
        session.run(1, "test", b"").wait()
        with pytest.raises(SessionLost, match="an answer to call 1, which is not under way"):
            session.run(1, "test", b"").wait()


@pytest.mark.parametrize("message", [messages.Stored("d"), messages.Status()])
def test_a_message_of_another_kind_of_connection_ends_the_session(
    settings: Settings, message: messages.Message
) -> None:
    assert f"{type(message).__name__} is not expected in a session" in loss(answer_to_call(message), settings)


def test_a_hosts_message_from_a_destination_ends_the_session(settings: Settings) -> None:
    assert "a host does not take Goodbye" in loss(answer_to_call(messages.Goodbye()), settings)


@pytest.mark.parametrize(
    "name", ["an HTTP request", "a payload of 16 EiB", "text that is no UTF-8", "lists within lists"]
)
def test_hostile_bytes_end_the_session_with_their_name(settings: Settings, name: str) -> None:
    data, reason = FRAMES[name]

    def script(peer: Peer) -> None:
        peer.welcome()
        peer.receive_call()
        peer.say_bytes(data)

    found = loss(script, settings)
    assert reason in found or "does not take" in found


def test_a_result_that_this_host_has_no_memory_for_ends_the_session(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> np.ndarray:
        raise MemoryError("3.00 GiB")

    monkeypatch.setattr("avec.host.session.np.empty", full)
    result = messages.Result(parts=(messages.PartSpec("uint8", (0,)),))
    assert "this host has no memory for a result: 3.00 GiB" in loss(answer_to_call(result), settings)


def test_an_error_of_a_class_that_this_host_does_not_know_keeps_its_code(settings: Settings) -> None:
    failed = messages.Failed(ErrorRecord("quota", "used up"))
    with scripted(answer_to_call(failed)) as url, Session(url, settings) as session:
        with pytest.raises(RuntimeError, match="^quota: used up"):
            session.run(1, "test", b"").wait()


def test_a_refusal_is_raised_as_what_it_is(settings: Settings) -> None:
    refused = messages.Refused(pack(AcceleratorOutOfMemory("no room for a context")))
    with scripted(first_answer(refused)) as url:
        with pytest.raises(AcceleratorOutOfMemory, match="no room for a context"):
            Session(url, settings)


@pytest.mark.parametrize("version", [0, 7])
def test_a_welcome_of_another_version_is_a_mismatch(settings: Settings, version: int) -> None:
    with scripted(first_answer(messages.Welcome(version, "1", "avec 9"))) as url:
        with pytest.raises(ProtocolMismatch, match=f"the peer speaks protocol version {version}, this end"):
            Session(url, settings)


def test_a_welcome_without_an_accelerator_is_refused(settings: Settings) -> None:
    with scripted(first_answer(messages.Welcome(messages.VERSION, "1", "avec"))) as url:
        with pytest.raises(ProtocolError, match="answered Welcome to the request for a session"):
            Session(url, settings)


def test_a_status_in_a_welcomes_place_is_refused(settings: Settings) -> None:
    with scripted(first_answer(messages.Status())) as url:
        with pytest.raises(ProtocolError, match="answered Status to the request for a session"):
            Session(url, settings)


def test_a_welcome_in_a_status_place_is_refused(settings: Settings) -> None:
    with scripted(first_answer(WELCOME)) as url:
        with pytest.raises(ProtocolError, match="answered Welcome to the request for its status"):
            probe(url, settings)


def test_what_is_no_destination_at_all_is_told_by_its_first_bytes(settings: Settings) -> None:
    def script(peer: Peer) -> None:
        peer.say_bytes(b"SSH-2.0-OpenSSH_9.6 and more bytes\r\n")

    with scripted(script) as url:
        with pytest.raises(ProtocolError, match="b'SSH-2.0-', which is no AVEC frame"):
            Session(url, settings)


def test_a_destination_that_drains_before_a_call_refuses_it(settings: Settings) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.say(messages.Result(), peer.receive_call().number)
        peer.say(messages.Draining("maintenance"))
        while not isinstance(peer.receive().message, messages.Goodbye):
            pass
        raise ConnectionError

    with scripted(script) as url, Session(url, settings) as session:
        session.run(1, "test", b"").wait()
        with pytest.raises(DestinationDraining, match=f"{url} takes no more calls: maintenance"):
            while True:
                session.run(1, "test", b"")


def test_a_destination_that_hangs_up_on_the_hello_is_unreachable(settings: Settings) -> None:
    def script(peer: Peer) -> None:
        peer.receive()
        raise ConnectionError

    with scripted(script) as url:
        with pytest.raises(DestinationUnreachable, match=f"no destination answers at {url}: .*closed the connection"):
            Session(url, settings)


def test_a_call_that_waited_for_credit_while_the_destination_began_to_drain_is_refused(settings: Settings) -> None:
    blocked = threading.Event()

    def script(peer: Peer) -> None:
        peer.welcome(msgspec.structs.replace(WELCOME, credit_calls=1))
        number = peer.receive_call().number
        assert blocked.wait(10)
        peer.say(messages.Draining("maintenance"))
        peer.say(messages.Result(), number)

    with scripted(script) as url, Session(url, settings) as session, ThreadPoolExecutor(1) as pool:
        first = session.run(1, "first", b"")
        second = pool.submit(session.run, 1, "second", b"")
        await_true(lambda: bool(session._credit._changed._waiters), "the second call waits")
        blocked.set()
        first.wait()
        with pytest.raises(DestinationDraining, match="takes no more calls: maintenance"):
            second.result(timeout=10)
