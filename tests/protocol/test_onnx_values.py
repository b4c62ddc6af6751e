"""Values survive the way through a message, and what a peer may send wrong is refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from avec.errors import InvalidArgument
from avec.protocol.onnx import Held, Items, Plain, Sparse, Strings, Tensor, Typed, Value
from avec.protocol.onnx_values import Packer, unpack
from avec.tensor import Array, spec_of

DECODER: msgspec.msgpack.Decoder[Value] = msgspec.msgpack.Decoder(Value)


def refuse(value: object) -> Value:
    raise RuntimeError(f"foreign: {type(value)}")


def refuse_known(value: Typed | Sparse | Held) -> object:
    raise RuntimeError(f"known: {type(value)}")


def through(value: object) -> object:
    """Pack a value, send it through the message's encoding, and rebuild it."""
    packer = Packer(refuse)
    packed = DECODER.decode(msgspec.msgpack.encode(packer.pack(value)))
    for part in packer.parts:
        spec_of(part)  # what the frame's encoder asks of each
        assert part.flags.c_contiguous
    return unpack(packed, packer.parts, refuse_known)


def assert_same(one: object, other: object) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, list):
        assert isinstance(other, list)
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


NUMBERS = st.one_of(
    arrays.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufcmM" and dtype.itemsize <= 16),
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(arrays.arrays(NUMBERS, SHAPES, elements={"allow_nan": False}))
def test_numeric_arrays(array: Array) -> None:
    assert_same(through(array), array)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3), elements={"allow_nan": False}))
def test_strided_arrays(array: Array) -> None:
    assert_same(through(array.T), np.ascontiguousarray(array.T))


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=8))
def test_arrays_of_strings(strings: list[str]) -> None:
    objects = np.empty(len(strings), object)
    objects[:] = strings
    assert_same(through(objects), objects)
    fixed = np.array(strings, "U") if strings else np.empty(0, "U1")
    result = through(fixed)
    assert isinstance(result, np.ndarray)
    assert result.tolist() == fixed.tolist()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_values(value: object) -> None:
    assert_same(through(value), value)


@given(st.lists(arrays.arrays(np.int64, SHAPES), min_size=1, max_size=5))
def test_lists_of_arrays(value: list[Array]) -> None:
    assert_same(through([value, *value]), [value, *value])


def test_types_that_numpy_lacks_by_themselves() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    for name in ("bfloat16", "float8_e4m3fn", "int4"):
        array = np.array([0, 1, 2], getattr(ml_dtypes, name))
        assert_same(through(array), array)


def test_what_is_no_value_is_the_library_s_to_refuse() -> None:
    for value in (object(), (1, 2), np.float32(1), memoryview(b"x"), [object()]):
        with pytest.raises(RuntimeError, match="foreign"):
            through(value)


def test_lists_that_contain_themselves_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="lists within lists"):
        through(endless)


BYTES = np.arange(12, dtype=np.uint8)


@pytest.mark.parametrize(
    ("value", "parts", "reason"),
    [
        (Tensor(1), [BYTES], "part 1 of 1"),
        (Tensor(-1), [BYTES], "part -1 of 1"),
        (Tensor(0, "bfloat99", (6,)), [BYTES], "not known here"),
        (Tensor(0, "O", (1,)), [BYTES], "not known here"),
        (Tensor(0, "|V12", (1,)), [BYTES], "not known here"),
        (Tensor(0, ">f4", (4,)), [BYTES], "in 12 bytes"),
        (Tensor(0, ">f4", (-3,)), [BYTES], "negative"),
        (Tensor(0, ">f4", (2**40, 2**40)), [BYTES], "no address space"),
        (Tensor(0, ">f4", (1,) * 40), [BYTES], "rank"),
        (Tensor(0, ">f4", (3,)), [BYTES.reshape(3, 4)], "should be bytes"),
        (Strings(0, (2,)), [BYTES], "cannot be decoded|holds something else"),
        (Strings(0, (2,)), [np.frombuffer(msgspec.msgpack.encode(["a"]), np.uint8)], "1 strings"),
        (Strings(0, (1,)), [np.frombuffer(msgspec.msgpack.encode([1]), np.uint8)], "holds something else"),
        (Plain(b"\xc1"), [], "cannot be decoded"),
        (Plain(b"\x91" * 5000), [], "cannot be decoded"),
        (Plain(part=3), [], "part 3 of 0"),
        (Items((Tensor(0), Tensor(9))), [BYTES], "part 9 of 1"),
    ],
)
def test_contradictions_are_refused(value: Value, parts: Sequence[Array], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        unpack(value, parts, refuse_known)
