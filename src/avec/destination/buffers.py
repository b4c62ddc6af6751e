"""Host memory that calls are received into, kept for the next call of the same size.

New memory costs a page fault for each 4 KiB, 0.7 ms for an OpenPose frame; page-locked memory costs far more.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from avec.tensor import Array, TensorSpec

SMALL_NBYTES = 64 * 1024  # below it malloc is as good
GRAIN_NBYTES = 4096  # sizes are rounded up to it, so that nearly equal ones share


class BufferPool:
    """Gives buffers and takes them back. Thread-safe."""

    def __init__(self, allocate: Callable[[int], Array], limit_nbytes: int) -> None:
        """Keep at most `limit_nbytes` of idle buffers, each made by `allocate`."""
        self._allocate = allocate
        self._limit_nbytes = limit_nbytes
        self._idle: dict[int, list[Array]] = defaultdict(list)
        self._idle_nbytes = 0
        self._taken: dict[int, Array] = {}  # address → buffer
        self._lock = threading.Lock()

    def take(self, spec: TensorSpec) -> Array:
        """Give memory for a tensor; its contents are undefined."""
        if spec.nbytes < SMALL_NBYTES:
            return np.empty(spec.shape, spec.dtype)
        size = -(-spec.nbytes // GRAIN_NBYTES) * GRAIN_NBYTES
        with self._lock:
            idle = self._idle[size]
            buffer = idle.pop() if idle else None
            self._idle_nbytes -= size if buffer is not None else 0
        if buffer is None:
            buffer = self._allocate(size)
        with self._lock:
            self._taken[_address(buffer)] = buffer
        return buffer[: spec.nbytes].view(spec.dtype).reshape(spec.shape)

    def give_back(self, arrays: Sequence[Array]) -> None:
        """Take back what `take` gave; nobody may use it any more."""
        with self._lock:
            for array in arrays:
                buffer = self._taken.pop(_address(array), None)
                if buffer is not None and self._idle_nbytes + buffer.nbytes <= self._limit_nbytes:
                    self._idle[buffer.nbytes].append(buffer)
                    self._idle_nbytes += buffer.nbytes


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
