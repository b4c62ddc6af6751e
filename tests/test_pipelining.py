"""avec.pipeline: order, bounds, errors in their place, and nothing left behind. No session takes part."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import avec


@pytest.fixture(autouse=True)
def _nothing_left_open(nothing_left_open: None) -> None:
    """Checked after each test."""


class Gate:
    """A function whose calls end when the test lets them."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self._open: dict[int, threading.Event] = {}

    def let(self, item: int) -> None:
        self._open.setdefault(item, threading.Event()).set()

    def __call__(self, item: int) -> int:
        self.begun.release()
        assert self._open.setdefault(item, threading.Event()).wait(10)
        return -item


@pytest.mark.parametrize("depth", [1, 2, 5, 99])
def test_results_come_in_the_order_of_the_items(depth: int) -> None:
    assert list(avec.pipeline(lambda item: item * item, depth)(range(20))) == [item * item for item in range(20)]


def test_a_call_that_ends_early_waits_for_its_turn() -> None:
    gate = Gate()
    with avec.pipeline(gate, 2)(iter([1, 2])) as results:
        gate.let(2)
        threading.Timer(0.05, gate.let, [1]).start()
        assert list(results) == [-1, -2]


def test_as_many_calls_as_the_depth_says_are_under_way_while_the_caller_works() -> None:
    gate, taken = Gate(), []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    with avec.pipeline(gate, 3)(items()) as results:
        gate.let(0)
        assert next(results) == 0
        for _ in range(4):  # the one that has ended, and three
            assert gate.begun.acquire(timeout=10)
        assert not gate.begun.acquire(blocking=False)
        assert taken == [0, 1, 2, 3]
        for item in range(10):
            gate.let(item)


def test_an_error_is_raised_in_its_place_and_the_next_results_follow() -> None:
    results = avec.pipeline(lambda item: 10 // item, 2)([5, 0, 2])
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == [5]


def test_an_error_of_the_items_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the camera is gone")

    results = avec.pipeline(lambda item: item, 4)(items())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="the camera is gone"):
        next(results)
    assert list(results) == []


def test_no_items_are_no_results() -> None:
    assert list(avec.pipeline(abs)([])) == []


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a depth of 0 would call nothing"):
        avec.pipeline(abs, 0)


def test_leaving_early_begins_no_more() -> None:
    begun: list[int] = []
    with avec.pipeline(begun.append, 2)(range(100)) as results:
        next(results)
    assert len(begun) <= 3
    assert list(results) == []
