"""What a host has to know of an ONNX file: the side files in which it keeps tensors, and whether it draws random
numbers from a seed. Nothing else is read.

Source: onnx/onnx.proto3 (field numbers), https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview
Fields: TypeAlias = Iterator[tuple[int, int | memoryview]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_NBYTES = 10
_DEPTH_LIMIT = 64  # graphs within graphs

# Which fields of a message hold which messages: what is needed to reach every TensorProto.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _ENTRY = range(8)
_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TENSOR: {13: _ENTRY},
    _ENTRY: {},
}


class NotProtobuf(ValueError):
    """The bytes are no protobuf message; whoever executes the model will say so in its own words."""


def external_data(model: Buffer) -> list[str]:
    """The names of the side files that tensors of a model are in, each once, as they stand in the model.

    The bytes of tensors themselves are skipped, so a mapped file of gigabytes is hardly touched.

    Raises:
        NotProtobuf: it is damaged, or no ONNX model at all.
    """
    locations: dict[str, None] = {}
    _collect(memoryview(model).cast("B"), _MODEL, locations, 0)
    return list(locations)


# Operators that draw random numbers. Source: https://onnx.ai/onnx/operators
_RANDOM = frozenset(
    {b"Bernoulli", b"Dropout", b"Multinomial", b"RandomNormal", b"RandomNormalLike", b"RandomUniform",
     b"RandomUniformLike"}
)  # fmt: skip


def is_seeded(model: Buffer) -> bool:
    """Whether a model draws random numbers from a seed in it, so that each run depends on how many came before.

    Raises:
        NotProtobuf: it is damaged, or no ONNX model at all.
    """
    return _is_seeded(memoryview(model).cast("B"), _MODEL, 0)


def _is_seeded(view: memoryview, message: int, depth: int) -> bool:
    if depth > _DEPTH_LIMIT:
        raise NotProtobuf(f"messages within one another, {_DEPTH_LIMIT} deep")
    if message == _NODE:
        fields = [(number, value) for number, value in _fields(view) if isinstance(value, memoryview)]
        attributes = [value for number, value in fields if number == 5]
        names = [(number, value) for attribute in attributes for number, value in _fields(attribute)]
        seeded = any(
            number == 1 and isinstance(value, memoryview) and bytes(value) == b"seed" for number, value in names
        )
        if seeded and any(number == 4 and bytes(value) in _RANDOM for number, value in fields):
            return True
        return any(_is_seeded(attribute, _ATTRIBUTE, depth + 1) for attribute in attributes)
    structure = {_GRAPH, _NODE, _FUNCTION}
    children = {number: kind for number, kind in _CHILDREN[message].items() if kind in structure}
    return any(
        _is_seeded(value, children[number], depth + 1)
        for number, value in _fields(view)
        if number in children and isinstance(value, memoryview)
    )


def _collect(view: memoryview, message: int, locations: dict[str, None], depth: int) -> None:
    if depth > _DEPTH_LIMIT:
        raise NotProtobuf(f"messages within one another, {_DEPTH_LIMIT} deep")
    if message == _ENTRY:
        entry = {number: bytes(value) for number, value in _fields(view) if isinstance(value, memoryview)}
        if entry.get(1) == b"location":
            locations[entry.get(2, b"").decode("utf-8", "surrogateescape")] = None
        return
    children = _CHILDREN[message]
    for number, value in _fields(view):
        if number in children and isinstance(value, memoryview):
            _collect(value, children[number], locations, depth + 1)


def _fields(view: memoryview) -> Fields:
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, position = _varint(view, position)
            yield tag >> 3, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(view, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise NotProtobuf(f"wire type {wire_type} at byte {position}")
        if length > end - position:
            raise NotProtobuf(f"a field of {length} bytes at byte {position} of {end}")
        yield tag >> 3, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_NBYTES):
        if position + index >= len(view):
            break
        byte = view[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise NotProtobuf(f"a number without an end at byte {position}")
