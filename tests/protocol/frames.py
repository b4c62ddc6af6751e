"""Writing and reading frames by hand, past the encoder's own checks."""

from __future__ import annotations

import msgspec

from avec.protocol import messages
from avec.protocol.codec import HEADER, MAGIC, Frame, FrameReader, allocate_array
from avec.protocol.connection import Connection

NUMBERS = {message: number for number, message in enumerate(messages.TYPES)}


def raw_frame(kind: type[messages.Message] | int, meta: object = b"", payload: bytes = b"", number: int = 0) -> bytes:
    """A frame with whatever is asked for: `meta` is msgpack already, or values to be packed."""
    packed = meta if isinstance(meta, bytes) else msgspec.msgpack.encode(meta)
    return header(kind, len(packed), len(payload), number) + packed + payload


def header(kind: type[messages.Message] | int, meta_nbytes: int, payload_nbytes: int, number: int = 0) -> bytes:
    """A header alone, which may promise anything."""
    place = kind if isinstance(kind, int) else NUMBERS[kind]
    return HEADER.pack(MAGIC, messages.VERSION, place, meta_nbytes, payload_nbytes, number)


def feed(end: FrameReader | Connection, data: bytes, step: int = 0) -> list[Frame]:
    """Give bytes to a reader as a network would, at most `step` at a time; the frames that they completed."""
    frames = []
    view = memoryview(data)
    while view:
        target = end.buffer()
        count = min(len(view), target.nbytes, step or len(view))
        target[:count] = view[:count]
        view = view[count:]
        if (frame := end.advance(count)) is not None:
            frames.append(frame)
    return frames


def trusted_reader() -> FrameReader:
    """A reader after the hello."""
    reader = FrameReader(allocate_array)
    reader.trust()
    return reader
