"""Frames: how one message and its tensors become bytes and back. Sans-I/O.

A frame is a fixed 24-byte header, the message as msgpack (its type is in the header), then the parts' raw bytes with
nothing between them:

    "AV" | version u8 | type u8 | meta length u32 | payload length u64 | number u64        (little-endian)

`encode` gives buffers for a gathering write; `FrameReader` says where the next bytes belong, so that tensors are
received in place. Every length is checked against a bound before it is believed. A payload that finds no memory is
received all the same, and thrown away, so that the connection goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from avec.errors import AcceleratorOutOfMemory, ProtocolError
from avec.protocol import messages
from avec.protocol.messages import Message, Parts
from avec.tensor import Array, Encoded, PartSpec, TensorSpec, bytes_view, spec_of

HEADER = struct.Struct("<2sBBIQQ")
MAGIC = b"AV"

META_LIMIT = 64 * 1024  # bytes of msgpack in one message: decoding stays under a millisecond
STRANGER_LIMIT = 4096  # bytes of a hello
PART_LIMIT = 4096  # tensors in one message
CALL_PAYLOAD_LIMIT = 4 << 30  # bytes of tensors in one call or result: an accelerator's memory is no larger piece
ENCODED_LIMIT = 256 << 20  # bytes of a tensor that a codec is asked to write or read; larger ones are sent raw
CHUNK_NBYTES = 8 << 20  # bytes of one chunk of a model: large enough for sha256, small enough to resume by
OFFER_PAYLOAD_LIMIT = 32 * 65536  # chunk digests: models up to 512 GiB

_NUMBER = {message: number for number, message in enumerate(messages.TYPES)}
_PAYLOAD_LIMITS = {
    messages.Offer: OFFER_PAYLOAD_LIMIT,
    messages.Chunk: CHUNK_NBYTES,
    messages.Load: CALL_PAYLOAD_LIMIT,
    messages.Run: CALL_PAYLOAD_LIMIT,
    messages.Result: CALL_PAYLOAD_LIMIT,
}
ENCODABLE: tuple[type[Message], ...] = (messages.Load, messages.Run, messages.Result)  # may have parts of codecs
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS = [msgspec.msgpack.Decoder(message) for message in messages.TYPES]

Buffer = bytes | memoryview
Allocate = Callable[[int, Message, int, TensorSpec], Array]
Part = Array | Encoded  # what a frame is made from


class Frame(msgspec.Struct, frozen=True):
    """One message with its number (the call that it belongs to, else 0), its tensors and its size on the wire.

    Of a part that a codec has written, the array holds the bytes; `message.parts` says which codec.
    With `refused` the payload was thrown away: it says why, and the arrays are memory with nothing in it.
    """

    number: int
    message: Message
    arrays: tuple[Array, ...] = ()
    nbytes: int = 0
    refused: AcceleratorOutOfMemory | None = None


def encode(message: Message, number: int = 0, arrays: Sequence[Part] = ()) -> list[Buffer]:
    """Encode one frame as buffers: header and message joined, then each tensor's own memory, uncopied.

    Args:
        message: its `parts` are filled in from `arrays`.
        arrays: C-contiguous tensors, or what a codec made of them; they must not change until the buffers were sent.

    Raises:
        ValueError: a tensor is not contiguous, has a dtype without a name on the wire or too many dimensions.
        ProtocolError: the message is larger than the peer would accept.
    """
    if arrays:
        message = msgspec.structs.replace(message, parts=tuple(map(_spec_of, arrays)))
        _check_count(type(message), len(arrays))
    meta = _ENCODER.encode(message)
    payload = [bytes_view(each.body if isinstance(each, Encoded) else each) for each in arrays if each.nbytes]
    nbytes = sum(view.nbytes for view in payload)
    _check_lengths(type(message), len(meta), nbytes)
    header = HEADER.pack(MAGIC, messages.VERSION, _NUMBER[type(message)], len(meta), nbytes, number)
    return [header + meta, *payload]


class FrameReader:
    """Puts frames together from bytes as they come.

    The caller fills `buffer()` from the network and says so with `advance(n)`. `allocate` gives the memory that a
    tensor is received into; it is asked once its message is known and checked, and may raise AcceleratorOutOfMemory.
    """

    def __init__(self, allocate: Allocate, limit: int = STRANGER_LIMIT) -> None:
        """Accept frames of at most `limit` bytes until `trust` is called."""
        self._allocate = allocate
        self._limit = limit
        self._header = memoryview(bytearray(HEADER.size))
        self._meta = memoryview(bytearray(STRANGER_LIMIT))  # until a larger message comes: strangers are many
        self._target = self._header
        self._reset()

    def trust(self) -> None:
        """Accept frames of full size from now on: the hello is done."""
        self._limit = 0

    def buffer(self) -> memoryview:
        """The memory where the next bytes belong; never empty."""
        return self._target

    def advance(self, nbytes: int) -> Frame | None:
        """Take note that `nbytes` were written to `buffer()`; give the frame that they completed, if any.

        Raises:
            ProtocolError: the bytes are no frame of this protocol, or break a bound.
        """
        self._target = self._target[nbytes:]
        while not self._target.nbytes:
            if (frame := self._step()) is not None:
                return frame
        return None

    @property
    def idle(self) -> bool:
        """Whether the peer is between frames, so that an end of stream loses nothing."""
        return self._message_type is None and self._target.nbytes == HEADER.size

    def unfinished(self) -> tuple[Array, ...]:
        """The tensors of the frame that is being put together."""
        return tuple(self._arrays)

    def _reset(self) -> None:
        self._target = self._header
        self._message_type: type[Message] | None = None
        self._message: Message | None = None
        self._arrays: list[Array] = []
        self._waiting: list[memoryview] = []
        self._refused: AcceleratorOutOfMemory | None = None
        self._waste_nbytes = 0  # of the payload, still to be thrown away

    def _step(self) -> Frame | None:
        if self._message_type is None:
            self._read_header()
        elif self._message is None:
            self._read_meta(self._message_type)
        if self._message is None:
            return None
        if self._waiting:
            self._target = self._waiting.pop(0)
            return None
        if self._waste_nbytes:
            self._target = self._meta[: self._waste_nbytes]  # the message has been decoded from it
            self._waste_nbytes -= self._target.nbytes
            return None
        frame = Frame(
            self._number,
            self._message,
            tuple(self._arrays),
            HEADER.size + self._meta_nbytes + self._payload_nbytes,
            self._refused,
        )
        self._reset()
        return frame

    def _read_header(self) -> None:
        magic, version, kind, meta_nbytes, payload_nbytes, number = HEADER.unpack(self._header)
        if magic != MAGIC:
            raise ProtocolError(f"the peer sent {bytes(self._header[:8])!r}, which is no AVEC frame")
        # The version byte is informative: Hello and Welcome settle the version, and Hello's layout never changes.
        if kind >= len(messages.TYPES):
            raise ProtocolError(f"message type {kind} (protocol version {version}) is unknown here")
        message_type = messages.TYPES[kind]
        if self._limit and meta_nbytes + payload_nbytes > self._limit:
            raise ProtocolError(
                f"a first {message_type.__name__} of {meta_nbytes + payload_nbytes} bytes; the bound is {self._limit}"
            )
        _check_lengths(message_type, meta_nbytes, payload_nbytes)
        self._message_type = message_type
        self._number, self._meta_nbytes, self._payload_nbytes = number, meta_nbytes, payload_nbytes
        if meta_nbytes > len(self._meta):
            self._grow_meta()
        self._target = self._meta[:meta_nbytes]

    def _read_meta(self, message_type: type[Message]) -> None:
        decoder = _DECODERS[_NUMBER[message_type]]
        try:
            message: Message = decoder.decode(self._meta[: self._meta_nbytes])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ProtocolError(f"a {message_type.__name__} message that cannot be decoded: {exc}") from exc
        parts = message.parts if isinstance(message, Parts) else ()
        self._check_parts(message_type, parts)
        self._message = message
        try:
            self._make_room(message, parts)
        except AcceleratorOutOfMemory as exc:
            self._refused = exc
            self._waiting.clear()
            self._waste_nbytes = self._payload_nbytes
            self._grow_meta()  # fewer pieces

    def _make_room(self, message: Message, parts: tuple[PartSpec, ...]) -> None:
        for index, spec in enumerate(parts):
            if spec.codec != "raw":
                spec = PartSpec("uint8", (spec.encoded_nbytes,))
            array = self._allocate(self._number, message, index, spec)
            self._arrays.append(array)
            if array.nbytes:
                self._waiting.append(bytes_view(array))

    def _grow_meta(self) -> None:
        if len(self._meta) < META_LIMIT:
            self._meta = memoryview(bytearray(META_LIMIT))

    def _check_parts(self, message_type: type[Message], parts: tuple[PartSpec, ...]) -> None:
        _check_count(message_type, len(parts))
        try:
            for spec in parts:
                spec.check()
                if spec.codec != "raw":
                    _check_encoded(message_type, spec)
        except ValueError as exc:
            raise ProtocolError(f"a {message_type.__name__} with {exc}") from exc
        tensors_nbytes = sum(spec.nbytes for spec in parts)  # what codecs have written may be more than the payload
        if tensors_nbytes > CALL_PAYLOAD_LIMIT:
            raise ProtocolError(
                f"a {message_type.__name__} with {tensors_nbytes} bytes of tensors; the bound is {CALL_PAYLOAD_LIMIT}"
            )
        declared = sum(spec.wire_nbytes for spec in parts)
        if declared != self._payload_nbytes:
            raise ProtocolError(
                f"a {message_type.__name__} whose tensors need {declared} bytes, in a payload of {self._payload_nbytes}"
            )


def allocate_array(number: int, message: Message, index: int, spec: TensorSpec) -> Array:
    """Give new memory for a tensor: the simplest `Allocate`."""
    return np.empty(spec.shape, spec.dtype)


def _spec_of(part: Part) -> TensorSpec:
    return part.spec if isinstance(part, Encoded) else spec_of(part)


def _check_encoded(message_type: type[Message], spec: PartSpec) -> None:
    """Raise ValueError unless a codec may have written this: a tensor of a call, made smaller, and not too large."""
    if message_type not in ENCODABLE:
        raise ValueError(f"a part that {spec.codec} has written, which belongs in {_names(ENCODABLE)} only")
    if not 0 < spec.encoded_nbytes <= spec.nbytes <= ENCODED_LIMIT:
        raise ValueError(
            f"a tensor of {spec.nbytes} bytes that {spec.codec} made {spec.encoded_nbytes} of; "
            f"more than 0 are expected, no more than before, and of {ENCODED_LIMIT} bytes at most"
        )


def _names(kinds: Sequence[type[Message]]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _check_count(message_type: type[Message], count: int) -> None:
    if count > PART_LIMIT:
        raise ProtocolError(f"a {message_type.__name__} with {count} tensors; the bound is {PART_LIMIT}")


def _check_lengths(message_type: type[Message], meta_nbytes: int, payload_nbytes: int) -> None:
    if meta_nbytes > META_LIMIT:
        raise ProtocolError(f"a {message_type.__name__} of {meta_nbytes} bytes; the bound is {META_LIMIT}")
    limit = _PAYLOAD_LIMITS.get(message_type, 0)
    if payload_nbytes > limit:
        raise ProtocolError(f"a {message_type.__name__} with {payload_nbytes} bytes of tensors; the bound is {limit}")
