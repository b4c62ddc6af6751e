"""Processes of a destination that are stopped: they are found, killed, and hold no place any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from avec.destination.life import QUESTIONS, Lives, answer, pair


class Clock:
    """Stands still until the test moves it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def lives() -> Iterator[tuple[Lives, Clock, socket.socket, list[str]]]:
    """One process is watched, which answers when the test does."""
    clock, ended = Clock(), list[str]()
    lives = Lives(QUESTIONS, clock)  # one question a second
    ours, theirs = pair()
    with ours, theirs:
        lives.watch("one", ours, lambda: ended.append("one"))
        yield lives, clock, theirs, ended


def test_who_answers_is_asked_again_and_never_ended(lives: tuple[Lives, Clock, socket.socket, list[str]]) -> None:
    watching, clock, theirs, ended = lives
    for second in range(20):
        assert answer(theirs)
        assert watching.deadline_s() == second + 1
        clock.now_s += 1.0
        watching.look()
    assert not ended


def test_who_is_silent_is_ended_and_until_it_is_forgotten(lives: tuple[Lives, Clock, socket.socket, list[str]]) -> None:
    watching, clock, _, ended = lives
    for _ in range(QUESTIONS):
        clock.now_s += 1.0
        watching.look()
        assert not ended
    for _ in range(2):
        clock.now_s += 1.0
        watching.look()
    assert ended == ["one", "one"]
    watching.forget("one")
    assert watching.deadline_s() is None


def test_a_server_that_was_stopped_itself_takes_nobody_for_silent(
    lives: tuple[Lives, Clock, socket.socket, list[str]],
) -> None:
    watching, clock, theirs, ended = lives
    clock.now_s += 1000.0
    watching.look()
    assert answer(theirs)
    clock.now_s += 1.0
    watching.look()
    assert not ended


def test_silence_counts_from_when_a_process_could_be_started(
    lives: tuple[Lives, Clock, socket.socket, list[str]],
) -> None:
    watching, clock, _, ended = lives
    for _ in range(20):
        clock.now_s += 1.0
        watching.pardon()
        watching.look()
    assert not ended
