"""The memory that calls are received into: used again, bounded, and refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from avec.destination.buffers import GRAIN_NBYTES, SMALL_NBYTES, BufferPool
from avec.errors import AcceleratorOutOfMemory
from avec.tensor import Array, TensorSpec

SPEC = TensorSpec("uint8", (SMALL_NBYTES,))
OTHER = TensorSpec("uint8", (SMALL_NBYTES + GRAIN_NBYTES,))


def allocate(nbytes: int) -> Array:
    return np.empty(nbytes, np.uint8)


def test_what_was_given_back_is_given_again() -> None:
    pool = BufferPool(allocate, 1 << 20)
    first = pool.take(SPEC)
    address = first.ctypes.data
    pool.give_back([first])
    assert pool.take(SPEC).ctypes.data == address


def test_more_than_may_be_taken_is_refused_with_the_bound_until_something_is_given_back() -> None:
    pool = BufferPool(allocate, 0, 2 * SMALL_NBYTES)
    taken = [pool.take(SPEC), pool.take(SPEC)]
    with pytest.raises(AcceleratorOutOfMemory, match=f"hold {2 * SMALL_NBYTES} bytes; {2 * SMALL_NBYTES} bytes are"):
        pool.take(SPEC)
    pool.give_back(taken[:1])
    assert pool.take(SPEC).nbytes == SMALL_NBYTES


def test_idle_memory_makes_room_for_another_size() -> None:
    pool = BufferPool(allocate, 1 << 20, 2 * SMALL_NBYTES)
    pool.give_back([pool.take(SPEC)])
    assert pool.take(OTHER).nbytes == OTHER.nbytes


def test_where_there_is_no_memory_idle_memory_is_let_go_and_then_it_is_refused() -> None:
    asked: list[int] = []

    def scarce(nbytes: int) -> Array:
        asked.append(nbytes)
        if nbytes > SMALL_NBYTES:
            raise MemoryError("scarce")
        return np.empty(nbytes, np.uint8)

    pool = BufferPool(scarce, 1 << 20)
    pool.give_back([pool.take(SPEC)])
    with pytest.raises(AcceleratorOutOfMemory, match=f"no memory is left for a tensor of {OTHER.nbytes} bytes: scarce"):
        pool.take(OTHER)
    assert asked == [SPEC.nbytes, OTHER.nbytes, OTHER.nbytes]
    pool.take(SPEC)
    assert asked[-1] == SPEC.nbytes
