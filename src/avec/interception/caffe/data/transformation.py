"""What a layer's transform_param does to each item: crop, subtract a mean, mirror, scale; in float32, as in Caffe.

Source: caffe/src/caffe/data_transformer.cpp.
"""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import InvalidArgument, InvalidData, InvalidModel
from avec.formats.caffe.caffemodel import shape_of
from avec.formats.caffe.message import Message, message_class

from .source import TRAIN, Floats, Shape, described

Item: TypeAlias = npt.NDArray[Any]  # channels x height x width, of bytes or of floats

MEAN_AXES = 4


class Transformation:
    """The settings of one layer. Random ones draw from `random`: mirroring in both phases, crops in TRAIN."""

    def __init__(self, layer: Message, phase: int, random: np.random.Generator) -> None:
        """Read the settings, and the mean file if one is named.

        Raises:
            InvalidArgument: settings contradict each other.
            InvalidData: the mean file cannot be read.
        """
        settings = layer.transform_param
        self._layer = described(layer)
        self._crop = int(settings.crop_size)
        self._scale = np.float32(settings.scale)
        self._mirror = bool(settings.mirror)
        self._random_crop = phase == TRAIN
        self._random = random
        self._mean_file = str(settings.mean_file)
        self._mean = mean_of(layer)

    def shape(self, item: Shape, source: str) -> Shape:
        """The shape that an item of this shape gets.

        Raises:
            InvalidData: it is smaller than the crop, or empty.
        """
        channels, height, width = item
        if min(item) < 1:
            raise InvalidData(f"{source}: the item is {channels} x {height} x {width}: empty; remove it")
        if min(height, width) < self._crop:
            raise InvalidData(
                f"{source}: {height} x {width} pixels are less than {self._layer}'s crop_size {self._crop}; lower it, "
                "or remove the item"
            )
        return (channels, self._crop, self._crop) if self._crop else item

    def apply(self, item_CHW: Item, out_CHW: Floats, source: str) -> None:
        """Transform one item into its place in a batch.

        Raises:
            InvalidData: its shape does not fit the batch or the mean.
        """
        shape = self.shape(item_CHW.shape, source)
        if shape != out_CHW.shape:
            raise InvalidData(
                f"{source}: the item becomes {shape}, the first one of its batch {out_CHW.shape}; give all one size "
                "(new_height and new_width, crop_size), or set batch_size: 1"
            )
        mirror = self._mirror and self._random.integers(2) == 1
        window = self._window(item_CHW.shape)
        mean = self._mean_for(item_CHW.shape, source)
        target = out_CHW[:, :, ::-1] if mirror else out_CHW
        if mean is None:
            target[...] = item_CHW[window]
        else:
            np.subtract(item_CHW[window], mean[window] if mean.shape == item_CHW.shape else mean, out=target)
        if self._scale != 1:
            out_CHW *= self._scale

    def _window(self, shape: Shape) -> tuple[slice, slice, slice]:
        if not self._crop:
            return (slice(None),) * 3
        spare = [size - self._crop for size in shape[1:]]
        offsets = [int(self._random.integers(each + 1)) if self._random_crop else each // 2 for each in spare]
        rows, columns = (slice(offset, offset + self._crop) for offset in offsets)
        return (slice(None), rows, columns)

    def _mean_for(self, shape: Shape, source: str) -> Floats | None:
        """The mean as an image of this shape, or as a value for each channel."""
        if self._mean is None:
            return None
        if self._mean_file and self._mean.shape != shape:
            raise InvalidData(
                f"{source}: the item is {shape} and the mean in {self._mean_file} {self._mean.shape}; compute the mean "
                "from this data"
            )
        if len(self._mean) not in (1, shape[0]):
            raise InvalidArgument(
                f"{self._layer}: {len(self._mean)} mean_value for {shape[0]} channels; give one, or one for each"
            )
        return self._mean


def mean_of(layer: Message) -> Floats | None:
    """What a layer's transform_param says to subtract: channels x height x width, or channels x 1 x 1, or 1 x 1 x 1.

    Raises:
        InvalidArgument: it names a file and values.
        InvalidData: the file cannot be read.
    """
    settings = layer.transform_param
    if settings.HasField("mean_file") and len(settings.mean_value):
        raise InvalidArgument(f"{described(layer)}: mean_file and mean_value are both set; keep one of them")
    if settings.HasField("mean_file"):
        return read_mean(settings.mean_file)
    if len(settings.mean_value):
        return np.asarray(settings.mean_value.as_array(), np.float32).reshape(-1, 1, 1)
    return None


def read_mean(path: str) -> Floats:
    """Read a mean image, channels x height x width, from a binaryproto.

    Raises:
        InvalidData: it cannot be read, or holds no image.
    """
    try:
        with open(path, "rb") as file:
            stored = message_class("BlobProto").from_wire(file.read(), path)
    except OSError as exc:
        raise InvalidData(
            f"{path}: the mean file cannot be opened: {exc.strerror} (working directory {os.getcwd()}); check mean_file"
        ) from exc
    except InvalidModel as exc:
        raise InvalidData(f"the mean file is no binaryproto of an image: {exc}") from exc
    shape = shape_of(stored)
    double = np.asarray(stored.double_data.as_array(), np.float32)
    values = double if double.size else np.asarray(stored.data.as_array(), np.float32)
    if len(shape) > MEAN_AXES or min(shape, default=1) < 1 or values.size != int(np.prod(shape, dtype=object)):
        raise InvalidData(
            f"{path}: the mean file holds {values.size} values and the shape {shape}, not 1 x channels x height x "
            "width; compute the mean anew with compute_image_mean"
        )
    _, channels, height, width = shape + (1,) * (MEAN_AXES - len(shape))
    return values[: channels * height * width].reshape(channels, height, width)
