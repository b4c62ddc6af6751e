"""Byte shuffle and zstd: the first bytes of all elements, then the second ones, and so on, compressed.

Exponents are much alike where mantissas are not; put together they compress. Exact by construction, and zstd's own
checksum goes along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from avec.communication.compression import zstd
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.communication.compression.palette import Learned


def encode(array: Array, learned: Learned) -> Array | None:
    """Write an array."""
    planes = np.ascontiguousarray(array.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize).T)
    return np.frombuffer(zstd.compress(planes), np.uint8)


def decode(body: Array, into: Array) -> None:
    """Read an array.

    Raises:
        ValueError: the bytes are not of such an array.
    """
    planes = zstd.decompress(body, into.nbytes).reshape(into.dtype.itemsize, -1)
    into.reshape(-1).view(np.uint8).reshape(-1, into.dtype.itemsize)[...] = planes.T
