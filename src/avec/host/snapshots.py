"""When a copy of a session's state is to be brought to the host, and where it is kept there.

In a file of the cache folder that its owner alone can read and that has no name any more: nothing is left of it when
this process ends, however it ends. Not here: what the state is (front-ends, executors).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from avec.tensor import Array, TensorSpec

FIRST_S = 10.0  # after the beginning of a journal, and the least time between two snapshots
SHARE = 50  # times what the last one took has to pass before the next: they take no more than 2 % of the time
FULL = 0.75  # of the journal, when there is no more time to lose
SMALL_NBYTES = 1 << 20  # what is smaller is kept in memory


class Timing:
    """Says when the next snapshot is due. Pure: the caller reads the clock."""

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s  # when the last one ended
        self._took_s = 0.0
        self._asked_s: float | None = None  # one is under way since then

    def is_due(self, now_s: float, fullness: float) -> bool:
        """Whether one should be asked for, with a journal that is so full."""
        if self._asked_s is not None or not fullness:
            return False
        return fullness > FULL or now_s - self._last_s > max(FIRST_S, SHARE * self._took_s)

    def asked(self, now_s: float) -> None:
        """Take note that one was asked for."""
        self._asked_s = now_s

    def ended(self, now_s: float) -> None:
        """Take note that it is here, or was refused."""
        self._took_s = now_s - (now_s if self._asked_s is None else self._asked_s)
        self._last_s, self._asked_s = now_s, None


def room(folder: Path, spec: TensorSpec) -> Array:
    """Make an array in a file without a name.

    Raises:
        OSError: there is no room for it.
    """
    if spec.nbytes < SMALL_NBYTES:
        return np.empty(spec.shape, spec.dtype)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder)  # with mode 600
    try:
        os.unlink(name)
        os.posix_fallocate(descriptor, 0, spec.nbytes)  # else a full disk would be a signal at some later write
        memory = mmap.mmap(descriptor, spec.nbytes)
    finally:
        os.close(descriptor)
    array: Array = np.frombuffer(memory, spec.dtype).reshape(spec.shape)
    return array
