"""From a layer of a prototxt to its source of batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.formats.caffe.message import Message

from ..randomness import UNSEEDED
from .database import DatabaseReader
from .hdf5_data import HDF5Reader
from .image_list import ImageListReader
from .memory_data import MemorySource
from .prefetching import Prefetching
from .source import Reader, Source, described
from .transformation import Transformation
from .turns import Turns
from .windows import WindowReader

MANY = 1 << 31  # tops; Caffe sets no limit for HDF5Data

_TOPS = {"Data": (1, 2), "HDF5Data": (1, MANY), "ImageData": (2, 2), "MemoryData": (2, 2), "WindowData": (2, 2)}

SOURCE_TYPES = frozenset(_TOPS)


def open_source(
    layer_parameter: Message, phase: int, seed: int, *, solver_count: int = 1, solver_rank: int = 0
) -> Source:
    """Open what a data layer reads.

    All but MemoryData are read ahead by a thread of their own, as many batches as `data_param.prefetch` says.

    Args:
        layer_parameter: a LayerParameter of today's form, of one of SOURCE_TYPES.
        phase: 0 TRAIN, 1 TEST.
        seed: of shuffling, skipping and random transformations; the same one gives the same batches. UNSEEDED gives
            other ones each time.
        solver_count, solver_rank: of caffe.set_solver_count and set_solver_rank.

    Raises:
        InvalidArgument: the layer's settings contradict each other or are missing.
        InvalidData: a file cannot be read.
        UnsupportedOperation: the layer is of another type, or a library is not installed.
    """
    _check_tops(layer_parameter)
    random = np.random.default_rng(None if seed == UNSEEDED else seed)
    turns = Turns(phase, solver_count, solver_rank)
    if layer_parameter.type == "MemoryData":
        return MemorySource(layer_parameter)
    reader = _READERS[layer_parameter.type](layer_parameter, phase, random, turns)
    return Prefetching(reader, described(layer_parameter), max(1, int(layer_parameter.data_param.prefetch)))


def _check_tops(layer: Message) -> None:
    if layer.type not in _TOPS:
        raise UnsupportedOperation(f"{described(layer)}: no data layer; those are {', '.join(sorted(_TOPS))}")
    low, high = _TOPS[layer.type]
    if not low <= len(layer.top) <= high:
        wanted = str(low) if low == high else f"{low} or more" if high == MANY else f"{low} or {high}"
        raise InvalidArgument(f"{described(layer)}: it has {len(layer.top)} tops; it takes {wanted}")


def _database(layer: Message, phase: int, random: np.random.Generator, turns: Turns) -> Reader:
    return DatabaseReader(layer, Transformation(layer, phase, random), turns)


def _image_list(layer: Message, phase: int, random: np.random.Generator, turns: Turns) -> Reader:
    return ImageListReader(layer, Transformation(layer, phase, random), random)


def _hdf5(layer: Message, phase: int, random: np.random.Generator, turns: Turns) -> Reader:
    return HDF5Reader(layer, random, turns)


def _windows(layer: Message, phase: int, random: np.random.Generator, turns: Turns) -> Reader:
    return WindowReader(layer, random)


_READERS: dict[str, Callable[[Message, int, np.random.Generator, Turns], Reader]] = {
    "Data": _database,
    "HDF5Data": _hdf5,
    "ImageData": _image_list,
    "WindowData": _windows,
}
