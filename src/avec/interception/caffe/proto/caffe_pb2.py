"""caffe.proto.caffe_pb2: Caffe's messages and enums by name, without protobuf. See avec.formats.caffe."""

from __future__ import annotations

from typing import Any

from avec.formats.caffe.message import message_class
from avec.formats.caffe.schema import ENUMS, MESSAGES


def __getattr__(name: str) -> Any:
    """Give a message's class, or a value of an enum that belongs to no message (TRAIN, TEST). Source: PEP 562."""
    if name in MESSAGES:
        return message_class(name)
    for enum in ENUMS.values():
        if "." not in enum.name and name in enum.values:
            return enum.values[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: Caffe has no such message")


def __dir__() -> list[str]:
    free = [value for enum in ENUMS.values() if "." not in enum.name for value in enum.values]
    return sorted([*globals(), *(name for name in MESSAGES if "." not in name), *free])
