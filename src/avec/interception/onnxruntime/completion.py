"""Calls back when a request has ended, for `run_async`: on one thread, which is started when it is first needed."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Waiting:
    tasks: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_waiting = _Waiting()


def when_done(task: Callable[[], None]) -> None:
    """Have a task, which waits for a request, carried out after those that were given before."""
    with _waiting.lock:
        if _waiting.thread is None:
            _waiting.thread = threading.Thread(target=_work, args=(_waiting,), name="avec-callbacks", daemon=True)
            _waiting.thread.start()
    _waiting.tasks.put(task)


def _work(waiting: _Waiting) -> None:
    while True:
        task = waiting.tasks.get()
        try:
            task()
        except BaseException:  # the application's callback raised: nobody stands above it who could catch that
            sys.excepthook(*sys.exc_info())


def _forget() -> None:
    """In a forked child the thread is not there."""
    global _waiting
    _waiting = _Waiting()


os.register_at_fork(after_in_child=_forget)
