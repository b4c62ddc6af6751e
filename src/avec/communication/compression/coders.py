"""How a palette's encoder finds an element's byte: by arithmetic where values lie evenly, else by hashing.

Neither has to be right for each element. The palette decodes what they gave and compares; where that fails, `extend`
gets the chance to learn more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from avec.tensor import Array

ENTRIES = 256
MAGIC = np.float32(3 << 22)  # added to a small float32 it leaves the nearest integer in the lowest bits
EVEN = 0.2  # of a step, that a value may be beside its place
SLOT_BITS = 16
HASHES = 32  # of 256 values some two meet in 39 % of them
ROUNDS = 4  # of looking for values that the sample did not have
MISSED = 4096  # elements that one round looks at


class Coder(Protocol):
    """Finds the bytes of one channel."""

    def codes(self, block: Array, into: Array, scratch: Array) -> None:
        """Write a byte for each element.

        Args:
            block: the elements' bits.
            into: uint8, of the same shape.
            scratch: contiguous memory of the block's dtype and shape.
        """

    def extend(self, table: Array, channel: Array) -> bool:
        """Enter a channel's values into its table; False if there are too many.

        Args:
            channel: the bits of all its elements, of shape (runs, run length).
        """


class EvenCoder:
    """For float32 values that lie evenly, such as (byte·scale − mean): counts steps from one of them, modulo 256."""

    def __init__(self, first: float, step: float) -> None:
        self.first, self.step = first, step
        self._first = np.float32(first)
        self._per_step = np.float32(1 / step)

    def codes(self, block: Array, into: Array, scratch: Array) -> None:
        steps = scratch.view(np.float32)
        with np.errstate(all="ignore"):  # whatever is not even gets some byte
            np.subtract(block.view(np.float32), self._first, out=steps)
            np.multiply(steps, self._per_step, out=steps)
            np.add(steps, MAGIC, out=steps)
        np.copyto(into, scratch, casting="unsafe")  # the lowest byte of each

    def extend(self, table: Array, channel: Array) -> bool:
        channel = np.ascontiguousarray(channel)
        found = np.empty(channel.shape, np.uint8)
        self.codes(channel, found, np.empty_like(channel))
        table[found] = channel
        return np.array_equal(table[found], channel)


class HashCoder:
    """For any values: a multiplication that sends each of them to a place of its own."""

    def __init__(self, values: Array) -> None:
        self._values = values
        self._factor = 1
        self._slots = np.zeros(1 << SLOT_BITS, np.uint8)

    def codes(self, block: Array, into: Array, scratch: Array) -> None:
        np.take(self._slots, self._places(block, scratch), out=into, mode="clip")

    def extend(self, table: Array, channel: Array) -> bool:
        for _ in range(ROUNDS):
            if not self._arrange():
                return False
            table[: self._values.size] = self._values
            missed = self._missed(table, channel)
            if missed is None:
                return True
            self._values = np.concatenate([self._values, missed])  # those that are there keep their bytes
            if self._values.size > ENTRIES:
                return False
        return False

    def _missed(self, table: Array, channel: Array) -> Array | None:
        """Values of a channel that the table does not have; None if it has all."""
        found = np.empty(channel.shape, np.uint8)
        self.codes(channel, found, np.empty(channel.shape, channel.dtype))
        wrong = channel[table[found] != channel]
        if not wrong.size:
            return None
        return np.setdiff1d(wrong[:MISSED], self._values)

    def _arrange(self) -> bool:
        """Look for a factor with which no two values meet."""
        generator = np.random.default_rng(0)  # any numbers do, and the same ones do again
        for _ in range(HASHES if self._values.itemsize > 2 else 1):
            self._factor = int(generator.integers(1 << 62)) | 1
            places = self._places(self._values, np.empty_like(self._values))
            if np.unique(places).size == self._values.size:
                self._slots[places] = np.arange(self._values.size, dtype=np.uint8)
                return True
        return False

    def _places(self, values: Array, scratch: Array) -> Array:
        width = 8 * values.itemsize
        if width == SLOT_BITS:
            return values
        np.multiply(values, values.dtype.type(self._factor & ((1 << width) - 1)), out=scratch)  # modulo 2^width
        np.right_shift(scratch, values.dtype.type(width - SLOT_BITS), out=scratch)
        return scratch


def coders_of(sample: Array, dtype: np.dtype[Any]) -> Iterator[Coder]:
    """The coders to try, by a sample of distinct values; none where there are too many.

    Args:
        sample: their bits.
        dtype: what they are.
    """
    if sample.size > ENTRIES:
        return
    if dtype == np.float32 and (even := _even(np.sort(sample.view(np.float32)).astype(np.float64))) is not None:
        yield even
    yield HashCoder(sample)


def _even(values: Array) -> EvenCoder | None:
    """A coder for values, in order, that lie evenly."""
    if values.size < 3 or not np.isfinite(values).all():
        return None
    least = float(np.diff(values).min())
    extent = float(values[-1] - values[0])
    if least <= 0 or extent / least > ENTRIES:
        return None
    step = extent / round(extent / least)
    places = (values - values[0]) / step
    if extent / step > ENTRIES - 1 + EVEN or np.abs(places - np.round(places)).max() > EVEN:
        return None
    return EvenCoder(float(values[0]), step)
