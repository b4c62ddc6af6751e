"""What the OpenCV front-end and the OpenCV executor say to each other in `Load.body`, `Run.body` and `Result.body`.

A handle names one object of OpenCV's: a net, one of the model classes, a face detector, a tracker. Calls on it are
OpenCV's own methods by name, and their arguments and results are plain values. So the destination's own binding
converts arguments, and says what is wrong with them, as the host's would. What may be called is the executor's
business. Arrays travel as the frame's parts, in the order of their Part.index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from avec.errors import ExecutionError, InvalidArgument
from avec.tensor import Array, spec_of

FORMAT = "opencv"
BODY_LIMIT = 16 * 1024  # bytes; a longer body travels as the last part, because a message's small part is bounded
SHAPE_LIMIT = 8  # dimensions in a Shape
DEPTH_LIMIT = 8  # of nested sequences; OpenCV has none deeper than three


class OpenCvError(ExecutionError):
    """OpenCV raised cv2.error at the destination; the text is OpenCV's own."""

    code = "opencv"


class OpenCvTypeError(ExecutionError):
    """OpenCV's binding raised TypeError at the destination; the text is its own."""

    code = "opencv-type"


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """An array: its contents are part `index`."""

    index: int


class Shape(msgspec.Struct, frozen=True, array_like=True, tag="shape"):
    """A short one-dimensional int32 array; a deep net has thousands of shapes, and a message has few parts."""

    dims: tuple[int, ...]


class Items(msgspec.Struct, frozen=True, array_like=True, tag="items"):
    """A tuple or a list."""

    items: tuple[Value, ...]
    kind: Literal["tuple", "list"] = "tuple"


class Record(msgspec.Struct, frozen=True, array_like=True, tag="record"):
    """A dictionary when `kind` is empty, else an object of OpenCV's that is nothing but its fields."""

    kind: str
    fields: dict[str, Value]


class File(msgspec.Struct, frozen=True, array_like=True, tag="file"):
    """A model file: Load.files[role] has its contents."""

    role: str
    path: str  # as the application wrote it, for messages and for its ending; empty: the application gave the contents
    beside: dict[str, str] = {}  # relative path → role of further files that the model names


class Other(msgspec.Struct, frozen=True, array_like=True, tag="other"):
    """The object that Run.handles names at `index`."""

    index: int


Value: TypeAlias = None | bool | int | float | str | Part | Shape | Items | Record | File | Other


class Invocation(msgspec.Struct, frozen=True, array_like=True):
    """One call of a method."""

    method: str
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = {}


class Make(msgspec.Struct, frozen=True, array_like=True, tag="make"):
    """Make what the handle names, by calling something of OpenCV's: "dnn.readNetFromONNX", "FaceDetectorYN.create"."""

    call: Invocation
    version: str  # of the host's OpenCV, whose behaviour is wanted


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag="reserve"):
    """The handle will be made by a Run with Make, which may name other handles."""


class Invoke(msgspec.Struct, frozen=True, array_like=True, tag="invoke"):
    """Call methods in order; the answer is the last one's result. After one that fails the rest is left out."""

    calls: tuple[Invocation, ...]


LoadRequest: TypeAlias = Make | Reserve
RunRequest: TypeAlias = Make | Invoke

_ENCODER = msgspec.msgpack.Encoder()
_VALUES: msgspec.msgpack.Decoder[Value] = msgspec.msgpack.Decoder(Value)


def encode_body(body: LoadRequest | RunRequest | Value, parts: list[Array]) -> bytes:
    """Encode a body; one that is too long is added to the parts, and the body that remains is empty."""
    encoded = _ENCODER.encode(body)
    if len(encoded) <= BODY_LIMIT:
        return encoded
    parts.append(np.frombuffer(encoded, np.uint8))
    return b""


def whole_body(body: bytes, parts: Sequence[Array]) -> tuple[bytes | memoryview, Sequence[Array]]:
    """Give an encoded body from where `encode_body` has put it, and the parts without it."""
    if body:
        return body, parts
    if not parts or parts[-1].dtype != np.uint8 or parts[-1].ndim != 1:
        raise InvalidArgument("a message about OpenCV came without a body")
    return parts[-1].data, parts[:-1]


def decode_value(
    body: bytes, parts: Sequence[Array], special: Callable[[Record | File | Other], object] | None = None
) -> object:
    """Decode the answer to a request; `special` as for `unpack`."""
    encoded, parts = whole_body(body, parts)
    return unpack(_VALUES.decode(encoded), parts, special)


def pack(value: object, parts: list[Array], special: Callable[[object], Value], depth: int = 0) -> Value:
    """Turn an argument or a result into a Value; arrays are added to `parts`, C-contiguous.

    Args:
        special: gives the Value of whatever is neither a plain value nor an array.

    Raises:
        InvalidArgument: it is nested too deeply.
        ValueError: an array's dtype or rank cannot be sent.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        value = np.frombuffer(value, np.uint8)
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.dtype == np.int32 and value.size <= SHAPE_LIMIT:
            return Shape(tuple(value.tolist()))
        spec_of(value)
        parts.append(np.ascontiguousarray(value) if value.ndim else value)
        return Part(len(parts) - 1)
    if depth == DEPTH_LIMIT:
        raise InvalidArgument(f"a value for OpenCV is nested more than {DEPTH_LIMIT} deep")
    if isinstance(value, Sequence):
        items = tuple(pack(each, parts, special, depth + 1) for each in value)
        return Items(items, "list" if isinstance(value, list) else "tuple")
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return Record("", {key: pack(each, parts, special, depth + 1) for key, each in value.items()})
    return special(value)


def unpack(
    value: Value, parts: Sequence[Array], special: Callable[[Record | File | Other], object] | None = None
) -> object:
    """Turn a Value back into what it stands for.

    Args:
        special: gives what a Record with a kind, a File or an Other stands for; None where none may come.

    Raises:
        InvalidArgument: it names a part that did not come, or something that may not be there.
    """
    match value:
        case Part(index):
            if not 0 <= index < len(parts):
                raise InvalidArgument(f"an argument is part {index} of a message with {len(parts)} parts")
            return parts[index]
        case Shape(dims):
            return np.array(dims, np.int32)
        case Items(items, kind):
            found = [unpack(each, parts, special) for each in items]
            return found if kind == "list" else tuple(found)
        case Record("", fields):
            return unpack_all(fields, parts, special)
        case Record() | File() | Other():
            if special is None:
                raise InvalidArgument(f"a {type(value).__name__} has no meaning here")
            return special(value)
        case _:
            return value


def unpack_all(
    fields: Mapping[str, Value], parts: Sequence[Array], special: Callable[[Record | File | Other], object] | None
) -> dict[str, Any]:
    """Turn each of several named Values back."""
    return {name: unpack(each, parts, special) for name, each in fields.items()}
