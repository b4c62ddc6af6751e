"""Each codec gives the very bits back, whatever the tensor, or leaves it alone; the lossy ones say by how much."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.communication import compression
from avec.communication.compression import LEAST_NBYTES, LOSSY, Learned
from avec.config import CODECS
from avec.tensor import Array, Codec, Encoded

LOSSLESS: tuple[Codec, ...] = tuple(name for name in compression.FUNCTIONS if name not in LOSSY)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(seed: int = 0, height: int = 96, width: int = 128) -> Array:
    """Bytes of shape (3, height, width) that change slowly, with a little noise; all values occur."""
    noise = random(seed).integers(-2, 3, (3, height, width))
    ramp = np.linspace(0, 255, height * width).reshape(1, height, width) + np.array([0, 9, 31])[:, None, None]
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


def written(codec: Codec, array: Array, learned: Learned | None = None) -> Encoded:
    found = compression.encode(codec, array, learned or Learned())
    assert found is not None, f"{codec} does not apply"
    return found


def read(encoded: Encoded) -> Array:
    into = np.empty(encoded.spec.shape, encoded.spec.dtype)
    into.reshape(-1).view(np.uint8)[...] = 0xA5
    compression.decode(encoded.spec, encoded.body, into)
    return into


def same_bits(one: Array, other: Array) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


FLOATS = {
    "bytes/256 - 0.5": picture()[None].astype(np.float32) / 256 - np.float32(0.5),
    "bytes - mean": picture()[None].astype(np.float32) - MEAN * 255,
    "mean and deviation": ((picture().astype(np.float32) / 255 - MEAN) / DEVIATION)[None],
    "channels last": np.ascontiguousarray(((picture() / np.float32(255) - MEAN) / DEVIATION).transpose(1, 2, 0)),
    "by a curve": (np.linspace(0, 1, 256) ** 2.2).astype(np.float32)[picture()],
    "float64": picture() / 255,
    "float16": picture().astype(np.float16) / np.float16(256),
    "labels": random().integers(-3, 80, (1, 80, 100)),
    "a batch": picture()[None].repeat(3, 0).astype(np.float32),
}


@pytest.mark.parametrize("codec", ["palette", "palette-zstd"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_palette_writes_what_was_bytes_as_bytes(name: str, codec: Codec) -> None:
    array = FLOATS[name]
    encoded = written(codec, array)
    assert same_bits(read(encoded), array)
    assert encoded.nbytes <= array.size + 16 + 3 * 256 * array.itemsize


def test_what_was_learned_from_a_frame_serves_those_with_other_values() -> None:
    dark, bright = (np.clip(picture()[None], *span).astype(np.float32) / 256 for span in ((0, 90), (60, 255)))
    learned = Learned()
    for frame in (dark, bright, dark):
        assert same_bits(read(written("palette-zstd", frame, learned)), frame)


def test_what_has_one_value_too_many_is_left_alone() -> None:
    array = np.arange(128 * 128, dtype=np.float32).reshape(1, 1, 128, 128) % 256
    learned = Learned()
    assert compression.encode("palette", array, learned) is not None
    array[0, 0, 77, 7] = 0.5
    assert compression.encode("palette", array, learned) is None


def test_a_value_that_arithmetic_would_take_for_its_neighbour_is_not_lost() -> None:
    array = picture()[None].astype(np.float32) / 256
    learned = Learned()
    assert compression.encode("palette", array, learned) is not None
    array[0, 1, 5, 5] = np.nextafter(array[0, 1, 5, 5], np.float32(2))
    encoded = compression.encode("palette", array, learned)
    assert encoded is None or same_bits(read(encoded), array)


@pytest.mark.parametrize("codec", LOSSLESS)
def test_signs_of_zero_and_the_bits_of_nans_are_kept(codec: Codec) -> None:
    bits = np.array([0x0000_0000, 0x8000_0000, 0x7FC0_0000, 0xFFC0_1234, 0x7FA0_0001, 0x7F80_0000, 1], np.uint32)
    array = bits[random().integers(0, 7, 8192) * (random(1).random(8192) > 0.6)].view(np.float32)
    assert same_bits(read(written(codec, array)), array)


def test_a_mask_halves_what_is_half_zero() -> None:
    array = np.maximum(random().standard_normal((1, 8, 64, 64)), 0).astype(np.float32)
    encoded = written("mask", array)
    assert same_bits(read(encoded), array)
    assert encoded.nbytes < 0.55 * array.nbytes


def test_shuffled_bytes_make_dense_floats_smaller() -> None:
    array = random().standard_normal((1, 57, 46, 82)).astype(np.float32)
    encoded = written("shuffle-zstd", array)
    assert same_bits(read(encoded), array)
    assert encoded.nbytes < 0.9 * array.nbytes


@pytest.mark.parametrize("codec", compression.FUNCTIONS)
def test_noise_is_left_alone(codec: Codec) -> None:
    array = np.frombuffer(random().bytes(40_000), np.uint64)
    assert compression.encode(codec, array, Learned()) is None


@pytest.mark.parametrize("codec", compression.FUNCTIONS)
def test_small_tensors_and_such_with_gaps_are_left_alone(codec: Codec) -> None:
    small, gaps = np.zeros(LEAST_NBYTES // 4 - 1, np.float32), np.zeros((64, 256), np.float32)[:, ::2]
    assert compression.encode(codec, small, Learned()) is None
    assert compression.encode(codec, gaps, Learned()) is None


DTYPES = ["bool", "uint8", "int16", "float16", "int32", "float32", "float64", "int64", "complex64", "complex128"]
SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 16, 33, 128]), min_size=1, max_size=4).filter(
    lambda shape: math.prod(shape) <= 20_000  # four times 128 would be 4 GiB of complex128
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Tensors of 16 to 320 KB, of any bits: few or many different ones, even or not, many of them 0."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    inner = draw(SHAPES)
    shape = (-(-LEAST_NBYTES // (dtype.itemsize * int(np.prod(inner)))), *inner)
    if draw(st.booleans()):
        shape = (*shape[1:], shape[0])
    generator = random(draw(st.integers(0, 2**32)))
    count = int(np.prod(shape))
    kind = draw(st.sampled_from(["even", "few", "many"]))
    if kind == "even" and dtype.kind in "fiu":
        values = (generator.integers(0, draw(st.sampled_from([2, 200, 256, 300])), count) * 0.37 - 5).astype(dtype)
    else:
        pool = count if kind == "many" else draw(st.sampled_from([1, 2, 255, 256, 257, 1000]))
        possible = np.frombuffer(generator.bytes(pool * dtype.itemsize), dtype)
        possible = possible != 0 if dtype.kind == "b" else possible
        values = possible[generator.integers(0, pool, count)]
    values = values.copy()
    values[generator.random(count) < draw(st.sampled_from([0.0, 0.5, 0.99]))] = 0
    return values.reshape(shape)


@settings(max_examples=80, deadline=None)
@given(st.lists(arrays(), min_size=1, max_size=2), st.sampled_from(LOSSLESS))
def test_every_tensor_comes_back_bit_by_bit_or_is_left_alone(tensors: list[Array], codec: Codec) -> None:
    learned = Learned()  # whatever it has learned from one, another is right too
    for array in (*tensors, tensors[0]):
        encoded = compression.encode(codec, array, learned)
        if encoded is not None:
            assert encoded.nbytes < array.nbytes
            assert same_bits(read(encoded), array)


def test_half_precision_errs_by_a_2048th_and_leaves_alone_what_it_cannot_hold() -> None:
    array = (random().standard_normal((57, 46, 82)) * 100).astype(np.float32)
    encoded = written("fp16", array)
    assert encoded.nbytes * 2 == array.nbytes
    assert np.all(np.abs(read(encoded) - array) <= np.abs(array) / 2048 + 6e-8)
    array[3, 4, 5] = 70_000
    assert compression.encode("fp16", array, Learned()) is None


@pytest.mark.parametrize("name", ["bytes/256 - 0.5", "channels last", "a batch"])
def test_a_jpeg_image_is_near(name: str) -> None:
    smooth = np.linspace(0, 255, 96 * 128).reshape(96, 128).astype(np.uint8)
    array = np.broadcast_to(smooth[None, None], (2, 3, 96, 128)).astype(np.float32) / 256 - np.float32(0.5)
    if name == "channels last":
        array = array.transpose(0, 2, 3, 1)
    array = np.ascontiguousarray(array)
    encoded = written("jpeg", array)
    assert encoded.nbytes < array.nbytes / 20
    assert np.abs(read(encoded) - array).max() < 12 / 256


def test_a_jpeg_image_of_bytes_stays_bytes() -> None:
    array: Any = np.ascontiguousarray(picture().transpose(1, 2, 0))
    near = read(written("jpeg", array))
    assert near.dtype == np.uint8
    assert np.abs(near.astype(int) - array).mean() < 8


def test_the_settings_names_are_the_codecs() -> None:
    assert LOSSLESS == CODECS
    assert LOSSY == ("fp16", "jpeg")
