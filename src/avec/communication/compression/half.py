"""float32 as float16: lossy, used by name alone. Errs by 2^-11 of a value, more below 6e-5."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from avec.tensor import Array

if TYPE_CHECKING:
    from avec.communication.compression.palette import Learned


def encode(array: Array, learned: Learned) -> Array | None:
    """Write a float32 array; None for others, and where a value is too large for float16."""
    if array.dtype != np.float32:
        return None
    with np.errstate(over="ignore"):
        halves = array.reshape(-1).astype(np.float16)
    if np.count_nonzero(np.isinf(halves)) and not np.array_equal(np.isinf(halves), np.isinf(array.reshape(-1))):
        return None
    return halves.view(np.uint8)


def decode(body: Array, into: Array) -> None:
    """Read a float32 array.

    Raises:
        ValueError: the bytes are not of such an array.
    """
    if into.dtype != np.float32 or body.nbytes * 2 != into.nbytes:
        raise ValueError(f"{body.nbytes} bytes of float16")
    into.reshape(-1)[...] = body.view(np.float16)
