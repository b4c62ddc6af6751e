"""Values for OpenCV arrive as what they were, and what is no value is refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from avec.errors import ExecutionError, InvalidArgument, pack, unpack
from avec.protocol import opencv_dnn
from avec.protocol.opencv_dnn import BODY_LIMIT, DEPTH_LIMIT, File, Invocation, Invoke, OpenCvError, Other, Part, Value
from avec.tensor import Array

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64")


def arrays() -> some.SearchStrategy[Array]:
    shapes = some.lists(some.integers(0, 4), max_size=4).map(tuple)
    return some.builds(
        lambda dtype, shape: np.arange(np.prod(shape)).reshape(shape).astype(dtype), some.sampled_from(DTYPES), shapes
    )


plain = some.none() | some.booleans() | some.integers(-(2**63), 2**64 - 1) | some.floats(allow_nan=False) | some.text()
values = some.recursive(
    plain | arrays(),
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.lists(inner, max_size=4).map(tuple)
        | some.dictionaries(some.text(), inner, max_size=3)
    ),
    max_leaves=12,
)


def refuse(value: object) -> Value:
    raise TypeError(type(value).__name__)


def there_and_back(value: object) -> object:
    parts: list[Array] = []
    packed = opencv_dnn.pack(value, parts, refuse)
    body = opencv_dnn.encode_body(packed, parts)
    return opencv_dnn.decode_value(body, parts)


def same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))  # type: ignore[arg-type]
    if isinstance(left, dict):
        return (
            isinstance(right, dict) and left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        )
    return type(left) is type(right) and left == right


@given(values)
def test_a_value_arrives_as_it_was(value: object) -> None:
    assert same(value, there_and_back(value))


def test_a_long_value_travels_as_a_part() -> None:
    value = ["é" * 100] * (BODY_LIMIT // 100)
    parts: list[Array] = []
    assert opencv_dnn.encode_body(opencv_dnn.pack(value, parts, refuse), parts) == b""
    assert len(parts) == 1
    assert opencv_dnn.decode_value(b"", parts) == value


@pytest.mark.parametrize(
    ("given_value", "arrives"),
    [
        (np.float32(1.5), 1.5), (np.int64(7), 7), (np.bool_(True), True), (range(3), (0, 1, 2)),
        (b"ab", np.array([97, 98], np.uint8)), (bytearray(b"a"), np.array([97], np.uint8)),
    ],
)  # fmt: skip
def test_what_opencv_takes_for_a_value_arrives_as_that(given_value: object, arrives: object) -> None:
    assert same(arrives, there_and_back(given_value))


def test_strides_do_not_travel() -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for array in (base.transpose(), base[:, ::2], np.asfortranarray(base), base[1, 1, 1:2]):
        assert same(array, there_and_back(array))


def test_short_shapes_take_no_part() -> None:
    parts: list[Array] = []
    opencv_dnn.pack([np.array([1, 3, 224, 224], np.int32)] * 5000, parts, refuse)
    assert parts == []


@pytest.mark.parametrize("value", [np.array(["text"]), np.zeros(2, ">f4"), np.zeros((1,) * 33)])
def test_arrays_that_no_wire_carries_are_refused(value: Array) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        opencv_dnn.pack(value, [], refuse)


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        opencv_dnn.pack([object()], [], refuse)
    nested: list[object] = []
    for _ in range(DEPTH_LIMIT + 1):
        nested = [nested]
    with pytest.raises(InvalidArgument, match="nested"):
        opencv_dnn.pack(nested, [], refuse)


@pytest.mark.parametrize("value", [Part(0), Part(-1), File("0", "m.onnx"), Other(0)])
def test_what_did_not_come_or_has_no_meaning_is_refused(value: Value) -> None:
    with pytest.raises(InvalidArgument):
        opencv_dnn.unpack(value, ())


@pytest.mark.parametrize("parts", [(), (np.zeros(4, np.float32),), (np.zeros((2, 2), np.uint8),)])
def test_a_message_without_a_body_is_refused(parts: Sequence[Array]) -> None:
    with pytest.raises(InvalidArgument, match="without a body"):
        opencv_dnn.whole_body(b"", parts)


def test_requests_are_what_they_were() -> None:
    request = Invoke((Invocation("setInput", (Part(0), "data", 1.0)), Invocation("forward", (), {"outputName": "y"})))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Invoke) == request


def test_errors_keep_their_kind_across_the_wire() -> None:
    back = unpack(pack(OpenCvError("OpenCV(5.0.0) file.cpp:1: error: (-2:Unspecified error) text in function 'f'\n")))
    assert isinstance(back, OpenCvError) and isinstance(back, ExecutionError)
    assert str(back).startswith("OpenCV(5.0.0) file.cpp:1")
