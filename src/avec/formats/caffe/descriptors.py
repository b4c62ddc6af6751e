"""What protobuf's descriptors say of a message, for AVEC's own messages: programs look at them to find fields by name.

Only what can be read off the schema is here. Numbers of types and labels are protobuf's.
Source: google.protobuf.descriptor; https://protobuf.dev/reference/protobuf/google.protobuf (descriptor.proto)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import ClassVar

from avec.formats.caffe.schema import ENUMS, MESSAGES, ZEROS, EnumType, Field, MessageType, Scalar

PACKAGE = "caffe"
FILE = "caffe.proto"

LABELS = MappingProxyType({"optional": 1, "required": 2, "repeated": 3})
TYPES = MappingProxyType(
    {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "message": 11, "bytes": 12,
     "uint32": 13, "enum": 14}
)  # fmt: skip
_CPP_TYPES = {
    "int32": 1, "int64": 2, "uint32": 3, "uint64": 4, "double": 5, "float": 6, "bool": 7, "enum": 8, "string": 9,
    "bytes": 9, "message": 10,
}  # fmt: skip


def implied_default(field: Field) -> Scalar:
    """The default of a field for which the schema names none."""
    return next(iter(field.enum.values.values())) if field.enum is not None else ZEROS.get(field.type, 0)


@dataclass(frozen=True)
class EnumValueDescriptor:
    """One value of an enum."""

    name: str
    number: int
    index: int


@dataclass(frozen=True)
class EnumDescriptor:
    """An enum; `enum_descriptor` gives the one for a name."""

    _enum: EnumType

    @property
    def name(self) -> str:
        return self._enum.name.rpartition(".")[2]

    @property
    def full_name(self) -> str:
        return f"{PACKAGE}.{self._enum.name}"

    @cached_property
    def values(self) -> list[EnumValueDescriptor]:
        return [EnumValueDescriptor(name, number, i) for i, (name, number) in enumerate(self._enum.values.items())]

    @cached_property
    def values_by_name(self) -> Mapping[str, EnumValueDescriptor]:
        return {value.name: value for value in self.values}

    @cached_property
    def values_by_number(self) -> Mapping[int, EnumValueDescriptor]:
        return {value.number: value for value in self.values}

    def __hash__(self) -> int:
        return hash(self.full_name)


@dataclass(frozen=True)
class FieldDescriptor:
    """One field of a message; Descriptor.fields_by_name has it."""

    _field: Field
    containing_type: Descriptor
    index: int

    LABEL_OPTIONAL: ClassVar[int] = LABELS["optional"]
    LABEL_REQUIRED: ClassVar[int] = LABELS["required"]
    LABEL_REPEATED: ClassVar[int] = LABELS["repeated"]
    TYPE_DOUBLE: ClassVar[int] = TYPES["double"]
    TYPE_FLOAT: ClassVar[int] = TYPES["float"]
    TYPE_INT64: ClassVar[int] = TYPES["int64"]
    TYPE_UINT64: ClassVar[int] = TYPES["uint64"]
    TYPE_INT32: ClassVar[int] = TYPES["int32"]
    TYPE_BOOL: ClassVar[int] = TYPES["bool"]
    TYPE_STRING: ClassVar[int] = TYPES["string"]
    TYPE_MESSAGE: ClassVar[int] = TYPES["message"]
    TYPE_BYTES: ClassVar[int] = TYPES["bytes"]
    TYPE_UINT32: ClassVar[int] = TYPES["uint32"]
    TYPE_ENUM: ClassVar[int] = TYPES["enum"]
    CPPTYPE_INT32: ClassVar[int] = _CPP_TYPES["int32"]
    CPPTYPE_INT64: ClassVar[int] = _CPP_TYPES["int64"]
    CPPTYPE_UINT32: ClassVar[int] = _CPP_TYPES["uint32"]
    CPPTYPE_UINT64: ClassVar[int] = _CPP_TYPES["uint64"]
    CPPTYPE_DOUBLE: ClassVar[int] = _CPP_TYPES["double"]
    CPPTYPE_FLOAT: ClassVar[int] = _CPP_TYPES["float"]
    CPPTYPE_BOOL: ClassVar[int] = _CPP_TYPES["bool"]
    CPPTYPE_ENUM: ClassVar[int] = _CPP_TYPES["enum"]
    CPPTYPE_STRING: ClassVar[int] = _CPP_TYPES["string"]
    CPPTYPE_MESSAGE: ClassVar[int] = _CPP_TYPES["message"]

    @property
    def name(self) -> str:
        return self._field.name

    @property
    def full_name(self) -> str:
        return f"{self.containing_type.full_name}.{self.name}"

    @property
    def number(self) -> int:
        return self._field.number

    @property
    def type(self) -> int:
        return TYPES[self._field.type]

    @property
    def cpp_type(self) -> int:
        return _CPP_TYPES[self._field.type]

    @property
    def label(self) -> int:
        if self.is_repeated:
            return self.LABEL_REPEATED
        return self.LABEL_REQUIRED if self.is_required else self.LABEL_OPTIONAL

    @property
    def is_repeated(self) -> bool:
        return self._field.repeated

    @property
    def is_required(self) -> bool:
        return self._field.required

    @property
    def is_packed(self) -> bool:
        return self._field.packed

    @property
    def has_default_value(self) -> bool:
        """Whether the schema names a default that its type alone would not have."""
        return self._is_single_scalar and self._field.default != implied_default(self._field)

    @property
    def default_value(self) -> Scalar | list[Scalar] | None:
        if self.is_repeated:
            return []
        return self._field.default if self._is_single_scalar else None

    @property
    def _is_single_scalar(self) -> bool:
        return not self.is_repeated and self._field.type != "message"

    @property
    def message_type(self) -> Descriptor | None:
        return descriptor(self._field.message) if self._field.type == "message" else None

    @property
    def enum_type(self) -> EnumDescriptor | None:
        return None if self._field.enum is None else enum_descriptor(self._field.enum.name)

    def __hash__(self) -> int:
        return hash(self.full_name)

    def __repr__(self) -> str:
        return f"<FieldDescriptor {self.full_name}>"


@dataclass(frozen=True)
class Descriptor:
    """A message; `descriptor` gives the one for a name, a message class has it as DESCRIPTOR."""

    _message: MessageType

    @property
    def name(self) -> str:
        return self._message.name

    @property
    def full_name(self) -> str:
        return f"{PACKAGE}.{self.name}"

    @cached_property
    def fields(self) -> list[FieldDescriptor]:
        return [FieldDescriptor(field, self, index) for index, field in enumerate(self._message.fields)]

    @cached_property
    def fields_by_name(self) -> Mapping[str, FieldDescriptor]:
        return {field.name: field for field in self.fields}

    @cached_property
    def fields_by_number(self) -> Mapping[int, FieldDescriptor]:
        return {field.number: field for field in self.fields}

    @cached_property
    def enum_types(self) -> list[EnumDescriptor]:
        return [enum_descriptor(name) for name in ENUMS if name.startswith(f"{self.name}.")]

    @cached_property
    def enum_types_by_name(self) -> Mapping[str, EnumDescriptor]:
        return {enum.name: enum for enum in self.enum_types}

    @cached_property
    def enum_values_by_name(self) -> Mapping[str, EnumValueDescriptor]:
        return {value.name: value for enum in self.enum_types for value in enum.values}

    def __hash__(self) -> int:
        return hash(self.full_name)

    def __repr__(self) -> str:
        return f"<Descriptor {self.full_name}>"


@dataclass(frozen=True)
class FileDescriptor:
    """All messages, and the enums that belong to none."""

    name: str
    package: str
    message_types_by_name: Mapping[str, Descriptor]
    enum_types_by_name: Mapping[str, EnumDescriptor]


class EnumTypeWrapper:
    """An enum as generated code offers it. Source: google.protobuf.internal.enum_type_wrapper."""

    def __init__(self, enum: EnumDescriptor) -> None:
        self.DESCRIPTOR = enum

    def Name(self, number: int) -> str:
        """The name of a value."""
        if number not in self.DESCRIPTOR.values_by_number:
            raise ValueError(f"Enum {self.DESCRIPTOR.name} has no name defined for value {number!r}")
        return self.DESCRIPTOR.values_by_number[number].name

    def Value(self, name: str) -> int:
        """The value of a name."""
        if name not in self.DESCRIPTOR.values_by_name:
            raise ValueError(f"Enum {self.DESCRIPTOR.name} has no value defined for name {name!r}")
        return self.DESCRIPTOR.values_by_name[name].number

    def keys(self) -> list[str]:
        return [value.name for value in self.DESCRIPTOR.values]

    def values(self) -> list[int]:
        return [value.number for value in self.DESCRIPTOR.values]

    def items(self) -> list[tuple[str, int]]:
        return [(value.name, value.number) for value in self.DESCRIPTOR.values]

    def __getattr__(self, name: str) -> int:
        if name not in self.DESCRIPTOR.values_by_name:
            raise AttributeError(f"enum {self.DESCRIPTOR.name} has no value {name!r}")
        return self.DESCRIPTOR.values_by_name[name].number

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


@cache
def descriptor(message: str) -> Descriptor:
    """The descriptor of a message by its name."""
    return Descriptor(MESSAGES[message])


@cache
def enum_descriptor(enum: str) -> EnumDescriptor:
    """The descriptor of an enum by its name, "PoolingParameter.PoolMethod" for instance."""
    return EnumDescriptor(ENUMS[enum])


@cache
def file_descriptor() -> FileDescriptor:
    """The descriptor of the whole schema."""
    free = [name for name in ENUMS if "." not in name]
    return FileDescriptor(
        FILE, PACKAGE, {name: descriptor(name) for name in MESSAGES}, {name: enum_descriptor(name) for name in free}
    )
