"""caffe.io: images in and out of a net's layout, and arrays in and out of Caffe's messages; numpy alone.

Source: caffe/python/caffe/io.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import pictures, resize
from .proto import caffe_pb2

Array: TypeAlias = npt.NDArray[Any]
Message: TypeAlias = Any  # a message of caffe_pb2

_CROPS = 10  # of oversample: four corners and the centre, each also mirrored


def blobproto_to_array(blob: Message, return_diff: bool = False) -> Array:
    """A BlobProto's data, or diff, as a float64 array of its shape."""
    values = np.array(blob.diff if return_diff else blob.data, np.float64)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return values.reshape(blob.num, blob.channels, blob.height, blob.width)
    return values.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: Array, diff: Array | None = None) -> Message:
    """A BlobProto with an array's values and shape, and perhaps a diff."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(np.asarray(arr, np.float32).reshape(-1))
    if diff is not None:
        blob.diff.extend(np.asarray(diff, np.float32).reshape(-1))
    return blob


def arraylist_to_blobprotovector_str(arraylist: Sequence[Array]) -> bytes:
    """Arrays as the bytes of a BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend([array_to_blobproto(array) for array in arraylist])
    return bytes(vector.SerializeToString())


def blobprotovector_str_to_arraylist(str: bytes) -> list[Array]:
    """The arrays in the bytes of a BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.ParseFromString(str)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: Array, label: int | None = None) -> Message:
    """A Datum with a channels x height x width array: bytes for uint8, else floats."""
    if arr.ndim != 3:
        raise ValueError("Incorrect array shape.")
    datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(np.asarray(arr, np.float32).reshape(-1))
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Message) -> Array:
    """A Datum's channels x height x width array: uint8 if it holds bytes, else float64."""
    shape = (datum.channels, datum.height, datum.width)
    if len(datum.data):
        return np.frombuffer(datum.data, np.uint8).reshape(shape)
    return np.array(datum.float_data, np.float64).reshape(shape)


class Transformer:
    """Turns images into what a net's inputs take, and back; each input has its own settings."""

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        """Take input name → shape (batch, channels, height, width)."""
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: Array) -> Array:
        """Resize, transpose, swap channels, scale, subtract the mean, scale again.

        Args:
            data: one image, height x width x channels. As in pycaffe a float32 image may itself be changed.
        """
        self._check_input(in_)
        image = data.astype(np.float32, copy=False)
        size = tuple(self.inputs[in_][2:])
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_]), :, :]
        if in_ in self.raw_scale:
            image *= self.raw_scale[in_]
        if in_ in self.mean:
            image -= self.mean[in_]
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: Array) -> Array:
        """Undo preprocess, all but the resizing."""
        self._check_input(in_)
        image = data.copy().squeeze()
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            image = image.transpose(tuple(np.argsort(self.transpose[in_])))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of the image's axes, (2, 0, 1) for channels first."""
        self._check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise Exception("Transpose order needs to have the same number of dimensions as the input.")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of the channels, (2, 1, 0) for blue first; a transposition comes before it."""
        self._check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise Exception("Channel swap needs to have the same number of dimensions as the input channels.")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set the factor that comes before the mean, 255 for images that are loaded as 0..1."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """Set what is subtracted: a value for each channel, or an image, which is resized if it does not fit."""
        self._check_input(in_)
        shape = tuple(self.inputs[in_][1:])
        if mean.ndim == 1:
            if len(mean) != shape[0]:
                raise ValueError("Mean channels incompatible with input.")
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            if mean.ndim not in (2, 3):
                raise ValueError("Mean shape invalid")
            if ((1, *mean.shape) if mean.ndim == 2 else mean.shape) != shape:
                mean = _resized_mean(mean, shape[1:])
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set the factor that comes after the mean."""
        self._check_input(in_)
        self.input_scale[in_] = scale

    def _check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise Exception(f"{in_} is not one of the net inputs: {self.inputs}")


def _resized_mean(mean_CHW: Array, size: Sequence[int]) -> Array:
    low, high = float(mean_CHW.min()), float(mean_CHW.max())
    unit_HWC = ((mean_CHW - low) / (high - low)).transpose((1, 2, 0))
    return resize_image(unit_HWC, size).transpose((2, 0, 1)) * (high - low) + low


def load_image(filename: pictures.FileName, color: bool = True) -> Array:
    """Load an image as float32 in 0..1, height x width x 3 (red, green, blue), or x 1 when `color` is False.

    It needs scikit-image, pillow or OpenCV.
    """
    pixels = pictures.read(filename)
    image = pixels.astype(np.float32)
    if pixels.dtype.kind in "ui":
        image = (pixels / np.iinfo(pixels.dtype).max).astype(np.float32)
    if image.ndim == 2:
        return np.tile(image[:, :, np.newaxis], (1, 1, 3 if color else 1))
    image = image[:, :, :3]
    return image if color else (image @ np.array(pictures.GREY_OF_RGB, np.float32))[:, :, np.newaxis]


def resize_image(im: Array, new_dims: Sequence[int] | Array, interp_order: int = 1) -> Array:
    """Resize a height x width x channels image to new_dims (height, width); gives float32.

    Args:
        interp_order: 0 nearest, 1 linear, 3 cubic (for 1 or 3 channels).
    """
    height, width = int(new_dims[0]), int(new_dims[1])
    if im.shape[-1] not in (1, 3):
        return resize.as_points(im.astype(np.float32), height, width, interp_order)
    low, high = float(im.min()), float(im.max())
    if high <= low:
        return np.full((height, width, im.shape[-1]), low, np.float32)
    unit = ((im - low) / (high - low)).astype(np.float32)
    resized = np.clip(resize.as_areas(unit, height, width, interp_order), 0, 1)
    return (resized * (high - low) + low).astype(np.float32)


def oversample(images: Sequence[Array] | Array, crop_dims: Sequence[int] | Array) -> Array:
    """Cut ten crops from each image: four corners, the centre, and these mirrored. All images have one shape."""
    height, width, channels = images[0].shape
    crop_height, crop_width = (int(size) for size in crop_dims)
    bottom, right = height - crop_height, width - crop_width
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (int(bottom / 2), int(right / 2))]
    crops = np.empty((_CROPS * len(images), crop_height, crop_width, channels), np.float32)
    for number, image in enumerate(images):
        straight, mirrored = np.split(crops[_CROPS * number : _CROPS * (number + 1)], 2)
        for crop, (top, left) in zip(straight, corners, strict=True):
            crop[...] = image[top : top + crop_height, left : left + crop_width, :]
        mirrored[...] = straight[:, :, ::-1, :]
    return crops


def input_transformer(
    name: str,
    shape: Sequence[int],
    mean: Array | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """Make the Transformer that Classifier and Detector give their input: channels first, the rest as asked."""
    transformer = Transformer({name: tuple(shape)})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer
