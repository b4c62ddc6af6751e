"""The non-zero mask: one bit for each element, and those elements whose bits are not all 0.

    bits of the elements, the first one highest, filled up to 8 bytes | elements          −0.0 is not 0 here

Exact by construction: what is left out is 0 in each of its bits, all else is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from avec.communication.compression.layout import bits, joined
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.communication.compression.palette import Learned

MOST = 0.9  # of the elements: with more of them than this not 0, nothing is gained that is worth the time
SAMPLE = 4096


def encode(array: Array, learned: Learned) -> Array | None:
    """Write an array; None where too few elements are 0."""
    if array.dtype.itemsize > 8 or array.dtype.itemsize < 2:
        return None
    values = bits(array)
    sample = values[:: max(1, values.size // SAMPLE)]
    if np.count_nonzero(sample) > MOST * sample.size:
        return None
    present = values != 0
    kept = values[present]
    if kept.size > MOST * values.size:
        return None
    return joined(_padded(np.packbits(present)), kept)


def decode(body: Array, into: Array) -> None:
    """Read an array.

    Raises:
        ValueError: the bytes are not of such an array.
    """
    values = bits(into)
    mask_nbytes = -(-values.size // 8)
    start = -(-mask_nbytes // 8) * 8
    if body.nbytes < start or (body.nbytes - start) % values.itemsize:
        raise ValueError(f"{body.nbytes} bytes, of which {start} are to be a mask")
    present = np.unpackbits(body[:mask_nbytes], count=values.size).view(np.bool_)
    kept = body[start:].view(values.dtype)
    if np.count_nonzero(present) != kept.size:
        raise ValueError(f"{kept.size} elements for a mask of {np.count_nonzero(present)}")
    values[...] = 0
    values[present] = kept


def _padded(mask: Array) -> Array:
    return np.pad(mask, (0, -mask.size % 8))
