"""Who may send what, when; and that versions meet."""

from __future__ import annotations

import msgspec
import pytest

from avec.errors import ErrorRecord, ProtocolError, ProtocolMismatch
from avec.protocol import connection as protocol_connection
from avec.protocol import messages
from avec.protocol.codec import META_LIMIT, STRANGER_LIMIT, allocate_array
from avec.protocol.connection import Connection, Role, State, agree
from avec.protocol.messages import Message
from protocol.frames import feed, raw_frame
from protocol.golden import EXAMPLES, frame_bytes

HELLO = messages.Hello(messages.VERSION, messages.VERSION, "session", "test")
WELCOME = messages.Welcome(messages.VERSION, "1", "test")
FROM_HOST = {
    messages.Hello, messages.Offer, messages.Chunk, messages.Load, messages.Run, messages.Release, messages.Goodbye,
}  # fmt: skip
EITHER = {messages.Ping, messages.Pong}
PEER: dict[Role, Role] = {"host": "destination", "destination": "host"}


def new(role: Role) -> Connection:
    return Connection(role, allocate_array)


def opened(role: Role) -> Connection:
    """A connection after its hello, as the worker and the host have it."""
    connection = new(role)
    if role == "destination":
        connection.send(WELCOME)
    else:
        receive(connection, WELCOME)
    return connection


def receive(connection: Connection, message: Message, number: int = 0) -> None:
    feed(connection, frame_bytes(message, number, ()))


def example(kind: type[Message]) -> Message:
    return next(message for message, _, _ in EXAMPLES if type(message) is kind)


def sendable(role: Role, kind: type[Message]) -> bool:
    return kind in EITHER or (kind in FROM_HOST) == (role == "host")


CASES = [(role, kind) for role in ("host", "destination") for kind in messages.TYPES]
WRONG = [(role, kind) for role, kind in CASES if not sendable(role, kind)]


@pytest.mark.parametrize(("role", "kind"), WRONG)
def test_an_end_cannot_send_what_is_the_others(role: Role, kind: type[Message]) -> None:
    with pytest.raises(ProtocolError, match=f"a {role} cannot send {kind.__name__}"):
        opened(role).send(example(kind))


@pytest.mark.parametrize(("role", "kind"), WRONG)
def test_an_end_does_not_take_what_only_it_may_send(role: Role, kind: type[Message]) -> None:
    taker = opened(PEER[role])
    with pytest.raises(ProtocolError, match=f"a {PEER[role]} does not take {kind.__name__}"):
        receive(taker, example(kind), 1)


@pytest.mark.parametrize(("role", "kind"), [case for case in CASES if case not in WRONG])
def test_an_end_sends_what_is_its_own(role: Role, kind: type[Message]) -> None:
    assert opened(role).send(example(kind))


def test_a_second_hello_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a second Hello"):
        receive(opened("destination"), HELLO)


@pytest.mark.parametrize("message", [WELCOME, messages.Refused(ErrorRecord("draining", "x"))])
def test_a_second_answer_to_the_hello_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match=f"a second {type(message).__name__}"):
        receive(opened("host"), message)


@pytest.mark.parametrize("kind", [messages.Result, messages.Ping, messages.Draining, messages.Stored])
def test_a_host_takes_nothing_before_the_answer_to_its_hello(kind: type[Message]) -> None:
    with pytest.raises(ProtocolError, match=f"{kind.__name__} before the hello is done"):
        receive(new("host"), example(kind))


@pytest.mark.parametrize("numbers", [(1, 1), (2, 1), (5, 0), (0,)])
def test_calls_that_do_not_rise_are_refused(numbers: tuple[int, ...]) -> None:
    connection = opened("destination")
    for number in numbers[:-1]:
        receive(connection, messages.Run(handle=1), number)
    with pytest.raises(ProtocolError, match="numbers must rise"):
        receive(connection, messages.Run(handle=1), numbers[-1])


def test_numbers_may_leave_gaps_and_are_shared_by_all_kinds_of_calls() -> None:
    connection = opened("destination")
    receive(connection, messages.Load(handle=1, format="caffe"), 3)
    receive(connection, messages.Offer(digest="d"), 2**40)
    with pytest.raises(ProtocolError, match=f"call 4 after call {2**40}"):
        receive(connection, messages.Run(handle=1), 4)


def test_what_is_no_call_has_no_number_to_rise() -> None:
    connection = opened("destination")
    receive(connection, messages.Run(handle=1), 9)
    receive(connection, messages.Release((1,)))
    receive(connection, messages.Ping(1))
    assert connection.state is State.OPEN


def test_welcome_opens_the_host_and_trusts_the_destination() -> None:
    host = new("host")
    receive(host, WELCOME)
    receive(host, messages.Result(body=bytes(META_LIMIT - 100)), 1)
    assert host.state is State.OPEN


def test_a_refusal_with_a_long_traceback_is_understood() -> None:
    host = new("host")
    receive(host, messages.Refused(ErrorRecord("remote", "m" * 4096, "t" * 16384)))
    assert host.state is State.CLOSED


def test_a_status_ends_a_connection() -> None:
    host = new("host")
    receive(host, messages.Status())
    assert host.state is State.CLOSED


def test_draining_is_known_to_the_host() -> None:
    host = opened("host")
    receive(host, messages.Draining("it is shutting down"))
    assert host.state is State.DRAINING


def test_a_draining_host_still_takes_results_and_may_say_goodbye() -> None:
    host = opened("host")
    receive(host, messages.Draining("x"))
    receive(host, messages.Result(), 1)
    assert host.send(messages.Goodbye())


def test_the_end_between_frames_is_whole() -> None:
    connection = opened("host")
    assert connection.end_of_stream()
    assert connection.state is State.CLOSED


def test_the_end_within_a_frame_is_not_whole() -> None:
    connection = opened("host")
    feed(connection, frame_bytes(messages.Ping(1), 0, ())[:-1])
    assert not connection.end_of_stream()


def test_nothing_is_sent_after_the_end() -> None:
    connection = opened("host")
    connection.end_of_stream()
    with pytest.raises(ProtocolError, match="a host cannot send Ping when closed"):
        connection.send(messages.Ping(1))


def test_the_newest_common_version_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_connection.messages, "OLDEST_VERSION", 3)
    monkeypatch.setattr(protocol_connection.messages, "VERSION", 5)
    assert [agree(1, 3), agree(4, 4), agree(1, 9), agree(5, 7)] == [3, 4, 5, 5]


@pytest.mark.parametrize(("oldest", "newest"), [(4, 9), (1, 1)])
def test_a_hello_whose_versions_do_not_meet_ours_is_a_mismatch(oldest: int, newest: int) -> None:
    theirs = f"{oldest}" if oldest == newest else f"{oldest}…{newest}"
    with pytest.raises(ProtocolMismatch, match=f"protocol version {theirs}, this end 3…3; install the same AVEC"):
        receive(new("destination"), messages.Hello(oldest, newest, "session", "avec 9"))


@pytest.mark.parametrize("version", [1, 4])
def test_a_welcome_of_a_version_that_was_not_offered_is_a_mismatch(version: int) -> None:
    with pytest.raises(ProtocolMismatch, match=f"protocol version {version}, this end 3…3"):
        receive(new("host"), messages.Welcome(version, "1", "avec 9"))


def test_a_newer_peers_hello_may_have_grown() -> None:
    (frame,) = feed(
        new("destination"),
        raw_frame(
            messages.Hello,
            [1, 3, "session", "avec 9", "app.py", "strict", "", 30, "", "", 0, 0, 0, ["palette"], {"new": [1]}, None],
        ),
    )
    assert frame.message == messages.Hello(
        1, 3, "session", "avec 9", "app.py", "strict", resume_s=30.0, codecs=("palette",)
    )


def test_a_newer_peers_refusal_may_have_grown() -> None:
    record = ["protocol-mismatch", "too old", ""]
    (frame,) = feed(new("host"), raw_frame(messages.Refused, [record, "and what to do"]))
    assert frame.message == messages.Refused(ErrorRecord("protocol-mismatch", "too old"))


def test_an_older_peers_shorter_hello_is_understood() -> None:
    (frame,) = feed(new("destination"), raw_frame(messages.Hello, [3, 3, "status", "avec 0"]))
    assert frame.message == messages.Hello(3, 3, "status", "avec 0")


def test_a_hello_of_the_largest_size_is_taken() -> None:
    spare = STRANGER_LIMIT - len(msgspec.msgpack.encode(messages.Hello(3, 3, "session", "s" * 1000)))
    hello = messages.Hello(3, 3, "session", "s" * (1000 + spare))
    receive(new("destination"), hello)
