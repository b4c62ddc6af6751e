"""How arrays, strings, lists and maps become a `Value` of protocol.onnx with its parts, and are rebuilt from them.

Both ends use it; what only ONNX Runtime knows (OrtValue, SparseTensor) they translate themselves, through hooks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import msgspec
import numpy as np

from avec.errors import InvalidArgument
from avec.protocol.onnx import Held, Items, Plain, Sparse, Strings, Tensor, Typed, Value
from avec.tensor import Array, DType, TensorSpec

INLINE_NBYTES = 256  # of a Plain that rides in the message itself
DEPTH_LIMIT = 32  # lists in lists
_WIRE_DTYPES = frozenset(get_args(DType))
# Types of the ml_dtypes package, which onnx itself uses for what numpy lacks.
_ML_DTYPES = frozenset({
    "bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "int2", "int4", "uint2",
    "uint4",
})  # fmt: skip
_NUMPY_DTYPES = re.compile(r"[<>](?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[mM]8(?:\[\d*[a-zA-Z]{1,2}\])?)")

# Bits of one element of a type that numpy lacks, by TensorProto.DataType. Smaller ones than a byte are packed.
ELEMENT_BITS = {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder()

Foreign = Callable[[object], Value]  # says what an object of the library's is; raises what the library would
Known = Callable[[Typed | Sparse | Held], object]  # makes an object of the library's


class Packer:
    """Collects the parts of one frame."""

    def __init__(self, foreign: Foreign) -> None:
        """Pack values; what is no array, string, number, list or map is `foreign`'s."""
        self._foreign = foreign
        self.parts: list[Array] = []

    def pack(self, value: object, depth: int = 0) -> Value:
        """Say what a value is; its contents become parts.

        Raises:
            TypeError, ValueError, OverflowError: it cannot be expressed, besides what `foreign` raises.
        """
        if isinstance(value, np.ndarray):
            return self.pack_array(value)
        if isinstance(value, list) and _has_arrays(value):
            if depth > DEPTH_LIMIT:
                raise ValueError(f"lists within lists, {DEPTH_LIMIT} deep")
            return Items(tuple(self.pack(each, depth + 1) for each in value))
        if value is None or isinstance(value, str | bool | int | float | list | dict):
            return self.pack_plain(value)
        return self._foreign(value)

    def pack_array(self, array: Array) -> Value:
        """Say what a numpy array is."""
        array = np.asarray(array)  # a subclass may define its contents otherwise
        if array.dtype.name in _WIRE_DTYPES and array.dtype.isnative:
            return Tensor(self.add(array if array.flags.c_contiguous else array.copy(order="C")))
        if array.dtype.kind in "OUS":
            return self._pack_strings(array)
        name = array.dtype.name if array.dtype.name in _ML_DTYPES else array.dtype.str
        if array.dtype.hasobject or not (name in _ML_DTYPES or _NUMPY_DTYPES.fullmatch(name)):
            raise TypeError(f"an array of dtype {array.dtype} cannot be sent")
        return Tensor(self.add(raw_bytes(array)), name, array.shape)

    def pack_plain(self, value: object) -> Plain:
        """Express numbers, strings, lists and maps."""
        data = _ENCODER.encode(_plain(value, 0))
        if len(data) <= INLINE_NBYTES:
            return Plain(data)
        return Plain(part=self.add(np.frombuffer(data, np.uint8)))

    def pack_bytes(self, data: bytes) -> int:
        """Take raw bytes along; give their place."""
        return self.add(np.frombuffer(data, np.uint8))

    def add(self, array: Array) -> int:
        """Take an array along as it is; give its place."""
        self.parts.append(array)
        return len(self.parts) - 1

    def _pack_strings(self, array: Array) -> Strings:
        flat = array.reshape(-1)
        kind: Literal["object", "str", "bytes"] = "object"
        if array.dtype.kind == "S":
            data, kind = _ENCODER.encode(flat.tolist()), "bytes"
        elif array.dtype.kind == "U":
            data, kind = _ENCODER.encode(flat.tolist()), "str"
        else:
            data = _ENCODER.encode([str(each) for each in flat])  # as ONNX Runtime does, which takes their str()
        return Strings(self.add(np.frombuffer(data, np.uint8)), array.shape, kind)


def raw_bytes(array: Array) -> Array:
    """An array's memory as uint8, copied where it is not contiguous."""
    return np.frombuffer(array.tobytes(), np.uint8)


def unpack(value: Value, parts: Sequence[Array], known: Known) -> object:
    """Rebuild a value.

    Args:
        parts: the frame's; arrays of the result may be these very ones.
        known: makes what only ONNX Runtime knows.

    Raises:
        InvalidArgument: the value contradicts its parts, or is of a type that this machine does not know.
    """
    match value:
        case Tensor(part, "", _):
            return _part(parts, part)
        case Tensor(part, dtype, shape):
            return reshaped(_bytes_part(parts, part), _dtype(dtype), shape)
        case Strings():
            return _unpack_strings(value, parts)
        case Plain():
            return unpack_plain(value, parts)
        case Items(items):
            return [unpack(each, parts, known) for each in items]
        case _:
            return known(value)


def unpack_array(value: Value, parts: Sequence[Array]) -> Array:
    """Rebuild a value that has to be a numeric array."""
    array = unpack(value, parts, _unknown)
    if not isinstance(array, np.ndarray):
        raise InvalidArgument(f"a numeric array is needed, not {type(value).__name__}")
    return array


def unpack_plain(value: Plain, parts: Sequence[Array]) -> object:
    """Rebuild numbers, strings, lists and maps."""
    return _decoded(value.data if value.part < 0 else _bytes_part(parts, value.part).data)


def reshaped(data: Array, dtype: np.dtype[np.generic], shape: Sequence[int]) -> Array:
    """View raw bytes as an array.

    Raises:
        InvalidArgument: their number is not what dtype and shape say.
    """
    spec = TensorSpec("uint8", (*shape, dtype.itemsize))
    try:
        spec.check()
    except ValueError as exc:
        raise InvalidArgument(f"raw bytes as {exc}") from exc
    if data.nbytes != spec.nbytes:
        raise InvalidArgument(f"an array of shape {tuple(shape)} and dtype {dtype} in {data.nbytes} bytes")
    return np.frombuffer(data.data, dtype).reshape(shape)


def storage_nbytes(element_type: int, shape: Sequence[int]) -> int:
    """The size of a tensor of a type that numpy lacks.

    Raises:
        InvalidArgument: no such type, or no such shape.
    """
    bits = ELEMENT_BITS.get(element_type)
    if bits is None or any(dimension < 0 for dimension in shape):
        raise InvalidArgument(f"a tensor of element type {element_type} and shape {tuple(shape)}")
    return (math.prod(shape) * bits + 7) // 8


def bytes_of(parts: Sequence[Array], index: int) -> Array:
    """A part that holds raw bytes."""
    return _bytes_part(parts, index)


def _has_arrays(value: list[object], depth: int = 0) -> bool:
    if depth > DEPTH_LIMIT:
        raise ValueError(f"lists within lists, {DEPTH_LIMIT} deep")
    return any(
        _has_arrays(each, depth + 1)
        if isinstance(each, list)
        else not isinstance(each, str | bool | int | float | dict | np.generic | tuple | bytes | None)
        for each in value
    )


def _plain(value: object, depth: int) -> object:
    if depth > DEPTH_LIMIT:
        raise ValueError(f"lists within lists, {DEPTH_LIMIT} deep")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(each, depth + 1) for key, each in value.items()}
    return value


def _unpack_strings(value: Strings, parts: Sequence[Array]) -> Array:
    flat = _decoded(_bytes_part(parts, value.part).data)
    kind = bytes if value.dtype == "bytes" else str
    if not isinstance(flat, list) or not all(isinstance(each, kind) for each in flat):
        raise InvalidArgument("an array of strings that holds something else")
    array = np.empty(len(flat), object)
    array[:] = flat
    if value.dtype != "object":
        array = array.astype("S" if kind is bytes else "U")
    try:
        return array.reshape(value.shape)
    except ValueError as exc:
        raise InvalidArgument(f"{len(flat)} strings as an array of shape {value.shape}") from exc


def _decoded(data: bytes | memoryview) -> object:
    try:
        decoded: object = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument(f"a value that cannot be decoded: {exc}") from exc
    return decoded


def _part(parts: Sequence[Array], index: int) -> Array:
    if not 0 <= index < len(parts):
        raise InvalidArgument(f"part {index} of {len(parts)}")
    return parts[index]


def _bytes_part(parts: Sequence[Array], index: int) -> Array:
    part = _part(parts, index)
    if part.dtype != np.uint8 or part.ndim != 1:
        raise InvalidArgument(f"part {index} should be bytes, and has dtype {part.dtype} and {part.ndim} dimensions")
    return part


def _dtype(name: str) -> np.dtype[np.generic]:
    if name in _ML_DTYPES:
        try:
            import ml_dtypes

            known: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
            return known
        except (ImportError, AttributeError) as exc:
            raise InvalidArgument(f"arrays of {name} need the package ml_dtypes here, in a version with it") from exc
    if not _NUMPY_DTYPES.fullmatch(name):
        raise InvalidArgument(f"arrays of dtype {name[:40]!r} are not known here")
    try:
        return np.dtype(name)
    except TypeError as exc:
        raise InvalidArgument(f"arrays of dtype {name!r} do not exist on this machine") from exc


def _unknown(value: Typed | Sparse | Held) -> object:
    raise InvalidArgument(f"a plain value is needed, not {type(value).__name__}")
