"""The numbers that a session's worker and the server show each other: one page of memory, a few counts.

Each count has one writer, and no lock: it is one aligned word. A worker that was taken over can write what it likes,
but on its own page only; the server bounds what it believes. Read without a system call, thousands of times a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

PAGE_NBYTES = 4096

Count = Literal[
    "used_ns",  # worker: for how long it has used the accelerator, as its turns measure it
    "calls",  # worker: that it has carried out
    "queue",  # worker: messages of its host's that it has yet to take
    "turns",  # worker: how many it has had
    "memory_nbytes",  # worker: of the accelerator, that it holds
    "models",  # worker: handles that name something
    "failed",  # worker: of the calls, those that failed
    "waiting",  # server: others that wait for a turn
    "replay_nbytes",  # server: which the worker may keep for graphs of operators that repeat
]
_FIRST = struct.Struct("@QQQ")  # native: each word is written at once
_PLACES = {name: place for place, name in enumerate(get_args(Count))}


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a worker has last shown."""

    used_ns: int = 0
    calls: int = 0
    queue: int = 0
    turns: int = 0
    memory_nbytes: int = 0
    models: int = 0
    failed: int = 0


class Board:
    """One page, shared by the processes that have its descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Map the page of a descriptor, which may be closed then."""
        self._memory = mmap.mmap(descriptor, PAGE_NBYTES)
        self._counts = memoryview(self._memory).cast("Q")

    def __getitem__(self, name: Count) -> int:
        return self._counts[_PLACES[name]]

    def __setitem__(self, name: Count, value: int) -> None:
        self._counts[_PLACES[name]] = value

    def show(self, used_ns: int, calls: int, queue: int) -> None:
        """Set those that change with every call."""
        _FIRST.pack_into(self._memory, 0, used_ns, calls, queue)

    def numbers(self) -> Numbers:
        """What the worker has shown."""
        return Numbers(*self._counts[: len(Numbers.__slots__)])

    def close(self) -> None:
        """Release the page."""
        self._counts.release()
        self._memory.close()


@contextlib.contextmanager
def new_board() -> Iterator[tuple[Board, int]]:
    """Make a page of zeros; the descriptor is good within the context, for another process to have.

    Raises:
        OSError: no descriptor or no memory is left.
    """
    descriptor = os.memfd_create("avec-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, PAGE_NBYTES)
        # A worker that made the page smaller would end every process that looks at it.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield Board(descriptor), descriptor
    finally:
        os.close(descriptor)
