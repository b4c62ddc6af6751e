"""Arrays as their bits, and bytes put together: what several codecs need."""

from __future__ import annotations

import numpy as np

from avec.tensor import Array


def bits(array: Array) -> Array:
    """View the elements of a contiguous array as unsigned integers, flat; a complex128 as two of them.

    What is equal here is the same in each bit, NaNs and −0.0 included.
    """
    return array.reshape(-1).view(np.dtype(f"u{min(array.dtype.itemsize, 8)}"))


def joined(*pieces: Array | bytes) -> Array:
    """The bytes of several contiguous pieces, in one array."""
    views = [
        each.reshape(-1).view(np.uint8) if isinstance(each, np.ndarray) else np.frombuffer(each, np.uint8)
        for each in pieces
    ]
    return np.concatenate(views)
