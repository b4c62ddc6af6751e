"""Caffe's messages, fields and enums as typed records, read once from `table.TABLE`.

`Plain` is how the readers and writers see a message: a dict from field name to value, repeated fields as lists (as
numpy arrays where they are floats), messages as dicts. `coerce` is the one place that says what a field may hold.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.formats.caffe.table import TABLE

Scalar: TypeAlias = int | float | bool | str | bytes
Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Plain: TypeAlias = "dict[str, PlainValue]"
PlainValue: TypeAlias = "Scalar | Floats | Plain | list[Scalar] | list[Plain]"

INTEGER_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
ZEROS: dict[str, Scalar] = {"float": 0.0, "double": 0.0, "bool": False, "string": "", "bytes": b""}
ARRAY_DTYPES: dict[str, np.dtype[np.floating[Any]]] = {"float": np.dtype("<f4"), "double": np.dtype("<f8")}


@dataclass(frozen=True, slots=True)
class EnumType:
    """An enum: its values by name and their names by value."""

    name: str
    values: dict[str, int]
    names: dict[int, str]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message; `message` or `enum` names its type when that is not a scalar."""

    number: int
    name: str
    type: str  # a scalar type's name, "message" or "enum"
    repeated: bool = False
    packed: bool = False
    required: bool = False
    default: Scalar = 0
    message: str = ""
    enum: EnumType | None = None

    @property
    def holds_array(self) -> bool:
        """Whether the field's values are one numpy array."""
        return self.repeated and self.type in ARRAY_DTYPES


@dataclass(frozen=True, slots=True)
class MessageType:
    """A message: its fields in the order of their numbers."""

    name: str
    fields: tuple[Field, ...]
    by_name: dict[str, Field]
    by_number: dict[int, Field]


def as_float32(value: float) -> float:
    """Round to what a `float` field stores; beyond its range that is an infinity, as in C++."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _coerce_enum(enum: EnumType, value: object) -> int:
    if isinstance(value, str) and value in enum.values:
        return enum.values[value]
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) in enum.names:
        return int(value)
    raise ValueError(f"{value!r} is not one of {', '.join(enum.values)}")


def _coerce_integer(kind: str, value: object) -> int:
    if not isinstance(value, (int, np.integer)):
        raise TypeError(f"{value!r} is no integer")
    low, high = INTEGER_RANGES[kind]
    if not low <= int(value) <= high:
        raise ValueError(f"{value} is out of the range of {kind}, {low} to {high}")
    return int(value)


def coerce(field: Field, value: object) -> Scalar:
    """Check and convert one value for a field that is no message.

    Raises:
        TypeError, ValueError: the value has a wrong type or is out of range; the text says what is allowed.
    """
    if field.enum is not None:
        return _coerce_enum(field.enum, value)
    if field.type in INTEGER_RANGES:
        return _coerce_integer(field.type, value)
    if field.type in ARRAY_DTYPES:
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{value!r} is no number")
        return as_float32(float(value)) if field.type == "float" else float(value)
    if field.type == "bool":
        if not isinstance(value, (int, np.integer, np.bool_)):  # protobuf takes any integer for true
            raise TypeError(f"{value!r} is neither true nor false")
        return bool(value)
    return _coerce_string(field.type, value)


def _coerce_string(kind: str, value: object) -> Scalar:
    if kind == "bytes":
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        raise TypeError(f"{value!r} is no bytes")
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is no string")


# Reading the table. It is the project's own text, so a mistake in it is a KeyError or ValueError at import.

_FIELD = re.compile(r"(\d+) (\w+) ([\w.]+)(\*p?|!)?(?: = (\S+))?")


def _paragraphs() -> list[tuple[str, str, list[str]]]:
    """Split the table into (message | enum, name, entries)."""
    joined = re.sub(r",\s*\n\s+", ", ", TABLE)
    lines = [line for line in joined.splitlines() if line]
    heads = [line.split(": ", 1) for line in lines]
    return [(*_two_words(head), body.split(", ")) for head, body in heads]


def _two_words(head: str) -> tuple[str, str]:
    kind, name = head.split(" ")
    return kind, name


def _read_enum(name: str, entries: list[str]) -> EnumType:
    pairs = [entry.split(" ") for entry in entries]
    return EnumType(name, {value: int(number) for number, value in pairs}, {int(n): v for n, v in pairs})


def _default(kind: str, enum: EnumType | None, text: str | None) -> Scalar:
    if enum is not None:
        return enum.values[text] if text else next(iter(enum.values.values()))
    if text is None:
        return ZEROS.get(kind, 0)
    if kind == "float":
        return as_float32(float(text))
    if kind == "bool":
        return text == "true"
    return text if kind == "string" else int(text)


def _read_field(entry: str, messages: set[str], enums: dict[str, EnumType]) -> Field:
    match = _FIELD.fullmatch(entry)
    if match is None:
        raise ValueError(f"not a field: {entry!r}")
    number, name, kind, mark, default = match.groups()
    enum = enums.get(kind)
    scalar = "message" if kind in messages else "enum" if enum else kind
    if scalar not in {"message", "enum", *INTEGER_RANGES, *ZEROS}:
        raise ValueError(f"no type {kind!r} in {entry!r}")
    return Field(
        number=int(number),
        name=name,
        type=scalar,
        repeated=mark in ("*", "*p"),
        packed=mark == "*p",
        required=mark == "!",
        default=_default(kind, enum, default),
        message=kind if scalar == "message" else "",
        enum=enum,
    )


def _read() -> tuple[dict[str, MessageType], dict[str, EnumType]]:
    paragraphs = _paragraphs()
    enums = {name: _read_enum(name, body) for kind, name, body in paragraphs if kind == "enum"}
    names = {name for kind, name, _ in paragraphs if kind == "message"}
    messages = {}
    for kind, name, body in paragraphs:
        if kind == "message":
            fields = sorted((_read_field(entry, names, enums) for entry in body), key=lambda field: field.number)
            messages[name] = MessageType(
                name, tuple(fields), {f.name: f for f in fields}, {f.number: f for f in fields}
            )
    return messages, enums


MESSAGES, ENUMS = _read()
