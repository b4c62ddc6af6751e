"""Layers of the type HDF5Output: two blobs, written into a file.

Source: caffe/src/caffe/layers/hdf5_output_layer.cpp.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self

import numpy as np

from avec.errors import InvalidArgument
from avec.formats import hdf5

from .source import Floats

AXES = 4  # of what is written; smaller arrays get axes of 1 at their end


class HDF5Output:
    """Owns one file, which is made, or emptied, when the layer is set up."""

    def __init__(self, file_name: str) -> None:
        """Make the file.

        Raises:
            InvalidData: it cannot be written.
            UnsupportedOperation: the package h5py is not installed.
        """
        self._name = file_name
        self._stack = contextlib.ExitStack()
        self._root: Any = self._stack.enter_context(hdf5.writing(file_name, file_name))

    def write(self, data: Floats, label: Floats) -> None:
        """Write the two bottoms as the datasets "data" and "label", once.

        Raises:
            InvalidArgument: they were written before (real Caffe ends the process), or their shapes do not fit.
        """
        if "data" in self._root:
            raise InvalidArgument(
                f"{self._name}: the HDF5Output layer has written this file in an earlier forward pass, and a file "
                "holds one; run the net forward once, or load it anew with another file_name"
            )
        if not data.ndim or not label.ndim or len(data) != len(label):
            raise InvalidArgument(
                f"{self._name}: data has the shape {data.shape} and label {label.shape}; both need the same batch size"
            )
        for name, values in (("data", data), ("label", label)):
            if values.ndim > AXES:
                raise InvalidArgument(
                    f"{self._name}: {name} has the shape {values.shape}; HDF5Output writes at most {AXES} axes"
                )
            shape = values.shape + (1,) * (AXES - values.ndim)
            self._root.create_dataset(name, data=np.asarray(values, np.float32).reshape(shape), dtype="<f4")
        self._root.file.flush()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
