"""How many calls and bytes may be unanswered."""

from __future__ import annotations

import threading
from collections.abc import Callable

from avec.host.calls import Credit

BLOCKED_S = 0.05  # a thread that has not gone on after this is taken to wait
LIMIT_S = 10.0


def _taking(credit: Credit, nbytes: int) -> threading.Thread:
    thread = threading.Thread(target=credit.take, args=(nbytes,))
    thread.start()
    return thread


def _blocked_until(thread: threading.Thread, act: Callable[[], object]) -> bool:
    thread.join(BLOCKED_S)
    blocked = thread.is_alive()
    act()
    thread.join(LIMIT_S)
    return blocked and not thread.is_alive()


def test_calls_wait_until_one_is_answered() -> None:
    credit = Credit(calls=2, nbytes=1000)
    credit.take(0)
    credit.take(0)
    assert _blocked_until(_taking(credit, 0), lambda: credit.give_back(0))


def test_bytes_wait_until_there_is_room() -> None:
    credit = Credit(calls=10, nbytes=100)
    credit.take(60)
    assert _blocked_until(_taking(credit, 41), lambda: credit.give_back(60))


def test_bytes_up_to_the_whole_credit_pass() -> None:
    credit = Credit(calls=10, nbytes=100)
    credit.take(60)
    credit.take(40)


def test_a_call_larger_than_the_whole_credit_passes_when_it_is_alone() -> None:
    credit = Credit(calls=10, nbytes=100)
    credit.take(5000)
    assert _blocked_until(_taking(credit, 1), lambda: credit.give_back(5000))


def test_without_any_credit_one_call_at_a_time_passes() -> None:
    credit = Credit(calls=0, nbytes=0)
    credit.take(10)
    assert _blocked_until(_taking(credit, 10), lambda: credit.give_back(10))


def test_one_answer_may_let_several_small_calls_pass() -> None:
    credit = Credit(calls=10, nbytes=100)
    credit.take(100)
    waiting = [_taking(credit, 30) for _ in range(3)]
    credit.give_back(100)
    for thread in waiting:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in waiting)


def test_a_small_call_passes_although_a_large_one_waits() -> None:
    credit = Credit(calls=10, nbytes=100)
    credit.take(50)
    credit.take(50)
    large = _taking(credit, 80)
    large.join(BLOCKED_S)
    small = _taking(credit, 30)
    assert _blocked_until(small, lambda: credit.give_back(50))
    assert _blocked_until(large, lambda: (credit.give_back(50), credit.give_back(30)))


def test_a_lost_session_lets_everybody_pass() -> None:
    credit = Credit(calls=1, nbytes=1)
    credit.take(1)
    assert _blocked_until(_taking(credit, 1), credit.open)
