"""What a session keeps of its answers, and when it gives them up."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pytest

from avec.communication.channel import Channel, Heartbeat
from avec.destination import answers
from avec.destination.answers import Answers, AnswersGone, Overtaken
from avec.destination.buffers import BufferPool
from avec.errors import AcceleratorOutOfMemory, SessionLost
from avec.protocol.messages import VERSION, Result, Welcome
from avec.tensor import Array, TensorSpec
from communication.pairs import open_pair

pytestmark = pytest.mark.usefixtures("tidy")

WELCOME = Welcome(VERSION, "1", "test")
PATIENT = Heartbeat(30.0, 3)
RESULT_NBYTES = 1000


@dataclass
class Delivering:
    """Answers, and the host's ends of their connections."""

    stack: ExitStack
    answers: Answers = field(init=False)
    hosts: list[Channel] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)

    def __post_init__(self) -> None:
        pool = BufferPool(lambda nbytes: np.empty(nbytes, np.uint8), 1 << 20)
        first = self.connect()
        first.send(WELCOME)
        self.hosts[0].receive()
        self.answers = Answers(first, pool, keep=True)

    def connect(self) -> Channel:
        ours, theirs = self.stack.enter_context(open_pair())
        self.hosts.append(Channel(ours, "host", PATIENT))
        self.channels.append(Channel(theirs, "destination", PATIENT))
        return self.channels[-1]

    def deliver(self, number: int, memory: np.ndarray | None = None) -> None:
        """Answer a call with so many bytes of its number."""
        memory = np.empty(RESULT_NBYTES, np.uint8) if memory is None else memory
        memory[:] = number
        self.answers.secure()
        self.answers.deliver([(Result(), number, [memory])])

    def received(self, count: int, host: int = -1) -> list[tuple[int, int]]:
        """The numbers of the next answers and what is in their tensors."""
        frames = [self.hosts[host].receive() for _ in range(count)]
        return [(frame.number, *{int(each) for each in frame.arrays[0]}) for frame in frames]


@pytest.fixture
def delivering() -> Iterator[Delivering]:
    with ExitStack() as stack:
        yield Delivering(stack)


def test_what_the_host_lacks_comes_over_the_next_connection_before_anything_new(delivering: Delivering) -> None:
    for number in range(1, 5):
        delivering.deliver(number)
    delivering.channels[0].abort()
    delivering.deliver(5)
    delivering.answers.take_over(delivering.connect(), 2, 2, WELCOME)
    delivering.deliver(6)
    assert isinstance(delivering.hosts[1].receive().message, Welcome)
    assert delivering.received(4) == [(3, 3), (4, 4), (5, 5), (6, 6)]


def test_an_executors_memory_that_is_used_again_does_not_change_what_is_kept(delivering: Delivering) -> None:
    memory = np.empty(RESULT_NBYTES, np.uint8)
    for number in (1, 2, 3):
        delivering.answers.secure()  # as before every call
        delivering.deliver(number, memory)
    delivering.answers.take_over(delivering.connect(), 2, 0, WELCOME)
    delivering.hosts[1].receive()
    assert delivering.received(3) == [(1, 1), (2, 2), (3, 3)]


def test_what_the_host_has_acknowledged_is_not_copied(delivering: Delivering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SMALL_NBYTES", 0)
    monkeypatch.setattr(Answers, "_copied", None)  # would be called
    for number in range(1, 5):
        delivering.deliver(number)
        delivering.answers.acknowledge(number)


def test_answers_beyond_the_bound_are_given_up_and_a_host_that_lacks_them_is_refused(
    delivering: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "KEPT_NBYTES", 3 * RESULT_NBYTES)
    for number in range(1, 7):
        delivering.deliver(number)
    with pytest.raises(AnswersGone, match="received the answers up to call 1, and those up to 2 are no longer kept"):
        delivering.answers.take_over(delivering.connect(), 2, 1, WELCOME)
    delivering.answers.take_over(delivering.connect(), 3, 2, WELCOME)
    delivering.hosts[2].receive()
    assert delivering.received(4) == [(3, 3), (4, 4), (5, 5), (6, 6)]


def test_while_the_host_is_away_the_next_call_waits_rather_than_give_answers_up(
    delivering: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "KEPT_NBYTES", 2 * RESULT_NBYTES)
    delivering.answers.part(delivering.channels[0])
    for number in (1, 2, 3):
        delivering.deliver(number)
    going_on = threading.Thread(target=lambda: delivering.deliver(4))
    going_on.start()
    going_on.join(0.1)
    assert going_on.is_alive()
    delivering.answers.take_over(delivering.connect(), 2, 0, WELCOME)
    going_on.join()
    delivering.hosts[1].receive()
    assert delivering.received(4) == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_an_older_connection_takes_nothing_over(delivering: Delivering) -> None:
    delivering.answers.take_over(delivering.connect(), 4, 0, WELCOME)
    with pytest.raises(Overtaken, match="connection 3 of the session comes after connection 4"):
        delivering.answers.take_over(delivering.connect(), 3, 0, WELCOME)
    delivering.deliver(1)
    delivering.hosts[1].receive()
    assert delivering.received(1, host=1) == [(1, 1)]


def test_after_a_goodbye_an_answer_that_nobody_takes_ends_the_session(delivering: Delivering) -> None:
    delivering.answers.part(delivering.channels[0])
    delivering.answers.keep_none()
    with pytest.raises(SessionLost, match="the host has left before its last answer"):
        delivering.deliver(1)


class Scarce:
    """A pool that has memory for so many tensors only."""

    def __init__(self, count: int) -> None:
        self.left = count

    def take(self, spec: TensorSpec) -> Array:
        if not self.left:
            raise AcceleratorOutOfMemory("none is left")
        self.left -= 1
        return np.empty(spec.shape, spec.dtype)

    def give_back(self, arrays: Sequence[Array]) -> None:
        self.left += len(arrays)


def test_answers_that_find_no_memory_for_a_copy_are_given_up_oldest_first(
    delivering: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SMALL_NBYTES", 0)
    monkeypatch.setattr(delivering.answers, "_pool", Scarce(2))
    for number in range(1, 7):
        delivering.deliver(number)
    with pytest.raises(AnswersGone, match="those up to 3 are no longer kept"):
        delivering.answers.take_over(delivering.connect(), 2, 2, WELCOME)
    delivering.answers.take_over(delivering.connect(), 3, 3, WELCOME)
    delivering.hosts[2].receive()
    assert delivering.received(3) == [(4, 4), (5, 5), (6, 6)]
