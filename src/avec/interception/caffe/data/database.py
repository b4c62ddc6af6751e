"""Layers of the type Data: records of an LMDB, each a Datum.

As in Caffe 1.0, `rand_skip` of data_param has no effect. Source: caffe/src/caffe/layers/data_layer.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from avec.errors import InvalidArgument, InvalidData, InvalidModel, UnsupportedOperation
from avec.formats.caffe import wire
from avec.formats.caffe.message import Message
from avec.formats.caffe.schema import MESSAGES, Plain
from avec.formats.lmdb import Records

from . import images
from .source import Floats, Shape, described, positive
from .transformation import Transformation
from .turns import Turns

_DATUM = MESSAGES["Datum"]


class DatabaseReader:
    """Owns the reading of one database for one layer."""

    def __init__(self, layer: Message, transformation: Transformation, turns: Turns) -> None:
        settings = layer.data_param
        self._batch = positive(layer, "data_param", "batch_size")
        self._labels = len(layer.top) == 2
        self._transformation = transformation
        self._turns = turns
        self._flags = _flags(layer)
        self._path = str(settings.source)
        if settings.backend == type(settings).LEVELDB:
            raise UnsupportedOperation(
                f"{described(layer)}: {self._path}: LevelDB is not supported; write the data as LMDB (convert_imageset "
                "--backend=lmdb) and set backend: LMDB, for LEVELDB is what data_param has without it"
            )
        self._records = Records(self._path)
        try:
            self._shapes = self._read_shapes()
        except BaseException:
            self._records.close()
            raise

    def _read_shapes(self) -> list[Shape]:
        key, value = self._records.record()
        source = self._place(key)
        item, _ = self._item(value, source)
        data = (self._batch, *self._transformation.shape(item.shape, source))
        return [data, (self._batch,)] if self._labels else [data]

    def shapes(self) -> list[Shape]:
        return self._shapes

    def read(self) -> list[Floats]:
        labels = np.empty(self._batch, np.float32)
        data = np.empty(0, np.float32)
        for place in range(self._batch):
            self._turns.await_own(self._records.advance)
            key, value = self._records.record()
            source = self._place(key)
            item, labels[place] = self._item(value, source)
            if place == 0:  # a batch of one may have another size than the one before
                data = np.empty((self._batch, *self._transformation.shape(item.shape, source)), np.float32)
            self._transformation.apply(item, data[place], source)
            self._records.advance()
            self._turns.next()
        return [data, labels] if self._labels else [data]

    def close(self) -> None:
        self._records.close()

    def _place(self, key: bytes) -> str:
        return f"{self._path}, record {key.decode('ascii', 'backslashreplace')!r}"

    def _item(self, value: memoryview, source: str) -> tuple[npt.NDArray[Any], int]:
        """A record's pixels, channels x height x width, and its label."""
        try:
            datum = wire.decode(_DATUM, value, source)
        except InvalidModel as exc:
            raise InvalidData(f"the record is no Datum of Caffe's: {exc}") from exc
        label = int(datum.get("label", 0))  # type: ignore[arg-type]
        if datum.get("encoded"):
            picture = images.decode(bytes(datum.get("data", b"")), self._flags, source)  # type: ignore[arg-type]
            return images.channels_first(picture), label
        return _pixels(datum, source), label


def _flags(layer: Message) -> images.Colour:
    """How encoded images are to be decoded."""
    settings = layer.transform_param
    if settings.force_color and settings.force_gray:
        raise InvalidArgument(f"{described(layer)}: force_color and force_gray are both set; keep one of them")
    if settings.force_color:
        return images.Colour.COLOUR
    return images.Colour.GREY if settings.force_gray else images.Colour.UNCHANGED


def _pixels(datum: Plain, source: str) -> npt.NDArray[Any]:
    shape = tuple(int(datum.get(name, 0)) for name in ("channels", "height", "width"))  # type: ignore[arg-type]
    raw = bytes(datum.get("data", b""))  # type: ignore[arg-type]
    values = np.frombuffer(raw, np.uint8) if raw else np.asarray(datum.get("float_data", ()), np.float32)
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise InvalidData(
            f"{source}: the Datum holds {values.size} values and says {shape[0]} x {shape[1]} x {shape[2]} (channels, "
            "height, width); write the record anew, or set encoded if it holds a compressed image"
        )
    return values.reshape(shape)
