"""Bytes that no honest peer sends, by what is wrong with them. New finds belong here."""

from __future__ import annotations

import msgspec

from avec.protocol import messages
from avec.protocol.codec import (
    CALL_PAYLOAD_LIMIT,
    CHUNK_NBYTES,
    ENCODED_LIMIT,
    HEADER,
    META_LIMIT,
    OFFER_PAYLOAD_LIMIT,
    PART_LIMIT,
    STRANGER_LIMIT,
)
from avec.tensor import RANK_LIMIT
from protocol.frames import header, raw_frame

Chunk, Goodbye, Hello, Load, Offer, Ping, Release, Result, Run = (
    messages.Chunk, messages.Goodbye, messages.Hello, messages.Load, messages.Offer, messages.Ping,
    messages.Release, messages.Result, messages.Run,
)  # fmt: skip

_NESTED = 3000  # levels: more than Python's and msgspec's own bounds
_DEEP_LIST = b"\x91" * _NESTED + b"\xc0"
_DEEP_MAP = b"\x81\xa1a" * _NESTED + b"\xc0"


def _run(parts: object, payload: bytes = b"") -> bytes:
    return raw_frame(Run, [parts, 1, {}, b""], payload)


# What a connection refuses whenever it comes: the bytes, and what the refusal says.
FRAMES: dict[str, tuple[bytes, str]] = {
    "an HTTP request": (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "no AVEC frame"),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 32, "no AVEC frame"),
    "zeros": (b"\0" * HEADER.size, "no AVEC frame"),
    "a frame one byte late": (b"\0" + raw_frame(Goodbye, []), "no AVEC frame"),
    "a type after the last": (raw_frame(len(messages.TYPES), []), "unknown here"),
    "type 255": (raw_frame(255, []), "unknown here"),
    "a meta part above its bound": (header(Ping, META_LIMIT + 1, 0), f"the bound is {META_LIMIT}"),
    "a meta part of 4 GiB": (header(Ping, 2**32 - 1, 0), f"the bound is {META_LIMIT}"),
    "a payload of 16 EiB": (header(Run, 10, 2**64 - 1), f"the bound is {CALL_PAYLOAD_LIMIT}"),
    "a call's payload above its bound": (header(Run, 10, CALL_PAYLOAD_LIMIT + 1), f"the bound is {CALL_PAYLOAD_LIMIT}"),
    "a load's payload above its bound": (header(Load, 9, CALL_PAYLOAD_LIMIT + 1), f"the bound is {CALL_PAYLOAD_LIMIT}"),
    "a chunk above its bound": (header(Chunk, 10, CHUNK_NBYTES + 1), f"the bound is {CHUNK_NBYTES}"),
    "an offer above its bound": (header(Offer, 10, OFFER_PAYLOAD_LIMIT + 1), f"the bound is {OFFER_PAYLOAD_LIMIT}"),
    "a payload where there is none": (header(Goodbye, 1, 1), "the bound is 0"),
    "fewer tensors than payload": (_run([], b"12345678"), "need 0 bytes, in a payload of 8"),
    "more tensors than payload": (_run([["uint8", [9]]], b"12345678"), "need 9 bytes, in a payload of 8"),
    "a dimension below zero": (_run([["uint8", [-8]], ["uint8", [16]]], b"12345678"), "negative dimension"),
    "dimensions whose product wraps to zero": (_run([["uint8", [2**32, 2**32]]]), "which no address space holds"),
    "an empty tensor with absurd strides": (_run([["float32", [0, 2**62, 4]]]), "which no address space holds"),
    "a dimension beyond 64 bits": (_run([["uint8", [2**64 - 1]]]), "which no address space holds"),
    "a rank above the bound": (_run([["uint8", [1] * (RANK_LIMIT + 1)]], b"1"), f"the limit is {RANK_LIMIT}"),
    "a codec that there is not": (_run([["uint8", [99], "rot13", 8]], b"12345678"), "cannot be decoded"),
    "an encoded tensor of no bytes": (_run([["uint8", [8], "mask", 0]]), "more than 0 are expected"),
    "an encoded tensor that grew": (_run([["uint8", [7], "mask", 8]], b"12345678"), "no more than before"),
    "an encoded tensor above its bound": (
        _run([["uint8", [ENCODED_LIMIT + 1], "mask", 8]], b"12345678"),
        f"of {ENCODED_LIMIT} bytes at most",
    ),
    "an encoded tensor below zero": (_run([["uint8", [99], "mask", -8], ["uint8", [16]]], b"12345678"), "expected"),
    "encoded tensors that are more than fit together": (
        _run([["uint8", [ENCODED_LIMIT], "mask", 1]] * 17, bytes(17)),
        f"the bound is {CALL_PAYLOAD_LIMIT}",
    ),
    "an encoded tensor of another length": (
        _run([["uint8", [99], "mask", 9]], b"12345678"),
        "need 9 bytes, in a payload of 8",
    ),
    "too many tensors": (_run([["bool", [0]]] * (PART_LIMIT + 1)), f"the bound is {PART_LIMIT}"),
    "a dtype of objects": (_run([["object", [1]]], b"12345678"), "cannot be decoded"),
    "a dtype by number": (_run([[7, [1]]], b"12345678"), "cannot be decoded"),
    "a shape of floats": (_run([["uint8", [1.0]]], b"1"), "cannot be decoded"),
    "meta that is no msgpack": (raw_frame(Ping, b"\xc1"), "cannot be decoded"),
    "meta that breaks off": (raw_frame(Ping, msgspec.msgpack.encode([1])[:-1] + b"\xcf"), "cannot be decoded"),
    "meta with bytes after it": (raw_frame(Ping, msgspec.msgpack.encode([1]) + b"\x01"), "cannot be decoded"),
    "no meta at all": (raw_frame(Ping), "cannot be decoded"),
    "a field too many": (raw_frame(Ping, [1, 2]), "cannot be decoded"),
    "a field too few": (raw_frame(Ping, []), "cannot be decoded"),
    "a field of another type": (raw_frame(Ping, ["now"]), "cannot be decoded"),
    "a map in a message's place": (raw_frame(Ping, {"sent_ns": 1}), "cannot be decoded"),
    "text that is no UTF-8": (raw_frame(Load, b"\x95\x90\x01\xa2\xff\xfe\x80\xc4\x00"), "cannot be decoded"),
    "lists within lists": (raw_frame(Release, _DEEP_LIST), "cannot be decoded"),
    "maps within maps": (raw_frame(Load, b"\x95\x90\x01\xa0" + _DEEP_MAP + b"\xc4\x00"), "cannot be decoded"),
    "a list that promises 4 billion items": (raw_frame(Release, b"\x91\xdd\xff\xff\xff\xff"), "cannot be decoded"),
    "a binary that promises 4 GiB": (raw_frame(Run, b"\x94\x90\x01\x80\xc6\xff\xff\xff\xff"), "cannot be decoded"),
}

# What a destination refuses of a peer that has not said hello.
STRANGERS: dict[str, tuple[bytes, str]] = {
    "a call before the hello": (raw_frame(Run, [[], 1, {}, b""]), "before the hello"),
    "a goodbye before the hello": (raw_frame(Goodbye, []), "before the hello"),
    "a result from a host": (raw_frame(Result, [[]]), "does not take Result"),
    "a hello above its bound": (header(Hello, STRANGER_LIMIT + 1, 0), f"the bound is {STRANGER_LIMIT}"),
    "a large call before the hello": (header(Run, 100, STRANGER_LIMIT), f"the bound is {STRANGER_LIMIT}"),
    "a hello with a purpose of its own": (raw_frame(Hello, [1, 1, "mining", "x"]), "cannot be decoded"),
    "a hello nested deeply in what later versions may append": (
        raw_frame(Hello, b"\x97\x01\x01\xa7session\xa1x\xa0\xa6strict" + b"\x91" * 3000 + b"\xc0"),
        "cannot be decoded",
    ),
}
