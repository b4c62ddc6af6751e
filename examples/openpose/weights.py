"""Writes .caffemodel files, and random weights for the generated topologies: good for timing, not for finding people.

The random values are drawn as He et al. scale them, so that activations neither vanish nor overflow on the way
through; the layers that make maps are kept small, so that the maps stay under every threshold and
post-processing does not drown in noise. The files are kept in the user's cache folder.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import topologies

# Field numbers of Caffe's protocol buffer messages.
NET_NAME, NET_LAYER = 1, 100
LAYER_NAME, LAYER_TYPE, LAYER_BOTTOM, LAYER_TOP, LAYER_BLOBS = 1, 2, 3, 4, 7
BLOB_DATA, BLOB_SHAPE = 5, 7
SHAPE_DIM = 1
LENGTH_DELIMITED = 2  # the wire type of strings, messages and packed arrays

MAPS_STD = 0.0003  # of the convolutions that no activation follows: those that make maps
BIAS_STD = 0.01
PRELU_SLOPE = 0.25


def random_caffemodel(name: str, seed: int = 0) -> Path:
    """Return the path of a .caffemodel with random weights for a topology; write it on first use.

    Raises:
        ValueError: the topology is unknown.
        OSError: the cache folder cannot be written.
    """
    layers = topologies.layers(name)
    path = cache_folder() / f"{name}-random-{seed}.caffemodel"
    if not path.exists():
        _write_atomically(path, _random_chunks(name, layers, np.random.default_rng(seed)))
    return path


def generated_prototxt(name: str, height: int, width: int) -> Path:
    """Return the path of a file with a topology's prototxt for this input size; write it on first use.

    Raises:
        ValueError: the topology is unknown.
        OSError: the cache folder cannot be written.
    """
    text = topologies.prototxt(name, height, width).encode()
    path = cache_folder() / f"{name}-{width}x{height}.prototxt"
    if not path.exists() or path.read_bytes() != text:
        _write_atomically(path, [text])
    return path


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "openpose-example"


def _write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".{path.name}.{os.getpid()}.partial"
    )  # with the mode that files here get; mkstemp's is 600
    try:
        with partial.open("wb") as stream:
            stream.writelines(chunks)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_caffemodel(
    path: Path, name: str, layers: list[topologies.Layer], parameters: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Write layers with their float32 parameters, by layer name, as a .caffemodel that is complete or not there.

    Raises:
        ValueError: a layer's parameters have other shapes than it.
        OSError: the file cannot be written.
    """
    for layer in layers:
        shapes = tuple(values.shape for values in parameters.get(layer.name, ()))
        if shapes != layer.parameter_shapes:
            raise ValueError(f"layer {layer.name}: parameters of {shapes}, where it has {layer.parameter_shapes}")
    _write_atomically(path, _chunks(name, ((layer, parameters.get(layer.name, ())) for layer in layers)))


def _random_chunks(name: str, layers: list[topologies.Layer], rng: np.random.Generator) -> Iterator[bytes]:
    activated = {layer.top for layer in layers if layer.type in ("ReLU", "PReLU")}
    return _chunks(name, ((layer, _random_parameters(layer, layer.top in activated, rng)) for layer in layers))


def _chunks(name: str, layers: Iterable[tuple[topologies.Layer, Iterable[np.ndarray]]]) -> Iterator[bytes]:
    yield _field(NET_NAME, name.encode())
    for layer, parameters in layers:
        texts = [(LAYER_NAME, layer.name), (LAYER_TYPE, layer.type)]
        texts += [(LAYER_BOTTOM, bottom) for bottom in layer.bottoms] + [(LAYER_TOP, layer.top)]
        message = b"".join(_field(number, text.encode()) for number, text in texts)
        for values in parameters:
            message += _field(LAYER_BLOBS, _blob(values))
        yield _field(NET_LAYER, message)


def _random_parameters(layer: topologies.Layer, activated: bool, rng: np.random.Generator) -> Iterator[np.ndarray]:
    match layer.type:
        case "Convolution":
            kernel_shape, bias_shape = layer.parameter_shapes
            fan_in = math.prod(kernel_shape[1:])
            std = math.sqrt(2 / fan_in) if activated else MAPS_STD
            yield rng.standard_normal(kernel_shape, np.float32) * np.float32(std)
            yield rng.standard_normal(bias_shape, np.float32) * np.float32(min(std, BIAS_STD))
        case "PReLU":
            (shape,) = layer.parameter_shapes
            yield np.full(shape, PRELU_SLOPE, np.float32)


def _blob(values: np.ndarray) -> bytes:
    dims = b"".join(_varint(extent) for extent in values.shape)
    data = values.astype("<f4", copy=False).tobytes()
    return _field(BLOB_SHAPE, _field(SHAPE_DIM, dims)) + _field(BLOB_DATA, data)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
