"""Tensor codecs: other ways to write a tensor's bytes, bit-exact but for two that are used by name alone.

| codec | what it writes | for |
|---|---|---|
| palette | one byte an element, and the up to 256 values that they stand for, of each channel | images as floats |
| palette-zstd | the palette's bytes as differences to the row above, compressed | the same, on slower links |
| mask | which elements are not 0, and those | results of ReLU |
| shuffle-zstd | first bytes of all elements, then second bytes, … compressed | anything, on slow links |
| fp16 | float32 as float16: half of the bytes, 11 bits of precision | results, where asked for |
| jpeg | what a palette's bytes are as a JPEG image | images as floats, where asked for |

Pure: no I/O, no clock. An encoder gives nothing where its codec does not apply, or makes nothing smaller; before it
gives something it has seen, or knows by construction, that decoding gives the very bits back. Not here: when to use
which (`chooser`), and the parts of a frame (`protocol`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avec.communication.compression import half, jpeg, mask, palette, shuffle
from avec.communication.compression.palette import Learned
from avec.errors import ProtocolError
from avec.protocol.codec import ENCODED_LIMIT
from avec.tensor import Array, Codec, Encoded, PartSpec, TensorSpec, spec_of

__all__ = [
    "FUNCTIONS",
    "LEAST_NBYTES",
    "LOSSY",
    "Functions",
    "Learned",
    "available",
    "decode",
    "decode_parts",
    "encode",
]

LEAST_NBYTES = 16 * 1024  # a smaller tensor is left alone: sending it takes no longer than thinking about it
GAIN = 0.97  # what is not smaller than this part of the raw bytes is sent raw

LOSSY: tuple[Codec, ...] = ("fp16", "jpeg")


@dataclass(frozen=True, slots=True)
class Functions:
    """One codec: `encode` gives its bytes, or None; `decode` fills the tensor, or raises ValueError."""

    encode: Callable[[Array, Learned], Array | None]
    decode: Callable[[Array, Array], None]


FUNCTIONS: dict[Codec, Functions] = {
    "palette": Functions(palette.encode, palette.decode),
    "palette-zstd": Functions(palette.encode_compressed, palette.decode_compressed),
    "mask": Functions(mask.encode, mask.decode),
    "shuffle-zstd": Functions(shuffle.encode, shuffle.decode),
    "fp16": Functions(half.encode, half.decode),
    "jpeg": Functions(jpeg.encode, jpeg.decode),
}


@functools.cache
def available() -> tuple[Codec, ...]:
    """The codecs that work here: JPEG needs an image library, which few hosts have."""
    return tuple(name for name in FUNCTIONS if name != "jpeg" or jpeg.available())


def encode(codec: Codec, array: Array, learned: Learned) -> Encoded | None:
    """Write a tensor with a codec.

    Args:
        array: C-contiguous.
        learned: what this function has found out about such tensors, kept by the caller from call to call.

    Returns:
        What was written; None where the codec does not apply to this tensor, or does not make it smaller.
    """
    if not LEAST_NBYTES <= array.nbytes <= ENCODED_LIMIT or not array.flags.c_contiguous:
        return None
    body = FUNCTIONS[codec].encode(array, learned)
    if body is None or body.nbytes > GAIN * array.nbytes:
        return None
    spec = spec_of(array)
    return Encoded(PartSpec(spec.dtype, spec.shape, codec, body.nbytes), body)


def decode(spec: PartSpec, body: Array, into: Array) -> None:
    """Fill a tensor from what a codec wrote.

    Args:
        spec: checked, as a frame's specs are; it bounds the memory that `into` takes.
        into: C-contiguous, of the spec's dtype and shape.

    Raises:
        ProtocolError: the codec cannot have written these bytes for such a tensor.
    """
    if spec.codec not in available():
        raise ProtocolError(f"a tensor that {spec.codec} has written, which cannot be read here and was not asked for")
    try:
        FUNCTIONS[spec.codec].decode(body, into)
    except ValueError as exc:
        raise ProtocolError(
            f"a tensor of dtype {spec.dtype} and shape {spec.shape} that {spec.codec} cannot have written: {exc}"
        ) from exc


def decode_parts(
    specs: Sequence[PartSpec], arrays: Sequence[Array], allocate: Callable[[int, TensorSpec], Array]
) -> tuple[Array, ...]:
    """All tensors of a frame; those that came raw are passed through.

    Args:
        arrays: as they came, by place.
        allocate: gives memory for the tensor at a place.

    Raises:
        ProtocolError: as for `decode`.
    """
    read = list(arrays)
    for place, spec in enumerate(specs):
        if spec.codec != "raw":
            read[place] = allocate(place, TensorSpec(spec.dtype, spec.shape))
            decode(spec, arrays[place], read[place])
    return tuple(read)
