"""The random .caffemodel is what Caffe reads: every layer, every shape, in the wire format."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import topologies
import weights


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def small_topology(monkeypatch: pytest.MonkeyPatch) -> list[topologies.Layer]:
    """The start of BODY_25 up to its first PReLU, so that the file stays small."""
    layers = topologies.layers("body_25")[:23]
    monkeypatch.setattr(topologies, "layers", lambda name: layers)
    return layers


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a protocol buffer message whose fields are all length-delimited."""
    position = 0
    while position < len(message):
        key, position = varint(message, position)
        assert key & 7 == 2
        length, position = varint(message, position)
        yield key >> 3, message[position : position + length]
        position += length


def varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def blob_array(blob: bytes) -> np.ndarray:
    parts = dict(fields(blob))
    (_, dims), shape, position = next(fields(parts[7])), [], 0
    while position < len(dims):
        extent, position = varint(dims, position)
        shape.append(extent)
    return np.frombuffer(parts[5], "<f4").reshape(shape)


def test_every_layer_has_its_name_type_and_parameters(small_topology: list[topologies.Layer]) -> None:
    content = weights.random_caffemodel("body_25").read_bytes()
    layers = [message for number, message in fields(content) if number == 100]
    assert len(layers) == len(small_topology)
    for message, layer in zip(layers, small_topology, strict=True):
        members = list(fields(message))
        assert (dict(members)[1].decode(), dict(members)[2].decode()) == (layer.name, layer.type)
        shapes = tuple(blob_array(content).shape for number, content in members if number == 7)
        assert shapes == layer.parameter_shapes


def test_weights_are_scaled_to_the_fan_in(small_topology: list[topologies.Layer]) -> None:
    content = weights.random_caffemodel("body_25").read_bytes()
    last_convolution = [message for number, message in fields(content) if number == 100][-2]
    kernel = blob_array(dict(reversed(list(fields(last_convolution))))[7])
    assert kernel.std() == pytest.approx(np.sqrt(2 / kernel[0].size), rel=0.01)


def test_the_file_is_kept_and_depends_on_the_seed(small_topology: list[topologies.Layer]) -> None:
    first = weights.random_caffemodel("body_25")
    written = first.stat().st_mtime_ns
    assert weights.random_caffemodel("body_25") == first
    assert first.stat().st_mtime_ns == written
    assert weights.random_caffemodel("body_25", seed=1).read_bytes() != first.read_bytes()


def test_a_failed_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full_disk(*_: object) -> Iterator[bytes]:
        yield b"a beginning"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_random_chunks", full_disk)
    with pytest.raises(OSError, match="No space left"):
        weights.random_caffemodel("coco")
    assert list((tmp_path / "openpose-example").iterdir()) == []


def test_the_generated_prototxt_is_rewritten_when_it_differs() -> None:
    path = weights.generated_prototxt("hand", 368, 368)
    path.write_text("something else")
    weights.generated_prototxt("hand", 368, 368)
    assert path.read_text() == topologies.prototxt("hand", 368, 368)
