"""When a host tries again to come back to its session."""

from __future__ import annotations

import threading

import pytest

from avec.config import Settings
from avec.errors import DestinationUnreachable, SessionLost
from avec.host import mending
from avec.host.calls import Call
from avec.host.mending import Attempts, reopen
from avec.host.progress import Progress
from avec.host.unanswered import COPY_LIMIT_NBYTES, Copies, Releases, unreceived
from avec.protocol.codec import allocate_array
from host.scripted import scripted


def attempts(limit_s: float, given_up: threading.Event | None = None) -> Attempts:
    return Attempts(limit_s, given_up or threading.Event())


def refused() -> DestinationUnreachable:
    exc = DestinationUnreachable("nobody")
    exc.__cause__ = ConnectionRefusedError()
    return exc


def test_the_first_attempt_follows_at_once_and_the_last_before_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "PAUSES_S", (0.0, 0.001))
    monkeypatch.setattr(mending, "LAST_PAUSE_S", 0.01)
    each = attempts(0.1)
    while each.once_more():
        pass
    assert 3 <= each.count <= 12
    assert each.remaining_s == 0.0


def test_nobody_tries_for_a_session_that_is_given_up() -> None:
    given_up = threading.Event()
    given_up.set()
    assert not attempts(10.0, given_up).once_more()


def test_with_no_time_there_is_no_attempt() -> None:
    assert not attempts(0.0).once_more()


def test_where_nobody_has_listened_for_a_while_nobody_will(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "REFUSED_S", 0.0)
    each = attempts(10.0)
    assert not each.hopeless(refused())
    assert not each.hopeless(DestinationUnreachable("silence"))  # somebody may listen there
    assert not each.hopeless(refused())
    assert each.hopeless(refused())


def test_a_destination_that_takes_a_new_session_and_says_nothing_is_not_waited_for_beyond_the_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "LEAST_WELCOME_S", 0.1)
    with (
        scripted(lambda peer: None) as url,
        pytest.raises(SessionLost, match="1 attempts in 0.* no destination answers"),
    ):
        reopen(url, settings, "test", attempts(0.2), allocate_array)


def call(number: int) -> Call:
    return Call(number, 1, "test", 0, Progress(0), (), lambda call: None, lambda cycle: None)


def test_what_the_destination_lacks_is_sent_again_in_its_order() -> None:
    calls, releases = [call(number) for number in (4, 5, 7)], Releases()
    for after, handle in ((2, 20), (4, 40), (5, 50), (5, 51), (6, 60), (7, 70)):
        releases.add(after, handle)
    found = [each if isinstance(each, int) else -each.number for each in unreceived(calls, releases, received=4)]
    assert found == [40, -5, 50, 51, 60, -7, 70]


def test_a_release_is_forgotten_once_a_later_call_has_arrived() -> None:
    releases = Releases()
    releases.add(1, 10)
    releases.add(2, 20)
    releases.forget(2)
    assert releases.all() == [(2, 20)]


def test_a_copy_is_made_into_the_memory_of_one_that_is_done_with() -> None:
    copies = Copies()
    first = copies.of([b"head", memoryview(b"body")])
    assert first is not None
    assert bytes(first[0]) == b"headbody"
    copies.take_back(first)
    second = copies.of([b"HEADBODY"])
    assert second is not None
    assert bytes(first[0]) == bytes(second[0]) == b"HEADBODY"


def test_what_is_too_large_is_not_copied() -> None:
    assert Copies().of([bytes(COPY_LIMIT_NBYTES), b"x"]) is None
