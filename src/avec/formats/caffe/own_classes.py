"""What protoc's caffe_pb2.py defines, made of AVEC's own messages: for hosts that have no protobuf."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

from avec.formats.caffe.descriptors import EnumTypeWrapper, enum_descriptor, file_descriptor
from avec.formats.caffe.message import message_class


@cache
def names() -> MappingProxyType[str, Any]:
    """All that protoc's caffe_pb2.py defines, by name."""
    file = file_descriptor()
    defined: dict[str, Any] = {"DESCRIPTOR": file}
    for name, enum in file.enum_types_by_name.items():
        defined |= {name: EnumTypeWrapper(enum_descriptor(name)), f"_{name.upper()}": enum}
        defined |= {value.name: value.number for value in enum.values}
    for name, message in file.message_types_by_name.items():
        defined |= {name: message_class(name), f"_{name.upper()}": message}
        defined |= {f"_{name.upper()}_{enum.name.upper()}": enum for enum in message.enum_types}
    return MappingProxyType(defined)
