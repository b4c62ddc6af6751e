"""Frames: what is encoded is decoded, however the network cuts it; what cannot be sent is refused before it is."""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from avec.errors import AcceleratorOutOfMemory, ErrorRecord, ProtocolError
from avec.protocol import codec, messages
from avec.protocol.codec import FrameReader, allocate_array, encode
from avec.protocol.messages import Message, Parts
from avec.tensor import RANK_LIMIT, Array, DType, PartSpec, TensorSpec
from protocol.frames import feed, trusted_reader

DTYPES = get_args(DType)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
COUNT = st.integers(0, 2**63 - 1)
WORDS = st.dictionaries(TEXT, TEXT, max_size=3)
ERRORS = st.builds(ErrorRecord, TEXT, TEXT, TEXT)
TIMINGS = st.builds(messages.Timings, COUNT, COUNT, COUNT, COUNT, COUNT)
ACCELERATORS = st.builds(messages.AcceleratorInfo, st.sampled_from(["cuda", "cpu"]), TEXT, COUNT)
ARRAYS = st.lists(
    st.sampled_from(DTYPES).flatmap(
        lambda name: arrays_of.arrays(
            np.dtype(name), arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    max_size=4,
).map(tuple)
FIELDS = {
    messages.Hello: (COUNT, COUNT, st.sampled_from(["session", "upload", "status"]), TEXT, TEXT),
    messages.Welcome: (COUNT, TEXT, TEXT, st.none() | ACCELERATORS, st.lists(TEXT).map(tuple), COUNT, COUNT, COUNT),
    messages.Refused: (ERRORS,),
    messages.Want: (TEXT, st.lists(st.tuples(COUNT, COUNT), max_size=4).map(tuple)),
    messages.Stored: (TEXT,),
    messages.Release: (st.lists(COUNT, max_size=9).map(tuple),),
    messages.Failed: (ERRORS, st.none() | TIMINGS),
    messages.Ping: (COUNT,),
    messages.Pong: (COUNT, COUNT, COUNT),
    messages.Draining: (TEXT,),
    messages.Goodbye: (),
    messages.Status: (
        st.lists(ACCELERATORS, max_size=2).map(tuple),
        st.lists(TEXT).map(tuple),
        TEXT,
        COUNT,
        COUNT,
        COUNT,
    ),
}
FIELDS_WITH_PARTS = {
    messages.Offer: {"digest": TEXT, "nbytes": COUNT},
    messages.Chunk: {"digest": TEXT, "index": COUNT},
    messages.Load: {"handle": COUNT, "format": TEXT, "files": WORDS, "body": st.binary(max_size=40)},
    messages.Run: {"handle": COUNT, "files": WORDS, "body": st.binary(max_size=40)},
    messages.Result: {"body": st.binary(max_size=40), "timings": st.none() | TIMINGS},
}
PLAIN = st.one_of([st.tuples(st.builds(kind, *fields), st.just(())) for kind, fields in FIELDS.items()])
WITH_PARTS = st.one_of(
    [st.tuples(st.builds(kind, **fields), ARRAYS) for kind, fields in FIELDS_WITH_PARTS.items()]
)  # fmt: skip
FRAMES = st.lists(st.tuples(st.one_of(PLAIN, WITH_PARTS), st.integers(0, 2**64 - 1)), min_size=1, max_size=3)
FEW = settings(max_examples=150, deadline=None)


def test_the_strategies_cover_every_message_type() -> None:
    assert {*FIELDS, *FIELDS_WITH_PARTS} == set(messages.TYPES)
    assert {kind for kind in messages.TYPES if issubclass(kind, Parts)} == set(FIELDS_WITH_PARTS)


def _encoded(frames: list[tuple[tuple[Message, tuple[Array, ...]], int]]) -> bytes:
    return b"".join(b"".join(encode(message, number, arrays)) for (message, arrays), number in frames)


@FEW
@given(FRAMES)
def test_what_is_encoded_is_decoded(frames: list[tuple[tuple[Message, tuple[Array, ...]], int]]) -> None:
    decoded = feed(trusted_reader(), _encoded(frames))
    assert len(decoded) == len(frames)
    for frame, ((message, arrays), number) in zip(decoded, frames, strict=True):
        specs = tuple(PartSpec(array.dtype.name, array.shape) for array in arrays)
        sent = msgspec.structs.replace(message, parts=specs) if arrays else message
        assert (frame.message, frame.number) == (sent, number)
        assert [(array.dtype, array.shape) for array in frame.arrays] == [(each.dtype, each.shape) for each in arrays]
        assert [array.tobytes() for array in frame.arrays] == [array.tobytes() for array in arrays]


@FEW
@given(FRAMES, st.integers(1, 7))
def test_the_network_may_cut_frames_anywhere(
    frames: list[tuple[tuple[Message, tuple[Array, ...]], int]], step: int
) -> None:
    data = _encoded(frames)
    whole, sliced = feed(trusted_reader(), data), feed(trusted_reader(), data, step)
    assert [(frame.message, frame.number, frame.nbytes) for frame in sliced] == [
        (frame.message, frame.number, frame.nbytes) for frame in whole
    ]
    assert [[array.tobytes() for array in frame.arrays] for frame in sliced] == [
        [array.tobytes() for array in frame.arrays] for frame in whole
    ]


def test_a_frame_knows_its_size_on_the_wire() -> None:
    data = b"".join(encode(messages.Run(handle=1), 1, [np.zeros(10, np.float32)]))
    (frame,) = feed(trusted_reader(), data)
    assert frame.nbytes == len(data)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_crosses(name: str) -> None:
    array = np.arange(6).astype(name).reshape(2, 3)
    (frame,) = feed(trusted_reader(), b"".join(encode(messages.Result(), 1, [array])))
    np.testing.assert_array_equal(frame.arrays[0], array, strict=True)


def test_a_scalar_array_crosses_with_its_empty_shape() -> None:
    (frame,) = feed(trusted_reader(), b"".join(encode(messages.Result(), 1, [np.array(2.5)])))
    assert (frame.arrays[0].shape, float(frame.arrays[0])) == ((), 2.5)


def test_an_empty_array_crosses_with_its_shape() -> None:
    (frame,) = feed(trusted_reader(), b"".join(encode(messages.Result(), 1, [np.zeros((3, 0, 2), np.int8)])))
    assert frame.arrays[0].shape == (3, 0, 2)


def test_a_large_array_is_neither_copied_nor_joined() -> None:
    array = np.zeros(1 << 20, np.uint8)
    buffers = encode(messages.Run(handle=1), 1, [array])
    assert np.shares_memory(np.frombuffer(buffers[1], np.uint8), array)


def test_tensors_are_received_into_the_memory_that_was_given() -> None:
    given_array = np.zeros((2, 2), np.float32)
    reader = FrameReader(lambda number, message, index, spec: given_array)
    reader.trust()
    feed(reader, b"".join(encode(messages.Result(), 1, [np.ones((2, 2), np.float32)])))
    assert given_array.sum() == 4


def test_memory_is_asked_for_with_the_number_and_the_place_of_the_tensor() -> None:
    asked: list[tuple[int, int, TensorSpec]] = []

    def allocate(number: int, message: Message, index: int, spec: TensorSpec) -> Array:
        asked.append((number, index, spec))
        return np.empty(spec.shape, spec.dtype)

    reader = FrameReader(allocate)
    reader.trust()
    feed(reader, b"".join(encode(messages.Result(), 7, [np.zeros(2, np.uint8), np.zeros((1, 3), np.int16)])))
    assert asked == [(7, 0, PartSpec("uint8", (2,))), (7, 1, PartSpec("int16", (1, 3)))]


@pytest.mark.parametrize("step", [1, 0])
def test_a_payload_that_finds_no_memory_is_thrown_away_and_the_next_frame_is_whole(step: int) -> None:
    small, large = np.arange(9, dtype=np.uint8), np.full(codec.META_LIMIT + 5000, 7, np.uint8)
    no_room = AcceleratorOutOfMemory("no room")
    given: list[Array] = []

    def allocate(number: int, message: Message, index: int, spec: TensorSpec) -> Array:
        if spec.nbytes > small.nbytes:
            raise no_room
        given.append(allocate_array(number, message, index, spec))
        return given[-1]

    reader = FrameReader(allocate)
    reader.trust()
    frames = [
        encode(messages.Run(handle=1, body=b"first"), 5, [small, large, small]),
        encode(messages.Run(handle=1, body=b"second"), 6, [small]),
    ]
    refused, taken = feed(reader, b"".join(bytes(each) for frame in frames for each in frame), step)
    assert (refused.number, refused.message.body, refused.refused) == (5, b"first", no_room)
    assert [id(array) for array in refused.arrays] == [id(given[0])]  # for who gave it to take back
    assert refused.nbytes == sum(memoryview(each).nbytes for each in frames[0])
    assert (taken.number, taken.message.body, taken.refused) == (6, b"second", None)
    np.testing.assert_array_equal(taken.arrays[0], small)


def test_an_array_that_is_not_contiguous_is_refused_with_its_strides() -> None:
    with pytest.raises(ValueError, match=r"strides \(4, 12\) is not contiguous; use numpy.ascontiguousarray"):
        encode(messages.Run(handle=1), 1, [np.zeros((2, 3), np.float32).T])


@pytest.mark.parametrize("dtype", [">f4", "O", "U3", "M8[s]"])
def test_a_dtype_without_a_name_on_the_wire_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent; convert it to one of"):
        encode(messages.Run(handle=1), 1, [np.zeros(2, dtype)])


def test_a_message_that_the_peer_would_refuse_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=f"the bound is {codec.META_LIMIT}"):
        encode(messages.Run(handle=1, body=bytes(codec.META_LIMIT)), 1)


def test_a_payload_that_the_peer_would_refuse_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=f"the bound is {codec.CHUNK_NBYTES}"):
        encode(messages.Chunk(digest="d", index=0), 0, [np.empty(codec.CHUNK_NBYTES + 1, np.uint8)])


def test_too_many_tensors_are_not_sent() -> None:
    with pytest.raises(ProtocolError, match=r"the bound is \d+"):
        encode(messages.Run(handle=1), 1, [np.empty(0, np.bool_)] * (codec.PART_LIMIT + 1))


def test_an_array_of_too_high_a_rank_is_not_sent() -> None:
    with pytest.raises(ValueError, match=f"rank 33 cannot be sent; the limit is {RANK_LIMIT}"):
        encode(messages.Run(handle=1), 1, [np.empty((1,) * 33, np.uint8)])


def test_a_reader_is_idle_between_frames_only() -> None:
    reader = trusted_reader()
    data = b"".join(encode(messages.Ping(1)))
    idle = [reader.idle]
    for byte in data:
        feed(reader, bytes([byte]))
        idle.append(reader.idle)
    assert idle == [True, *[False] * (len(data) - 1), True]


def test_a_stranger_is_bounded_until_it_is_trusted() -> None:
    large = b"".join(encode(messages.Result(body=bytes(codec.STRANGER_LIMIT)), 1))
    with pytest.raises(ProtocolError, match=f"the bound is {codec.STRANGER_LIMIT}"):
        feed(FrameReader(allocate_array), large)
    assert len(feed(trusted_reader(), large)) == 1
