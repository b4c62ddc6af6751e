"""Host memory that calls are received into, kept for the next call of the same size, and bounded for each session.

New memory costs a page fault for each 4 KiB, 0.7 ms for an OpenPose frame; page-locked memory costs far more.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from avec.errors import AcceleratorOutOfMemory
from avec.tensor import Array, TensorSpec

SMALL_NBYTES = 64 * 1024  # below it malloc is as good
GRAIN_NBYTES = 4096  # sizes are rounded up to it, so that nearly equal ones share


class BufferPool:
    """Gives buffers and takes them back. Thread-safe."""

    def __init__(self, allocate: Callable[[int], Array], idle_nbytes: int, limit_nbytes: int = sys.maxsize) -> None:
        """Begin with nothing.

        Args:
            allocate: makes a buffer of so many bytes, or raises MemoryError.
            idle_nbytes: of buffers that are kept for later, at most.
            limit_nbytes: of all buffers, at most.
        """
        self._allocate = allocate
        self._idle_limit_nbytes = idle_nbytes
        self._limit_nbytes = limit_nbytes
        self._idle: dict[int, list[Array]] = defaultdict(list)
        self._idle_nbytes = 0
        self._taken: dict[int, Array] = {}  # address → buffer
        self._nbytes = 0  # of all: idle, taken, and being made
        self._lock = threading.Lock()

    def take(self, spec: TensorSpec) -> Array:
        """Give memory for a tensor; its contents are undefined.

        Raises:
            AcceleratorOutOfMemory: the session may not have so much, or there is none.
        """
        try:
            if spec.nbytes < SMALL_NBYTES:
                return np.empty(spec.shape, spec.dtype)
            buffer = self._buffer(-(-spec.nbytes // GRAIN_NBYTES) * GRAIN_NBYTES)
        except AcceleratorOutOfMemory:
            raise
        except MemoryError as exc:
            raise AcceleratorOutOfMemory(f"no memory is left for a tensor of {spec.nbytes} bytes: {exc}") from exc
        return buffer[: spec.nbytes].view(spec.dtype).reshape(spec.shape)

    def give_back(self, arrays: Sequence[Array]) -> None:
        """Take back what `take` gave; nobody may use it any more."""
        with self._lock:
            for array in arrays:
                buffer = self._taken.pop(_address(array), None)
                if buffer is None:
                    continue
                if self._idle_nbytes + buffer.nbytes <= self._idle_limit_nbytes:
                    self._idle[buffer.nbytes].append(buffer)
                    self._idle_nbytes += buffer.nbytes
                else:
                    self._nbytes -= buffer.nbytes

    def _buffer(self, size: int) -> Array:
        with self._lock:
            idle = self._idle[size]
            buffer = idle.pop() if idle else None
            if buffer is not None:
                self._idle_nbytes -= size
            else:
                self._reserve(size)
        if buffer is None:
            buffer = self._made(size)
        with self._lock:
            self._taken[_address(buffer)] = buffer
        return buffer

    def _reserve(self, size: int) -> None:
        if self._nbytes + size > self._limit_nbytes:
            self._drop_idle()
        if self._nbytes + size > self._limit_nbytes:
            raise AcceleratorOutOfMemory(
                f"a tensor of {size} bytes, while the session's messages hold {self._nbytes} bytes; "
                f"{self._limit_nbytes} bytes are allowed them; send less in one call, or declare more memory "
                "(avec run --memory)"
            )
        self._nbytes += size

    def _made(self, size: int) -> Array:
        try:
            try:
                return self._allocate(size)
            except MemoryError:
                with self._lock:
                    self._drop_idle()
                return self._allocate(size)
        except BaseException:
            with self._lock:
                self._nbytes -= size
            raise

    def _drop_idle(self) -> None:
        self._idle.clear()
        self._nbytes -= self._idle_nbytes
        self._idle_nbytes = 0


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
