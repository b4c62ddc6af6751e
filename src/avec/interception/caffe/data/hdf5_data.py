"""Layers of the type HDF5Data: datasets named as the layer's tops, in one file or several.

Source: caffe/src/caffe/layers/hdf5_data_layer.cpp.
"""

from __future__ import annotations

import os

import numpy as np

from avec.errors import InvalidArgument, InvalidData
from avec.formats import hdf5
from avec.formats.caffe.message import Message

from .source import Floats, Shape, described, positive
from .turns import Turns


class HDF5Reader:
    """Holds one file's datasets in memory at a time, as Caffe does."""

    def __init__(self, layer: Message, random: np.random.Generator, turns: Turns) -> None:
        settings = layer.hdf5_data_param
        if layer.HasField("transform_param"):
            raise InvalidArgument(f"{described(layer)}: HDF5Data does not transform; remove transform_param")
        self._batch = positive(layer, "hdf5_data_param", "batch_size")
        self._tops = [str(top) for top in layer.top]
        self._shuffle = bool(settings.shuffle)
        self._random = random
        self._turns = turns
        self._files = _listed(layer)
        self._order = self._permuted(len(self._files))
        self._file = self._row = 0
        self._values: list[Floats] = []  # of the file that is read, one array for each top
        self._rows: list[int] = []  # in the order in which they are read
        self._widths: list[Shape] = []  # of one row of each top, as the first file has them
        self._load()

    def shapes(self) -> list[Shape]:
        return [(self._batch, *width) for width in self._widths]

    def read(self) -> list[Floats]:
        batch = [np.empty(shape, np.float32) for shape in self.shapes()]
        for place in range(self._batch):
            self._turns.await_own(self._advance)
            row = self._rows[self._row]
            for top, values in zip(batch, self._values, strict=True):
                top[place] = values[row]
            self._advance()
            self._turns.next()
        return batch

    def close(self) -> None:
        self._values = []

    def _advance(self) -> None:
        self._row += 1
        if self._row < len(self._rows):
            return
        self._row = 0
        if len(self._files) > 1:
            self._file += 1
            if self._file == len(self._files):
                self._file = 0
                self._order = self._permuted(len(self._files))
            self._load()
        elif self._shuffle:
            self._rows = self._permuted(len(self._rows))

    def _load(self) -> None:
        path = self._files[self._order[self._file]]
        with hdf5.reading(path, path) as root:
            self._values = [hdf5.floats(root, top, path) for top in self._tops]
        self._check(path)
        self._rows = self._permuted(len(self._values[0]))

    def _check(self, path: str) -> None:
        for top, values in zip(self._tops, self._values, strict=True):
            if not values.ndim or not len(values):
                raise InvalidData(
                    f"{path}: dataset {top!r} has the shape {values.shape}: no rows; add some, or remove it"
                )
            if len(values) != len(self._values[0]):
                raise InvalidData(
                    f"{path}: dataset {top!r} has {len(values)} rows and {self._tops[0]!r} {len(self._values[0])}; "
                    "write the same number of rows into both"
                )
        widths = [values.shape[1:] for values in self._values]
        if self._widths and widths != self._widths:
            raise InvalidData(
                f"{path}: its rows have the shapes {widths} and those of the first file {self._widths}; give all files "
                "rows of one shape"
            )
        self._widths = widths

    def _permuted(self, count: int) -> list[int]:
        if not self._shuffle:
            return list(range(count))
        return [int(each) for each in self._random.permutation(count)]


def _listed(layer: Message) -> list[str]:
    source = str(layer.hdf5_data_param.source)
    try:
        with open(source, "rb") as file:
            names = [os.fsdecode(name) for name in file.read().split()]
    except OSError as exc:
        raise InvalidData(
            f"{described(layer)}: its source {source!r} cannot be opened: {exc.strerror} (working directory "
            f"{os.getcwd()}); name a text file that lists HDF5 files"
        ) from exc
    if any("\0" in name or name.startswith("\udc89HDF") for name in names[:1]):
        raise InvalidData(
            f"{source}: this is a binary file; the source of HDF5Data is a text file that lists HDF5 files"
        )
    if not names:
        raise InvalidData(f"{source}: the list is empty; write one HDF5 file's name on each line")
    return names
