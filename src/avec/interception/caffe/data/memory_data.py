"""Layers of the type MemoryData: arrays that the program hands over with Net.set_input_arrays.

Source: caffe/src/caffe/layers/memory_data_layer.cpp; caffe/python/caffe/_caffe.cpp, Net_SetInputArrays.
"""

from __future__ import annotations

import numpy as np

from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message

from .source import Floats, Shape, Source, described, positive


class MemorySource(Source):
    """Cuts the program's arrays into batches; each batch is what the arrays hold when it is asked for."""

    def __init__(self, layer: Message) -> None:
        self._layer = described(layer)
        self._batch, *item = (
            positive(layer, "memory_data_param", name) for name in ("batch_size", "channels", "height", "width")
        )
        self._item = tuple(item)
        self._data: Floats | None = None
        self._labels = np.empty(0, np.float32)
        self._place = 0

    def shapes(self) -> list[Shape]:
        return [(self._batch, *self._item), (self._batch,)]

    def set_input_arrays(self, data: object, labels: object) -> None:
        """Take the arrays to be read from now on; they are used where they are, not copied.

        Args:
            data: float32, contiguous, count x channels x height x width, where count is a multiple of batch_size.
            labels: float32, contiguous, count x 1 x 1 x 1.

        Raises:
            RuntimeError: they are something else; the texts are pycaffe's.
        """
        checked_data = _checked("data array", data, self._item)
        checked_labels = _checked("labels array", labels, (1, 1, 1))
        if len(checked_data) != len(checked_labels):
            raise RuntimeError("data and labels must have the same first dimension")
        if len(checked_data) % self._batch or not len(checked_data):
            raise RuntimeError("first dimensions of input arrays must be a multiple of batch size")
        self._data, self._labels, self._place = checked_data, checked_labels, 0

    def next_batch(self) -> list[Floats]:
        if self._data is None:
            raise InvalidArgument(f"{self._layer}: it has no data yet; call the net's set_input_arrays before forward")
        rows = slice(self._place, self._place + self._batch)
        self._place = (self._place + self._batch) % len(self._data)
        return [self._data[rows].copy(), self._labels[rows].copy()]

    def close(self) -> None:
        self._data = None


def _checked(name: str, array: object, item: Shape) -> Floats:
    """Source: CheckContiguousArray in caffe/python/caffe/_caffe.cpp."""
    if not isinstance(array, np.ndarray):
        raise RuntimeError(f"{name} must be a numpy array, not {type(array).__name__}")
    if not array.flags.c_contiguous:
        raise RuntimeError(f"{name} must be C contiguous")
    if array.ndim != 1 + len(item):
        raise RuntimeError(f"{name} must be 4-d")
    if array.dtype != np.float32:
        raise RuntimeError(f"{name} must be float32")
    for axis, size, found in zip(("channels", "height", "width"), item, array.shape[1:], strict=True):
        if found != size:
            raise RuntimeError(f"{name} has wrong {'number of channels' if axis == 'channels' else axis}")
    return array
