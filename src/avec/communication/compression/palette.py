"""Palettes: an array with few distinct values as one byte an element and the values that the bytes stand for.

    axis i32 | tables u32 | planes, rows, row length u32 … | 256 values for each table | codes

The normal case is an image of bytes that became floats, x·scale − mean, with a scale and a mean of its own for each
channel. Then a table goes with each place along the channels' axis (−1: one for all), and a byte is found by
arithmetic; other tables by hashing. The compressed form has each row less the one above it in place of the codes, and
zstd over them. Whatever found a byte, it counts only if the table gives the element's very bits for it: each block is
decoded and compared.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from avec.communication.compression import zstd
from avec.communication.compression.coders import ENTRIES, Coder, coders_of
from avec.communication.compression.layout import bits, joined
from avec.tensor import Array

HEAD = struct.Struct(
    "<iIII"
)  # axis, tables, rows of a plane, length of a row; the last two only of the compressed form
BLOCK = 64 * 1024  # elements that are encoded at once, so that they stay in the processor's cache
LEAST_RUN = 1024  # elements of one channel that lie together; with fewer, blocks reach over several runs
PAIRS_FROM = 128 * 1024  # elements of a table: from so many on, they are looked up two at a time
TABLES_PART = 1 / 16  # of the array, that its tables may take
SAMPLE = 4096  # elements of a channel that are looked at first
CHANNELS_LAST_LIMIT = 16

Shape = tuple[int, int, int]  # what is before the channels' axis, the channels, what is after it
Place = tuple[int | slice, int, slice]


class Palette:
    """The tables of arrays of one dtype and shape, as learned from one of them; grows with further ones.

    Not thread-safe.
    """

    def __init__(self, axis: int, shape: Shape, tables: Array, coders: Sequence[Coder]) -> None:
        self.axis = axis
        self.shape = shape
        self.tables = tables
        self._coders = coders
        self._pairs: list[Array | None] = [None] * len(coders)
        self._scratch = np.empty((2, BLOCK), tables.dtype)  # new memory for each block would take longer than the rest

    def codes(self, values: Array) -> Array | None:
        """One byte for each element; None if there are more values than the tables have room for.

        Args:
            values: the elements' bits, flat.
        """
        array = values.reshape(self.shape)
        codes = np.empty(self.shape, np.uint8)
        for channel, coder in enumerate(self._coders):
            if not self._encode(channel, coder, array, codes):
                if not coder.extend(self.tables[channel], array[:, channel]):
                    return None
                self._pairs[channel] = None
                if not self._encode(channel, coder, array, codes):
                    return None
        return codes

    @property
    def coders(self) -> Sequence[Coder]:
        """One for each channel."""
        return self._coders

    def _encode(self, channel: int, coder: Coder, array: Array, codes: Array) -> bool:
        """Encode one channel; whether decoding it gives the very bits."""
        table = self.tables[channel]
        pairs = self._pairs[channel]
        if pairs is None and _paired(table, self.shape):
            pairs = self._pairs[channel] = _pairs(table)
        for place in _blocks(self.shape, channel):
            block = array[place]
            found = codes[place]
            scratch, decoded = (each[: block.size].reshape(block.shape) for each in self._scratch)
            coder.codes(block, found, scratch)
            _look_up(table, pairs, found, decoded)
            if not np.array_equal(decoded, block):
                return False
        return True


class Learned:
    """What is known of the tensors of one place in one kind of call: their palette, if they have one."""

    def __init__(self) -> None:
        self._palette: Palette | None = None
        self._of: tuple[object, ...] = ()

    def palette(self, array: Array) -> tuple[Palette, Array] | None:
        """A palette, and the array's codes in it; None where it has none."""
        of = (array.dtype, array.shape)
        values = bits(array)
        if self._palette is not None and self._of == of:
            codes = self._palette.codes(values)
            if codes is not None:
                return self._palette, codes
        self._palette, self._of = learn(array), of
        if self._palette is None or (codes := self._palette.codes(values)) is None:
            self._palette = None
            return None
        return self._palette, codes


def learn(array: Array) -> Palette | None:
    """Look for few distinct values: in the whole array, or in each channel by itself."""
    if not 2 <= array.dtype.itemsize <= 8:
        return None
    values = bits(array)
    for axis in _axes(array.shape):
        shape = _split(array.shape, axis)
        if shape[1] * ENTRIES * values.itemsize > TABLES_PART * array.nbytes:
            continue
        tables = np.zeros((shape[1], ENTRIES), values.dtype)
        coders: list[Coder] = []
        for channel, table in enumerate(tables):
            coder = _learn_channel(values.reshape(shape)[:, channel], array.dtype, table)
            if coder is None:
                break
            coders.append(coder)
        else:
            return Palette(axis, shape, tables, coders)
    return None


def _learn_channel(channel: Array, dtype: np.dtype[Any], table: Array) -> Coder | None:
    """Fill a channel's table, with the first coder that can."""
    coders = coders_of(_sample(channel), dtype)
    return next((coder for coder in coders if coder.extend(table, channel)), None)


def encode(array: Array, learned: Learned) -> Array | None:
    """Write an array as tables and codes; None where it has too many values."""
    found = learned.palette(array)
    if found is None:
        return None
    palette, codes = found
    return joined(HEAD.pack(palette.axis, len(palette.tables), 0, 0), palette.tables, codes)


def encode_compressed(array: Array, learned: Learned) -> Array | None:
    """Write an array as tables and compressed differences between rows; None where it has too many values."""
    found = learned.palette(array)
    if found is None:
        return None
    palette, codes = found
    rows, length = _rows(array.shape)
    planes = codes.reshape(-1, rows, length)
    differences = np.empty_like(planes)
    differences[:, 0] = planes[:, 0]
    np.subtract(planes[:, 1:], planes[:, :-1], out=differences[:, 1:])
    head = HEAD.pack(palette.axis, len(palette.tables), rows, length)
    return joined(head, palette.tables, zstd.compress(differences))


def decode(body: Array, into: Array) -> None:
    """Read an array from tables and codes.

    Raises:
        ValueError: the bytes are not of such an array.
    """
    axis, tables, rest, _ = _read(body, into)
    if rest.size != into.size:
        raise ValueError(f"{rest.size} codes for {into.size} elements")
    fill(axis, tables, rest, into)


def decode_compressed(body: Array, into: Array) -> None:
    """Read an array from tables and compressed differences.

    Raises:
        ValueError: the bytes are not of such an array.
    """
    axis, tables, rest, (rows, length) = _read(body, into)
    if rows * length == 0 or into.size % (rows * length):
        raise ValueError(f"rows of {length} elements, {rows} in a plane, for {into.size} elements")
    codes = np.array(zstd.decompress(rest, into.size)).reshape(-1, rows, length)
    for row in range(1, rows):  # a sum along the axis takes three times as long
        np.add(codes[:, row - 1], codes[:, row], out=codes[:, row])
    fill(axis, tables, codes, into)


def fill(axis: int, tables: Array, codes: Array, into: Array) -> None:
    """Look every code up in its channel's table."""
    shape = _split(into.shape, axis)
    array = bits(into).reshape(shape)
    codes = codes.reshape(shape)
    for channel, table in enumerate(tables):
        pairs = _pairs(table) if _paired(table, shape) else None
        for place in _blocks(shape, channel):
            _look_up(table, pairs, codes[place], array[place])


def read_tables(axis: int, count: int, data: Array, into: Array) -> tuple[Array, Array]:
    """The tables at the start of `data`, and what follows them.

    Raises:
        ValueError: such an array has none of that kind there.
    """
    if not 2 <= into.dtype.itemsize <= 8:
        raise ValueError(f"a palette for elements of {into.dtype.itemsize} bytes")
    if not -1 <= axis < into.ndim or count != _split(into.shape, axis)[1]:
        raise ValueError(f"{count} tables along axis {axis}")
    values = bits(into)
    nbytes = count * ENTRIES * values.itemsize
    if data.nbytes < nbytes:
        raise ValueError(f"{data.nbytes} bytes where {count} tables need {nbytes}")
    return data[:nbytes].view(values.dtype).reshape(count, ENTRIES), data[nbytes:]


def _read(body: Array, into: Array) -> tuple[int, Array, Array, tuple[int, int]]:
    if body.nbytes < HEAD.size:
        raise ValueError(f"{body.nbytes} bytes are no palette")
    axis, count, rows, length = HEAD.unpack(body[: HEAD.size].data)
    tables, rest = read_tables(axis, count, body[HEAD.size :], into)
    return axis, tables, rest, (rows, length)


def _axes(shape: tuple[int, ...]) -> Iterator[int]:
    """Where the channels may be: nowhere, first of an image's three axes, or last."""
    yield -1
    if len(shape) >= 3:
        yield len(shape) - 3
        if shape[-1] <= CHANNELS_LAST_LIMIT:
            yield len(shape) - 1


def _split(shape: tuple[int, ...], axis: int) -> Shape:
    if axis < 0:
        return 1, 1, math.prod(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows of a plane and their length, for differences between what lies one above the other."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    if len(shape) >= 3 and shape[-1] <= CHANNELS_LAST_LIMIT:
        return shape[-3], shape[-2] * shape[-1]
    return shape[-2], shape[-1]


def _blocks(shape: Shape, channel: int) -> Iterator[Place]:
    """The places of a channel's elements, a block at a time."""
    before, _, after = shape
    if after >= LEAST_RUN:
        for outer in range(before):
            for start in range(0, after, BLOCK):
                yield outer, channel, slice(start, start + BLOCK)
        return
    step = max(1, BLOCK // max(1, after))
    for start in range(0, before, step):
        yield slice(start, start + step), channel, slice(None)


def _sample(values: Array) -> Array:
    """Some elements of a channel, from all over it, in order of their bits, each once."""
    if values.shape[1] < LEAST_RUN:
        return np.unique(values[:: max(1, values.size // SAMPLE)])
    per_run = max(1, SAMPLE // len(values))
    return np.unique(values[:SAMPLE, :: max(1, values.shape[1] // per_run)])


def _paired(table: Array, shape: Shape) -> bool:
    return table.itemsize <= 4 and shape[0] * shape[2] >= PAIRS_FROM


def _pairs(table: Array) -> Array:
    """A table of all pairs of elements, by two bytes: looking two up takes as long as looking one up."""
    both = np.empty((ENTRIES, ENTRIES, 2), table.dtype)
    both[..., 0] = table  # the low byte is the first element's, as in memory
    both[..., 1] = table[:, None]
    return both.reshape(-1).view(np.dtype(f"u{2 * table.itemsize}"))


def _look_up(table: Array, pairs: Array | None, codes: Array, into: Array) -> None:
    """Fill `into` from a table."""
    even = codes.size - codes.size % 2
    if pairs is None or codes.ndim > 1 or not even:
        np.take(table, codes, out=into, mode="clip")  # else numpy writes into memory of its own first
        return
    two, target = codes[:even].view(np.uint16), into[:even].view(pairs.dtype)
    np.take(pairs, two, out=target, mode="clip")
    into[even:] = table[codes[even:]]  # all codes are within the table
