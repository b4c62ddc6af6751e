"""Caffe's binary files: protobuf's wire format, read into and written from plain values.

Packed floats are read as views on the given buffer and written without a copy, so that a caffemodel's weights stay
where they are. Every length is checked before it is used; fields that the schema does not know are skipped.
Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias, cast

import numpy as np

from avec.errors import InvalidModel
from avec.formats.caffe.schema import (
    ARRAY_DTYPES,
    INTEGER_RANGES,
    MESSAGES,
    Field,
    Floats,
    MessageType,
    Plain,
    PlainValue,
    Scalar,
)

Buffer: TypeAlias = bytes | bytearray | memoryview

GROUP_LIMIT = 32  # unknown groups within one another; Caffe has none, and no message of its own contains itself
VALUE_LIMIT = 1 << 20  # messages and scalars in one file; the largest published nets have under 20,000

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
FIXED_NBYTES = {FIXED32: 4, FIXED64: 8}
WIRE_TYPES = {"float": FIXED32, "double": FIXED64, "string": BYTES, "bytes": BYTES, "message": BYTES}
PACKABLE = {"float", "double", "bool", "enum", *INTEGER_RANGES}
VARINT_NBYTES = 10


def decode(message: MessageType, data: Buffer, source: str) -> Plain:
    """Read one message.

    Args:
        message: what `data` is said to hold.
        data: the file's bytes; float arrays of the result are views on it and keep it alive.
        source: the file's name, for messages.

    Raises:
        InvalidModel: with the file, the byte offset and the reason.
    """
    view = memoryview(data).cast("B")
    return _Reader(view, source).message(message, 0, len(view))


class _Reader:
    """One pass over one buffer."""

    def __init__(self, view: memoryview, source: str) -> None:
        self._view = view
        self._source = source
        self._values = 0

    def message(self, message: MessageType, position: int, end: int) -> Plain:
        plain: Plain = {}
        arrays: dict[str, list[Floats]] = {}
        while position < end:
            start = position
            tag, position = self._varint(position, end, "a field's tag")
            number, wire_type = tag >> 3, tag & 7
            if number == 0 or number >= 1 << 29:
                self._refuse(start, f"field number {number} in {message.name}: not a {message.name}, or damaged")
            field = message.by_number.get(number)
            if field is None or not _fits(field, wire_type):
                position = self._skip(wire_type, position, end, start, 0)
            elif field.holds_array:
                chunk, position = self._floats(field, wire_type, start, position, end, message)
                arrays.setdefault(field.name, []).append(chunk)
            else:
                position = self._field(message, field, wire_type, position, end, plain)
        for name, chunks in arrays.items():
            plain[name] = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return plain

    def _field(
        self,
        message: MessageType,
        field: Field,
        wire_type: int,
        position: int,
        end: int,
        plain: Plain,
    ) -> int:
        """Read a field that is no float array into `plain`; a message met twice is merged, as protobuf does."""
        if field.type == "message":
            start, stop = self._span(position, end, f"{message.name}.{field.name}")
            self._count(start)
            value: PlainValue = self.message(MESSAGES[field.message], start, stop)
            position = stop
        elif wire_type == BYTES and field.type in PACKABLE:
            return self._packed(message, field, position, end, plain)
        else:
            value, position = self._scalar(field, position, end, f"{message.name}.{field.name}")
            if field.enum is not None and value not in field.enum.names:
                return position  # a value of a later version counts as an unknown field
        if field.repeated:
            cast("list[PlainValue]", plain.setdefault(field.name, [])).append(value)
        elif field.type == "message" and field.name in plain:
            _merge(cast(Plain, plain[field.name]), cast(Plain, value), MESSAGES[field.message])
        else:
            plain[field.name] = value
        return position

    def _packed(self, message: MessageType, field: Field, position: int, end: int, plain: Plain) -> int:
        what = f"{message.name}.{field.name}"
        start, stop = self._span(position, end, what)
        values = cast("list[Scalar]", plain.setdefault(field.name, []))
        while start < stop:
            value, start = self._scalar(field, start, stop, what)
            values.append(value)
        return stop

    def _floats(
        self, field: Field, wire_type: int, start: int, position: int, end: int, message: MessageType
    ) -> tuple[Floats, int]:
        dtype = ARRAY_DTYPES[field.type]
        if wire_type != BYTES:
            return self._unpacked_floats(dtype, start, position, end, f"{message.name}.{field.name}")
        first, stop = self._span(position, end, f"{message.name}.{field.name}")
        if (stop - first) % dtype.itemsize:
            self._refuse(
                first,
                f"{message.name}.{field.name} is {stop - first} bytes, no multiple of {dtype.itemsize}",
            )
        return np.frombuffer(self._view[first:stop], dtype), stop

    def _unpacked_floats(
        self, dtype: np.dtype[np.floating[Any]], start: int, position: int, end: int, what: str
    ) -> tuple[Floats, int]:
        """Read a run of values that each carry the tag at `start`, as files before packed fields have them."""
        tag = bytes(self._view[start:position])
        if end - position < dtype.itemsize:
            self._refuse(position, f"{what} ends after {end - position} of {dtype.itemsize} bytes")
        item = np.dtype([("tag", "u1", (len(tag),)), ("value", dtype)])
        pattern = np.frombuffer(tag, np.uint8)
        run = 1
        while True:  # windows double, so that many short runs cost no more than one long run
            window = min((end - start) // item.itemsize, 2 * run)
            items = np.frombuffer(self._view[start : start + window * item.itemsize], item)
            same = (items["tag"] == pattern).all(axis=1)
            run = window if same.all() else int(same.argmin())
            if run < window or window == (end - start) // item.itemsize:
                return items["value"][:run].copy(), start + run * item.itemsize

    def _scalar(self, field: Field, position: int, end: int, what: str) -> tuple[Scalar, int]:
        self._count(position)
        if field.type in ("string", "bytes"):
            start, stop = self._span(position, end, what)
            return self._string(field, start, stop, what), stop
        if field.type in ARRAY_DTYPES:
            nbytes = ARRAY_DTYPES[field.type].itemsize
            if end - position < nbytes:
                self._refuse(position, f"{what} ends after {end - position} of {nbytes} bytes")
            return struct.unpack_from("<f" if nbytes == 4 else "<d", self._view, position)[0], position + nbytes
        raw, position = self._varint(position, end, what)
        return _from_varint(field, raw), position

    def _string(self, field: Field, start: int, stop: int, what: str) -> Scalar:
        raw = bytes(self._view[start:stop])
        if field.type == "bytes":
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError as exc:
            raise InvalidModel(f"{self._source}: byte {start + exc.start}: {what} is not UTF-8 text") from exc

    def _span(self, position: int, end: int, what: str) -> tuple[int, int]:
        length, start = self._varint(position, end, f"the length of {what}")
        if length > end - start:
            self._refuse(position, f"{what} is said to be {length} bytes, but {end - start} are left")
        return start, start + length

    def _varint(self, position: int, end: int, what: str) -> tuple[int, int]:
        value = 0
        for shift in range(VARINT_NBYTES):
            at = position + shift
            if at >= end:
                self._refuse(position, f"the data end inside {what}")
            byte = self._view[at]
            value |= (byte & 0x7F) << (7 * shift)
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at + 1
        self._refuse(position, f"{what} is a number of more than {VARINT_NBYTES} bytes")

    def _skip(self, wire_type: int, position: int, end: int, start: int, depth: int) -> int:
        if wire_type == VARINT:
            return self._varint(position, end, "an unknown field")[1]
        if wire_type == BYTES:
            return self._span(position, end, "an unknown field")[1]
        if wire_type in FIXED_NBYTES:
            if end - position < FIXED_NBYTES[wire_type]:
                self._refuse(position, "the data end inside an unknown field")
            return position + FIXED_NBYTES[wire_type]
        if wire_type != GROUP:
            self._refuse(start, f"wire type {wire_type}: this is no binary file of Caffe's")
        if depth > GROUP_LIMIT:
            self._refuse(start, f"groups nest deeper than {GROUP_LIMIT} levels")
        return self._skip_group(position, end, start, depth)

    def _skip_group(self, position: int, end: int, start: int, depth: int) -> int:
        while position < end:
            tag, position = self._varint(position, end, "a field's tag")
            if tag & 7 == END_GROUP:
                return position
            position = self._skip(tag & 7, position, end, start, depth + 1)
        self._refuse(start, "the data end inside a group")

    def _count(self, position: int) -> None:
        """Bound the objects that a file can make of its bytes: a float costs none, but an empty message costs many."""
        self._values += 1
        if self._values > VALUE_LIMIT:
            self._refuse(position, f"more than {VALUE_LIMIT} values and messages")

    def _refuse(self, position: int, reason: str) -> NoReturn:
        raise InvalidModel(
            f"{self._source}: byte {position} of {len(self._view)}: {reason}; "
            "the file is truncated, damaged or of another format: copy it again and compare its size"
        )


def _fits(field: Field, wire_type: int) -> bool:
    if wire_type == WIRE_TYPES.get(field.type, VARINT):
        return True
    return field.repeated and wire_type == BYTES and field.type in PACKABLE


def _from_varint(field: Field, raw: int) -> Scalar:
    if field.type == "bool":
        return raw != 0
    if field.type == "uint32":
        return raw & 0xFFFF_FFFF
    if field.type == "uint64":
        return raw
    bits = 64 if field.type == "int64" else 32
    raw &= (1 << bits) - 1
    return raw - (1 << bits) if raw >> (bits - 1) else raw


def _merge(target: Plain, addition: Plain, message: MessageType) -> None:
    for name, value in addition.items():
        field = message.by_name[name]
        if field.repeated and name in target:
            joined = [target[name], value]
            target[name] = np.concatenate(joined) if field.holds_array else [*joined[0], *joined[1]]  # type: ignore[arg-type, misc]
        elif field.type == "message" and name in target:
            _merge(cast(Plain, target[name]), cast(Plain, value), MESSAGES[field.message])
        else:
            target[name] = value


def encode(message: MessageType, plain: Plain) -> list[bytes | memoryview]:
    """Write one message as pieces to be sent or written one after another; float arrays are not copied."""
    pieces: list[bytes | memoryview] = []
    for field in message.fields:
        if field.name in plain:
            _encode_field(field, plain[field.name], pieces)
    return pieces


def _encode_field(field: Field, value: PlainValue, pieces: list[bytes | memoryview]) -> None:
    if field.holds_array:
        _encode_floats(field, np.asarray(value, ARRAY_DTYPES[field.type]), pieces)
    elif field.packed:
        body = b"".join(_scalar_bytes(field, item) for item in cast("Sequence[Scalar]", value))
        if body:
            pieces.append(_tag(field, BYTES) + _varint_bytes(len(body)) + body)
    elif field.type == "message":
        for item in cast("list[Plain]", value if field.repeated else [value]):
            inner = encode(MESSAGES[field.message], item)
            pieces.append(_tag(field, BYTES) + _varint_bytes(sum(len(piece) for piece in inner)))
            pieces.extend(inner)
    else:
        tag = _tag(field, WIRE_TYPES.get(field.type, VARINT))
        pieces.extend(
            tag + _scalar_bytes(field, item) for item in cast("list[Scalar]", value if field.repeated else [value])
        )


def _encode_floats(field: Field, values: Floats, pieces: list[bytes | memoryview]) -> None:
    if not values.size:
        return
    if field.packed:
        body = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        pieces.append(_tag(field, BYTES) + _varint_bytes(len(body)))
        pieces.append(body)
        return
    tag = _tag(field, WIRE_TYPES[field.type])
    items = np.empty(values.size, np.dtype([("tag", "u1", (len(tag),)), ("value", values.dtype)]))
    items["tag"] = np.frombuffer(tag, np.uint8)
    items["value"] = values.reshape(-1)
    pieces.append(items.tobytes())


def _tag(field: Field, wire_type: int) -> bytes:
    return _varint_bytes(field.number << 3 | wire_type)


def _varint_bytes(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # a negative number is written as its 64-bit two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _scalar_bytes(field: Field, value: Scalar) -> bytes:
    if field.type == "string":
        raw = str(value).encode()
        return _varint_bytes(len(raw)) + raw
    if field.type == "bytes":
        return _varint_bytes(len(cast(bytes, value))) + cast(bytes, value)
    if field.type in ARRAY_DTYPES:
        return struct.pack("<f" if field.type == "float" else "<d", value)
    return _varint_bytes(int(value))
