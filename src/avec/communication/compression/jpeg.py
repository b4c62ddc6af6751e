"""Images as JPEG: lossy, used by name alone. For bytes, and for floats that are an image's bytes to a palette.

    axis i32 | tables u32 | 0 u32 | 0 u32 | 256 values for each table | a JPEG file, of one image below the other

It needs Pillow, on both ends.
"""

from __future__ import annotations

import importlib.util
import io
import math
from dataclasses import dataclass

import numpy as np

from avec.communication.compression.coders import ENTRIES, EvenCoder
from avec.communication.compression.layout import joined
from avec.communication.compression.palette import HEAD, Learned, Palette, fill, read_tables
from avec.tensor import Array

QUALITY = 90  # of 100
LEAST_SIDE, SIDE_LIMIT = 8, 65500  # pixels: a block's, libjpeg's
NO_TABLES = -2  # in the axis' place: the elements are bytes themselves


@dataclass(frozen=True, slots=True)
class Picture:
    """How an array is an image: several of equal size, one below the other, in colour or grey."""

    count: int
    channels: int
    height: int
    width: int
    last: bool  # whether the channels' axis is the last one

    def stacked(self, array: Array) -> Array:
        """The array as rows of pixels."""
        if not self.last and self.channels > 1:
            array = array.reshape(self.count, self.channels, self.height, self.width).transpose(0, 2, 3, 1)
        pixel = (self.channels,) if self.channels > 1 else ()
        return np.ascontiguousarray(array).reshape(self.count * self.height, self.width, *pixel)

    def unstacked(self, pixels: Array, shape: tuple[int, ...]) -> Array:
        """Rows of pixels as the array."""
        if not self.last and self.channels > 1:
            pixels = pixels.reshape(self.count, self.height, self.width, self.channels).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels).reshape(shape)


def available() -> bool:
    """Whether Pillow is installed."""
    return importlib.util.find_spec("PIL") is not None


def encode(array: Array, learned: Learned) -> Array | None:
    """Write an array of one or three channels; None for what is no image."""
    picture = picture_of(array.shape)
    if picture is None:
        return None
    if array.dtype == np.uint8:
        return joined(HEAD.pack(NO_TABLES, 0, 0, 0), _compress(array, picture))
    found = learned.palette(array)
    rising = _rising(*found) if found is not None else None
    if found is None or rising is None:
        return None
    tables, codes = rising
    head = HEAD.pack(found[0].axis, len(tables), 0, 0)
    return joined(head, tables, _compress(codes.reshape(array.shape), picture))


def decode(body: Array, into: Array) -> None:
    """Read an array.

    Raises:
        ValueError: the bytes are not of such an array.
    """
    picture = picture_of(into.shape)
    if body.nbytes < HEAD.size or picture is None:
        raise ValueError(f"{body.nbytes} bytes for what is no image")
    axis, count, _, _ = HEAD.unpack(body[: HEAD.size].data)
    rest = body[HEAD.size :]
    if axis != NO_TABLES:
        tables, rest = read_tables(axis, count, rest, into)
        fill(axis, tables, picture.unstacked(_decompress(rest, picture), into.shape), into)
    elif into.dtype == np.uint8:
        into[...] = picture.unstacked(_decompress(rest, picture), into.shape)
    else:
        raise ValueError(f"bytes for an array of {into.dtype}")


def picture_of(shape: tuple[int, ...]) -> Picture | None:
    """Understand a shape as images, with the channels first, last or nowhere; None where it is none."""
    if len(shape) < 2:
        return None
    layouts = [(1, shape[-2], shape[-1], False)]
    if len(shape) > 2:
        layouts = [(shape[-1], shape[-3], shape[-2], True), (shape[-3], shape[-2], shape[-1], False)]
    for channels, height, width, last in layouts:
        if channels in (1, 3) and height >= LEAST_SIDE and LEAST_SIDE <= width <= SIDE_LIMIT:
            count = math.prod(shape) // (channels * height * width)
            return Picture(count, channels, height, width, last) if 0 < count * height <= SIDE_LIMIT else None
    return None


def _rising(palette: Palette, codes: Array) -> tuple[Array, Array] | None:
    """Tables and codes such that a higher code is a higher value, and every code has one; None where values are not
    even: JPEG gives other codes back, which are to be near."""
    tables, codes = palette.tables.copy(), codes.copy()
    for channel, (table, coder) in enumerate(zip(tables, palette.coders, strict=True)):
        if not isinstance(coder, EvenCoder):
            return None
        mine = codes[:, channel]
        present = np.unique(mine)
        first = present[np.argmin(table.view(np.float32)[present])]
        values = table.view(np.float32)[first] + np.arange(ENTRIES) * coder.step
        known = table[present]
        table[...] = values.astype(np.float32).view(np.uint32)
        table[present - first] = known
        mine -= first
    return tables, codes


def _compress(array: Array, picture: Picture) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture.stacked(array)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _decompress(data: Array, picture: Picture) -> Array:
    """The pixels in a JPEG file.

    Raises:
        ValueError: it is no such file, or one of another size.
    """
    from PIL import Image

    size, mode = (picture.width, picture.count * picture.height), "RGB" if picture.channels > 1 else "L"
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as image:
            if (image.size, image.mode) != (size, mode):  # known before anything is decompressed
                raise ValueError(f"an image of {image.size} pixels in {image.mode}, where {size} in {mode} is due")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as exc:
        raise ValueError(f"no JPEG image: {exc}") from exc
