"""A worker's turns and the server's side of them, joined without processes; the clock of leases is the test's."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from avec.communication.channel import Heartbeat
from avec.destination.orders import Here, Recall, Turn
from avec.destination.sharing.arbiter import LEASE_S, Arbiter
from avec.destination.sharing.board import Board, new_board
from avec.destination.sharing.turns import Turns
from destinations import await_true

LONG_S = 3600.0
PATIENT = Heartbeat(LONG_S, 1)
HASTY = Heartbeat(0.01, 2)
KNOCKING = Heartbeat(0.001, 60_000)  # knocks at once, and has all patience for an answer


@dataclass
class Accelerator:
    """Notes what turns ask of it."""

    asked: list[str] = field(default_factory=list)

    def synchronize(self) -> None:
        self.asked.append("synchronize")

    def pace(self) -> None:
        self.asked.append("pace")

    def memory_nbytes(self) -> int:
        return 7


@dataclass
class Worker:
    """One session's turns, with what it told the server."""

    name: str
    arbiter: Arbiter
    serving: threading.RLock  # the server has one thread
    board: Board
    length_s: float
    heartbeat: Heartbeat
    unheard: list[Callable[[], bool]] | None = None  # by a server that is stopped
    said: list[str] = field(default_factory=list)
    accelerator: Accelerator = field(default_factory=Accelerator)

    def __post_init__(self) -> None:
        self.turns = Turns(self.board, self.accelerator, self.length_s, self, self.heartbeat)
        self.orders: queue.SimpleQueue[Turn | Recall | Here | None] = queue.SimpleQueue()
        self.heeding = threading.Thread(target=self._heed)
        self.heeding.start()

    def _heed(self) -> None:
        while True:
            try:
                order = self.orders.get(timeout=self.turns.pause_in_s())
            except queue.Empty:
                self.turns.pause()
                continue
            match order:
                case None:
                    return
                case Turn():
                    self.turns.grant()
                case Recall():
                    self.turns.recall()
                case Here():
                    self.turns.answer()

    def ask(self) -> None:
        self.said.append("ask")
        self.server(lambda: self.arbiter.ask(self.name))

    def give_back(self, used_ns: int, again: bool) -> None:
        self.said.append("give back")
        self.server(lambda: self.arbiter.give_back(self.name, used_ns, again))

    def knock(self) -> None:
        self.said.append("knock")
        self.server(lambda: self.orders.put(Here()) is None)

    def note_silence(self, silence_s: float) -> None:
        self.said.append("silence")

    def note_life(self) -> None:
        self.said.append("life")

    def server(self, act: Callable[[], bool]) -> None:
        """Have the server do something now, or when it goes on."""
        with self.serving:
            if self.unheard is not None:
                self.unheard.append(act)
            else:
                assert act()

    def close(self) -> None:
        self.orders.put(None)
        self.heeding.join()
        self.board.close()

    def call(self, queue: int = 0) -> None:
        """Carry out a call that takes no time."""
        self.turns.begin()
        self.turns.end(queue)


class Clock:
    """Stands still until the test moves it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Shared:
    """An arbiter and its workers."""

    clock: Clock = field(default_factory=Clock)
    serving: threading.RLock = field(default_factory=threading.RLock)
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arbiter = Arbiter(clock_s=self.clock)

    def worker(self, name: str, length_s: float = LONG_S, heartbeat: Heartbeat = PATIENT) -> Worker:
        with new_board() as (board, _):
            worker = Worker(name, self.arbiter, self.serving, board, length_s, heartbeat)
        self.workers.append(worker)
        self.arbiter.enter(name, name, 1.0, 0, board, worker.orders.put)
        return worker

    def stop(self) -> None:
        """Have the server hear nobody, as when its process is stopped."""
        unheard: list[Callable[[], bool]] = []
        for worker in self.workers:
            worker.unheard = unheard

    def go_on(self) -> None:
        """Have the server hear what was said meanwhile, in that order."""
        with self.serving:
            unheard = self.workers[0].unheard or []
            for worker in self.workers:
                worker.unheard = None
            for act in unheard:
                assert act()


@pytest.fixture
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    for worker in shared.workers:
        worker.close()


def waiting(worker: Worker) -> threading.Thread:
    """Have a worker carry out a call; return when it waits for its turn."""
    thread = threading.Thread(target=worker.call)
    thread.start()
    await_true(lambda: worker.arbiter.waits(worker.name), "it waits")
    return thread


def test_who_is_alone_asks_once_and_never_waits_for_the_accelerator(shared: Shared) -> None:
    worker = shared.worker("a")
    for _ in range(1000):
        worker.call()
    assert worker.said == ["ask"]
    assert worker.accelerator.asked == []
    assert worker.board.numbers().calls == 1000
    assert worker.board.numbers().turns == 1


def test_who_has_asked_before_its_first_call_needs_nobody_for_it(shared: Shared) -> None:
    worker = shared.worker("a")
    worker.turns.ask()
    await_true(lambda: worker.board.numbers().turns == 1, "it has a turn")
    worker.turns.ask()
    worker.call()
    assert worker.said == ["ask"]


def test_an_accelerator_that_has_failed_is_let_go_of(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = shared.worker("a"), shared.worker("b")

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(one.accelerator, "synchronize", fail)
    one.call()
    other.call()
    assert one.said == ["ask", "give back"]


def test_an_idle_turn_goes_to_who_asks(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b")
    one.call()
    other.call()
    assert one.said == ["ask", "give back"]
    assert one.accelerator.asked == ["synchronize"]


def test_a_turn_goes_back_after_its_length_with_the_accelerator_done(shared: Shared) -> None:
    one, other = shared.worker("a", length_s=0.0), shared.worker("b")
    one.turns.begin()
    thread = waiting(other)
    one.turns.end(queue=3)
    thread.join()
    assert one.said == ["ask", "give back"]
    assert one.accelerator.asked == ["pace", "synchronize"]
    one.call()  # it asked again when it gave back
    assert one.said == ["ask", "give back"]


def test_within_its_length_a_turn_stays_while_there_is_more_to_do(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b")
    one.turns.begin()
    thread = waiting(other)
    one.turns.end(queue=2)
    one.call(queue=1)
    assert one.said == ["ask"]
    one.call(queue=0)
    thread.join()
    assert one.said == ["ask", "give back"]


def test_who_waits_for_its_host_to_read_keeps_no_turn_whatever_is_queued(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b")
    one.call(queue=3)
    one.turns.pause()  # nobody wants it
    assert one.said == ["ask"]
    other.call(queue=3)
    assert one.said == ["ask", "give back"]
    one_waits = waiting(one)
    other.turns.pause()
    one_waits.join()
    assert other.said == ["ask", "give back"]


def test_a_turn_that_comes_while_its_host_reads_goes_on_to_who_waits(shared: Shared) -> None:
    worker = shared.worker("a")
    shared.stop()
    worker.board["queue"], worker.board["waiting"] = 3, 1
    worker.turns.pause()
    worker.turns.grant()
    assert worker.said == ["give back"]


def test_a_turn_in_which_nothing_is_done_goes_back_whatever_is_queued(shared: Shared) -> None:
    one, other = shared.worker("a", length_s=0.01), shared.worker("b", length_s=0.01)
    one.call(queue=3)
    other.call(queue=3)
    assert one.said == ["ask", "give back"]
    one.call()
    assert other.said == ["ask", "give back"]


def test_a_long_call_lets_others_have_their_turns_between_its_parts(shared: Shared) -> None:
    one, other = shared.worker("a", length_s=0.0), shared.worker("b")
    one.turns.begin()
    one.turns.between()  # nobody waits
    assert one.said == ["ask"]
    thread = waiting(other)
    one.turns.between()
    thread.join()
    one.turns.end(queue=0)
    assert one.said == ["ask", "give back"]
    assert one.board.numbers().turns == 2


def test_others_have_turns_while_a_call_does_what_needs_none(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b")
    one.turns.begin()
    thread = waiting(other)
    with one.turns.aside():
        thread.join()
    one.turns.end(queue=0)
    assert one.board.numbers().turns == 2


def test_who_keeps_a_turn_too_long_keeps_nobody_waiting_and_pays(shared: Shared) -> None:
    one, other, third = (shared.worker(name) for name in "abc")
    one.turns.begin()
    thread = waiting(other)
    assert shared.arbiter.deadline_s() == LEASE_S
    shared.arbiter.look()
    assert shared.arbiter.waits("b")
    shared.clock.now_s = LEASE_S
    shared.arbiter.look()
    thread.join()
    shared.clock.now_s = 2 * LEASE_S
    one.turns.end(queue=1)  # gives back, and asks again
    other.turns.begin()
    threads = [waiting(third), threading.Thread(target=one.call)]
    threads[1].start()
    other.turns.end(queue=0)
    threads[0].join()  # who came later, but has used nothing, goes first
    threads[1].join()


def test_a_worker_that_dies_leaves_its_turn(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b")
    one.turns.begin()
    thread = waiting(other)
    shared.arbiter.leave("a")
    thread.join()
    assert not shared.arbiter.give_back("a", 0, again=False)
    assert not shared.arbiter.ask("a")


def test_what_nobody_may_say_is_refused(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b")
    assert not shared.arbiter.give_back("a", 0, again=False)
    one.turns.begin()
    assert not shared.arbiter.ask("a")
    thread = waiting(other)
    assert not shared.arbiter.ask("b")
    one.turns.end(queue=0)
    thread.join()


def test_a_server_that_is_silent_is_waited_for_once_and_gives_turns_again_when_it_answers(shared: Shared) -> None:
    worker = shared.worker("a", heartbeat=HASTY)
    shared.stop()
    for _ in range(3):
        worker.call(queue=1)
    assert worker.said == ["ask", "knock", "silence"]
    assert (worker.board.numbers().calls, worker.board.numbers().turns) == (3, 0)
    shared.go_on()
    await_true(lambda: worker.board.numbers().turns == 1, "it has a turn")
    worker.call()
    assert worker.said == ["ask", "knock", "silence", "life"]


def test_who_went_on_without_turns_waits_in_the_queue_again_when_the_server_answers(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b", heartbeat=HASTY)
    one.turns.begin()
    shared.stop()
    other.call()
    shared.go_on()
    await_true(lambda: "life" in other.said, "it knows that the server answers")
    thread = waiting(other)
    assert other.board.numbers().turns == 0
    one.turns.end(queue=0)
    thread.join()
    assert other.board.numbers().turns == 1


def test_who_is_queued_waits_for_as_long_as_the_server_answers(shared: Shared) -> None:
    one, other = shared.worker("a"), shared.worker("b", heartbeat=KNOCKING)
    one.turns.begin()
    thread = waiting(other)
    await_true(lambda: other.said.count("knock") >= 5, "it has asked for a sign of life again and again")
    assert thread.is_alive()
    one.turns.end(queue=0)
    thread.join()
    assert "silence" not in other.said


def test_a_long_call_without_a_turn_gives_nothing_back(shared: Shared) -> None:
    worker = shared.worker("a", length_s=0.0, heartbeat=HASTY)
    shared.stop()
    worker.turns.begin()
    worker.board["waiting"] = 1  # as it was before the server stopped
    worker.turns.between()
    with worker.turns.aside():
        pass
    worker.turns.end(queue=0)
    assert worker.said == ["ask", "knock", "silence"]


@dataclass
class Two:
    """Sessions "a", which has a turn, and "b", which waits for one; no workers, and what they use is the test's."""

    clock: Clock = field(default_factory=Clock)
    boards: dict[str, Board] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)  # turns, by session

    def __post_init__(self) -> None:
        self.arbiter = Arbiter(clock_s=self.clock)
        for name in "ab":
            with new_board() as (self.boards[name], _):
                self.arbiter.enter(name, name, 1.0, 0, self.boards[name], partial(self._note, name))
            assert self.arbiter.ask(name)

    def _note(self, name: str, order: object) -> None:
        if isinstance(order, Turn):
            self.given.append(name)

    def used_a_second(self, name: str) -> bool:
        """A session gives its turn back, which took a second, and asks for another."""
        self.clock.now_s += 1.0
        self.boards[name]["used_ns"] += 10**9
        return self.arbiter.give_back(name, self.boards[name]["used_ns"], again=True)


@pytest.fixture
def two() -> Iterator[Two]:
    two = Two()
    yield two
    for board in two.boards.values():
        board.close()


@pytest.mark.parametrize(("kept_s", "parts"), [(0.9, 1.1), (0.005, 2.1)])
def test_who_says_that_it_used_nothing_is_charged_for_the_time_that_it_kept_others_waiting(
    two: Two, kept_s: float, parts: float
) -> None:
    had_s = {"a": 0.0, "b": 0.0}
    while two.clock.now_s < 60.0:
        name = two.given[-1]
        held_s = kept_s if name == "a" else 0.005
        two.clock.now_s += held_s
        had_s[name] += held_s
        if name == "b":
            two.boards["b"]["used_ns"] += 5 * 10**6
        assert two.arbiter.give_back(name, two.boards[name]["used_ns"], again=True)
    assert had_s["a"] / had_s["b"] < parts


def test_what_was_used_without_turns_while_the_server_was_stopped_is_held_against_nobody(two: Two) -> None:
    two.clock.now_s = 60.0  # the server was stopped; "a" has given back at once, and gone on without a turn
    two.boards["a"]["used_ns"] = 60 * 10**9
    assert two.arbiter.give_back("a", 10**6, again=True)
    assert two.used_a_second("b")
    assert two.used_a_second("a")
    assert two.used_a_second("b")
    assert two.given == ["a", "b", "a", "b", "a"]


def test_a_call_that_outlasts_a_lease_is_charged_for_its_time_and_not_for_the_servers(two: Two) -> None:
    two.clock.now_s = LEASE_S
    two.arbiter.look()
    two.clock.now_s = 60.0  # the server was stopped; the call took as long as the lease and a second
    assert two.arbiter.give_back("a", 2 * 10**9, again=True)
    two.boards["a"]["used_ns"] = 2 * 10**9
    for _ in range(3):
        assert two.used_a_second("b")
    assert two.given == ["a", "b", "b", "b", "a"]


def test_a_worker_cannot_make_its_board_smaller() -> None:
    with new_board() as (board, descriptor), pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    board.close()
