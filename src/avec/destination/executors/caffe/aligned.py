"""A caffemodel's numbers where a CPU can compute with them: aligned, in a file of the model cache that workers map.

In the caffemodel itself they begin at any byte. Who maps the same file has the same pages in memory, until he writes.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from avec.errors import CacheUnavailable
from avec.formats.caffe.message import Message
from avec.modelcache import ModelCache

ALIGNMENT_NBYTES = 64  # as torch's own allocations: a cache line, and the widest vector
COMPARED_NBYTES = 1 << 20  # at once

log = logging.getLogger("avec.destination")
Floats = npt.NDArray[np.float32]


def align(weights: Message, path: Path, cache: ModelCache) -> bool:
    """Have the arrays of a caffemodel be views on a private mapping of their aligned form, or leave them as they are.

    Writing into them changes nobody else's. As long as the mapping lives, the file is not removed to make room.

    Args:
        weights: what was read; arrays of doubles stay what they are.
        path: of the caffemodel in the cache, which the caller has pinned and verified.

    Returns:
        Whether they are aligned now.
    """
    blobs = [blob for layer in weights.layer for blob in layer.blobs if len(blob.data)]
    arrays: list[Floats] = [blob.data.as_array() for blob in blobs]
    places, nbytes = _places(arrays)
    if not nbytes:
        return False
    try:
        views = _mapped(arrays, places, nbytes, path.name, cache)
    except (CacheUnavailable, OSError) as exc:  # no room on the disk, or in what this session may have
        log.info("the weights of model %s are this session's own: %s", path.name, exc)
        return False
    for blob, view in zip(blobs, views, strict=False):
        blob.update_from_plain({"data": view})
    return True


def _mapped(
    arrays: Sequence[Floats], places: Sequence[int], nbytes: int, digest: str, cache: ModelCache
) -> Sequence[Floats]:
    def write(file: BinaryIO) -> None:
        for array, place in zip(arrays, places, strict=True):
            file.seek(place)
            file.write(array.view(np.uint8).data)

    with cache.derive(digest, nbytes, write) as made:
        # It has the file open, and so its lock, until the last view is gone. Source: Python's mmapmodule.c, which dups.
        mapping = mmap.mmap(made.fileno(), nbytes, access=mmap.ACCESS_COPY)
        views = [
            np.frombuffer(mapping, np.float32, array.size, place) for array, place in zip(arrays, places, strict=True)
        ]
        if all(_same(*pair) for pair in zip(arrays, views, strict=True)):
            return views
        cache.discard_derived(made)
    raise CacheUnavailable(f"what was made of model {digest} was damaged, and is made anew the next time")


def _places(arrays: Sequence[Floats]) -> tuple[list[int], int]:
    """Where each array begins, one after another; and where the last one ends."""
    places, end = [], 0
    for array in arrays:
        places.append(-(-end // ALIGNMENT_NBYTES) * ALIGNMENT_NBYTES)
        end = places[-1] + array.nbytes
    return places, end


def _same(one: Floats, other: Floats) -> bool:
    """Whether two arrays are the same to the bit."""
    bits, others = one.view(np.uint8), other.view(np.uint8)
    return all(
        np.array_equal(bits[start : start + COMPARED_NBYTES], others[start : start + COMPARED_NBYTES])
        for start in range(0, bits.size, COMPARED_NBYTES)
    )
