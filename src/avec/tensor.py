"""What a tensor is on the wire: a dtype and a shape beside raw C-ordered little-endian bytes, or beside fewer bytes
that a codec made of those.

Not here: how the bytes move, what the codecs do (`communication`), what the numbers mean (front-ends and executors).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

RANK_LIMIT = 32  # Caffe's kMaxBlobAxes; numpy allows 64
STRIDE_LIMIT = 1 << 62  # bytes: numpy computes the strides of an empty array too, in 64 bits

DType = Literal[
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip

# Ways to write a tensor's bytes; see communication/compression. "fp16" and "jpeg" lose something.
Codec = Literal["raw", "palette", "palette-zstd", "mask", "shuffle-zstd", "fp16", "jpeg"]

Array = npt.NDArray[Any]

_ITEMSIZES: dict[str, int] = {name: np.dtype(name).itemsize for name in DType.__args__}  # type: ignore[attr-defined]
_NAMES: dict[np.dtype[Any], DType] = {np.dtype(name): name for name in DType.__args__}  # type: ignore[attr-defined]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """dtype and shape of one tensor; all sizes follow from them."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes, computed in Python integers, so that no product of dimensions can wrap around."""
        return math.prod(self.shape) * _ITEMSIZES[self.dtype]

    def check(self) -> None:
        """Raise ValueError unless the rank and every dimension are in range (a peer may have sent them)."""
        if len(self.shape) > RANK_LIMIT:
            raise ValueError(f"a tensor of rank {len(self.shape)}; the limit is {RANK_LIMIT}")
        if any(dimension < 0 for dimension in self.shape):
            raise ValueError(f"a tensor with a negative dimension: {self.shape}")
        if math.prod(dimension or 1 for dimension in self.shape) * _ITEMSIZES[self.dtype] > STRIDE_LIMIT:
            raise ValueError(f"a tensor of shape {self.shape}, which no address space holds")


class PartSpec(TensorSpec, frozen=True, array_like=True):
    """A tensor as a part of a frame. A raw one is written as its TensorSpec, without the fields of this class."""

    codec: Codec = "raw"
    encoded_nbytes: int = 0  # in the frame's payload, where the codec is not raw

    @property
    def wire_nbytes(self) -> int:
        """Its size in the frame's payload."""
        return self.nbytes if self.codec == "raw" else self.encoded_nbytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor that a codec has written: what it was, and its bytes, which nobody else uses."""

    spec: PartSpec
    body: Array  # uint8, of one dimension

    @property
    def nbytes(self) -> int:
        """On the wire."""
        return self.body.nbytes


def spec_of(array: Array) -> TensorSpec:
    """Describe a numpy array.

    Raises:
        ValueError: its dtype has no name on the wire (objects, strings, big-endian numbers), or its rank is too high.
    """
    name = _NAMES.get(array.dtype)
    if name is None:
        raise ValueError(f"an array of dtype {array.dtype} cannot be sent; convert it to one of {DType.__args__}")  # type: ignore[attr-defined]
    if array.ndim > RANK_LIMIT:
        raise ValueError(f"an array of rank {array.ndim} cannot be sent; the limit is {RANK_LIMIT}")
    return TensorSpec(name, array.shape)


def bytes_view(array: Array) -> memoryview:
    """View a C-contiguous array's memory as bytes, without a copy.

    Raises:
        ValueError: it is not contiguous.
    """
    if not array.flags.c_contiguous:
        raise ValueError(f"an array with strides {array.strides} is not contiguous; use numpy.ascontiguousarray")
    return array.reshape(-1).view(np.uint8).data
