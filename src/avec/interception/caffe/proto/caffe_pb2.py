"""caffe.proto.caffe_pb2: Caffe's messages and enums by name.

Where protobuf is installed they are its own classes, which google.protobuf.text_format takes; else AVEC's, which have
the same methods. Either is made when the first name is asked for. Source: PEP 562.
"""

from __future__ import annotations

from typing import Any

from avec.formats.caffe import own_classes, protobuf_classes
from avec.formats.caffe.schema import ENUMS, MESSAGES

_FREE_ENUMS = {name: enum.values for name, enum in ENUMS.items() if "." not in name}

__all__ = sorted([*MESSAGES, *_FREE_ENUMS, *(value for values in _FREE_ENUMS.values() for value in values)])


def __getattr__(name: str) -> Any:
    names = protobuf_classes.names() or own_classes.names()
    if name not in names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: Caffe has no such message")
    return names[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
