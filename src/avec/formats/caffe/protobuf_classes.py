"""Caffe's messages as protobuf's own classes, made from the schema where protobuf is installed.

Programs hand them to google.protobuf.text_format and the like, which take no others. They are what protoc's
caffe_pb2.py holds; AVEC itself works with `message`, which needs no protobuf.
Source: https://protobuf.dev/reference/protobuf/google.protobuf (descriptor.proto)
"""

from __future__ import annotations

import importlib
from functools import cache
from types import MappingProxyType
from typing import Any

from avec.formats.caffe.descriptors import FILE, LABELS, PACKAGE, TYPES, implied_default
from avec.formats.caffe.schema import ENUMS, MESSAGES, EnumType, Field, MessageType

MODULE = "caffe.proto.caffe_pb2"  # what pickles and printed classes name


@cache
def names() -> MappingProxyType[str, Any] | None:
    """All that protoc's caffe_pb2.py defines, by name; None where protobuf is not installed."""
    try:
        importlib.import_module("google.protobuf")
    except ImportError:
        return None
    return MappingProxyType(_define(_load("descriptor_pool").DescriptorPool()))


def _load(module: str) -> Any:
    return importlib.import_module(f"google.protobuf.{module}")


def _define(pool: Any) -> dict[str, Any]:
    """Fill a pool of our own: an application may bring another caffe.proto into protobuf's default pool."""
    pool.AddSerializedFile(_file().SerializeToString())
    file = pool.FindFileByName(FILE)
    defined: dict[str, Any] = {"DESCRIPTOR": file}
    wrapper = _load("internal.enum_type_wrapper").EnumTypeWrapper
    for name, enum in file.enum_types_by_name.items():
        defined |= {name: wrapper(enum), f"_{name.upper()}": enum}
        defined |= {value.name: value.number for value in enum.values}
    factory = _load("message_factory")
    make = getattr(factory, "GetMessageClass", None) or factory.MessageFactory(pool).GetPrototype  # before 4.22
    for name, message in file.message_types_by_name.items():
        defined |= {name: make(message), f"_{name.upper()}": message}
        defined[name].__module__ = MODULE
        defined |= {f"_{name.upper()}_{enum.name.upper()}": enum for enum in message.enum_types}
    return defined


def _file() -> Any:
    file = _load("descriptor_pb2").FileDescriptorProto(name=FILE, package=PACKAGE)
    for enum in ENUMS.values():
        if "." not in enum.name:
            _add_enum(file, enum)
    for message in MESSAGES.values():
        _add_message(file, message)
    return file


def _add_enum(owner: Any, enum: EnumType) -> None:
    added = owner.enum_type.add(name=enum.name.rpartition(".")[2])
    for name, number in enum.values.items():
        added.value.add(name=name, number=number)


def _add_message(file: Any, message: MessageType) -> None:
    added = file.message_type.add(name=message.name)
    for field in message.fields:
        _add_field(added, field)
    for enum in ENUMS.values():
        if enum.name.startswith(f"{message.name}."):
            _add_enum(added, enum)


def _add_field(message: Any, field: Field) -> None:
    label = "repeated" if field.repeated else "required" if field.required else "optional"
    added = message.field.add(name=field.name, number=field.number, label=LABELS[label], type=TYPES[field.type])
    if field.type == "message" or field.enum is not None:
        added.type_name = f".{PACKAGE}.{field.message if field.enum is None else field.enum.name}"
    if field.packed:
        added.options.packed = True
    if not field.repeated and field.type != "message" and field.default != implied_default(field):
        added.default_value = _default_text(field)


def _default_text(field: Field) -> str:
    if field.enum is not None:
        return field.enum.names[int(field.default)]
    return str(field.default).lower() if field.type == "bool" else str(field.default)
