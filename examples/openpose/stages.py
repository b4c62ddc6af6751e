"""Stages of a loop that work at the same time, each in a thread of its own, in order and with bounded queues.

`ahead(items)` is the iterator `items`, but that a thread takes the next few from it while the caller works on the last
one. Stages are composed as iterators are: `ahead(find(ahead(read())))` reads and finds at the same time.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Given(Generic[Item]):
    item: Item


@dataclass(frozen=True, slots=True)
class _Ended:
    error: BaseException | None = None


def ahead(items: Iterator[Item], depth: int = 2) -> Iterator[Item]:
    """Take items in a thread of its own, at most `depth` ahead of the caller; they come in order.

    An error that `items` raises is raised after the items before it. When the caller stops early, so does the thread,
    and `items` is closed in it.
    """
    waiting: queue.Queue[_Given[Item] | _Ended] = queue.Queue(depth)
    stopped = threading.Event()

    def take() -> None:
        error = None
        try:
            for item in items:
                waiting.put(_Given(item))
                if stopped.is_set():
                    break
        except BaseException as raised:
            error = raised
        finally:
            if close := getattr(items, "close", None):
                close()
        waiting.put(_Ended(error))

    thread = threading.Thread(target=take, name=f"ahead: {getattr(items, '__name__', 'items')}")
    thread.start()
    try:
        while isinstance(next_one := waiting.get(), _Given):
            yield next_one.item
        if next_one.error is not None:
            raise next_one.error
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room
            try:
                waiting.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()
