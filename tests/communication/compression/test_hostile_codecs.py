"""What no codec has written is refused, by name, in little memory; nothing else is ever raised."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.communication import compression
from avec.communication.compression import Learned, zstd
from avec.errors import ProtocolError
from avec.tensor import Array, Codec, Encoded, PartSpec

SHAPE = (1, 3, 32, 64)


def _samples() -> dict[Codec, Encoded]:
    generator = np.random.default_rng(0)
    image = (generator.integers(0, 64, SHAPE) + np.arange(64) * 2).astype(np.float32) / 256
    sparse = np.maximum(generator.standard_normal(SHAPE), 0).astype(np.float32)
    tensors = {"mask": sparse, "fp16": sparse}
    found = {codec: compression.encode(codec, tensors.get(codec, image), Learned()) for codec in compression.FUNCTIONS}
    return {codec: encoded for codec, encoded in found.items() if encoded is not None}


SAMPLES = _samples()


def decode(codec: Codec, body: Array, dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> Array:
    into = np.empty(shape, dtype)
    compression.decode(PartSpec(dtype, shape, codec, body.nbytes), body, into)  # type: ignore[arg-type]
    return into


def test_there_is_a_sample_of_each_codec() -> None:
    assert set(SAMPLES) == set(compression.FUNCTIONS)


@pytest.mark.parametrize("codec", SAMPLES)
def test_what_is_cut_off_is_refused(codec: Codec) -> None:
    body = SAMPLES[codec].body
    for length in (1, 7, 15, 16, 17, body.nbytes // 2):
        with pytest.raises(ProtocolError, match=codec):
            decode(codec, body[:length].copy())


@pytest.mark.parametrize("codec", [codec for codec in SAMPLES if codec != "jpeg"])  # a file may have something after it
def test_what_is_too_long_is_refused(codec: Codec) -> None:
    with pytest.raises(ProtocolError, match=codec):
        decode(codec, np.concatenate([SAMPLES[codec].body, np.zeros(8, np.uint8)]))


@pytest.mark.parametrize("codec", SAMPLES)
@pytest.mark.parametrize("shape", [(1, 3, 32, 63), (3, 1, 64, 31), (2**10,), (2, 3, 32, 64), ()])
def test_what_belongs_to_another_shape_is_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match=codec):
        decode(codec, SAMPLES[codec].body, shape=shape)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4))
def test_a_changed_byte_is_refused_or_changes_values(codec: Codec, changes: list[tuple[int, int]]) -> None:
    body = SAMPLES[codec].body.copy()
    for place, value in changes:
        body[place % min(body.nbytes, 4096)] = value
    try:
        decode(codec, body)
    except ProtocolError as exc:
        assert codec in str(exc)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.binary(min_size=1, max_size=200),
    st.sampled_from(["bool", "uint8", "float16", "float32", "int64", "complex128"]),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_any_bytes_are_refused_or_read(codec: Codec, data: bytes, dtype: str, shape: list[int]) -> None:
    try:
        decode(codec, np.frombuffer(data, np.uint8), dtype, tuple(shape))
    except ProtocolError as exc:
        assert codec in str(exc)


@pytest.mark.parametrize("codec", ["shuffle-zstd", "palette-zstd"])
def test_what_decompresses_to_more_than_it_says_is_refused_in_little_memory(codec: Codec) -> None:
    bomb = np.frombuffer(zstd.compress(np.zeros(200 << 20, np.uint8)), np.uint8)
    head = SAMPLES[codec].body[: 16 + 256 * 4] if codec == "palette-zstd" else bomb[:0]
    body = np.concatenate([head, bomb])
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="exactly"):
            decode(codec, body)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_window_larger_than_ours_is_refused() -> None:
    data = np.random.default_rng(0).bytes(64 << 10)
    large = zstd.zstd.compress(data, options={zstd.zstd.CompressionParameter.window_log: 27})
    # One-shot frames of known size need no window; a stream's header asks for the one that it was made with.
    compressor = zstd.zstd.ZstdCompressor(options={zstd.zstd.CompressionParameter.window_log: 27})
    streamed = compressor.compress(data) + compressor.flush()
    assert zstd.decompress(np.frombuffer(large, np.uint8), len(data)).nbytes == len(data)
    with pytest.raises(ValueError, match="zstd says"):
        zstd.decompress(np.frombuffer(streamed, np.uint8), len(data))
