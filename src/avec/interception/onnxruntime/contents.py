"""What is in OrtValues and sparse tensors of this machine, packed for a destination and rebuilt from what it sends."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from avec.errors import ProtocolError, UnsupportedOperation
from avec.protocol.onnx import Held, Info, Sparse, Typed, Value
from avec.protocol.onnx_values import ELEMENT_BITS, Packer, bytes_of, storage_nbytes, unpack, unpack_array
from avec.tensor import Array

from .library import library

if TYPE_CHECKING:
    from .space import Space


class Elsewhere(ABC):
    """An OrtValue whose contents are, or were, at a destination."""

    @abstractmethod
    def pack(self, packer: Packer, at: Space) -> Value:
        """Say what this is to a destination: its number, or what is here."""


def packer(at: Space) -> Packer:
    """Packs what an application may feed; what ONNX Runtime cannot handle is refused in its words."""
    made = Packer(lambda value: _pack_foreign(value, made, at))
    return made


def pack_value(value: Any, into: Packer, at: Space) -> Value:
    """Pack a native OrtValue or one that is at a destination."""
    return value.pack(into, at) if isinstance(value, Elsewhere) else pack_native(value, into)


def pack_native(value: Any, into: Packer) -> Value:
    """Pack a native OrtValue, whose memory is here."""
    if value.is_sparse_tensor():
        return _pack_sparse(value.as_sparse_tensor(), into)
    if not value.is_tensor():
        raise UnsupportedOperation("an OrtValue of this machine that is no tensor cannot be sent to a destination")
    element_type = value.element_type()
    if element_type in ELEMENT_BITS:
        shape = tuple(value.shape())
        data = ctypes.string_at(value.data_ptr(), storage_nbytes(element_type, shape))
        return Typed(into.add(np.frombuffer(data, np.uint8)), element_type, shape)
    return into.pack_array(value.numpy())


def info_of(value: Any) -> Info:
    """What a native tensor is."""
    return Info(value.data_type(), value.element_type(), tuple(value.shape()))


def native_object(value: Typed | Sparse | Held, parts: Sequence[Array]) -> Any:
    """What the engine sent that is no array: a native OrtValue or SparseTensor."""
    native = library().native
    if isinstance(value, Held):
        raise ProtocolError("the destination sent the number of a value in the place of its contents")
    if isinstance(value, Typed):
        data = bytes_of(parts, value.part)
        if data.nbytes != storage_nbytes(value.element_type, value.shape):
            raise ProtocolError(f"a tensor of type {value.element_type}, {value.shape} came in {data.nbytes} bytes")
        made = library().from_shape_and_onnx_type(list(value.shape), value.element_type, library().cpu)
        ctypes.memmove(made.data_ptr(), data.ctypes.data, data.nbytes)
        return made
    make = {
        "coo": native.SparseTensor.sparse_coo_from_numpy,
        "csr": native.SparseTensor.sparse_csr_from_numpy,
        "block": native.SparseTensor.blocksparse_from_numpy,
    }[value.format]
    values = unpack(value.values, parts, lambda known: native_object(known, parts))
    indices = [unpack_array(each, parts) for each in value.indices]
    return make(list(value.dense_shape), values, *indices, library().cpu)


def native_value(fetched: Any) -> Any:
    """A native OrtValue of what was fetched; of an array it shares the memory."""
    native = library().native
    if isinstance(fetched, np.ndarray):
        return library().from_numpy(fetched, library().cpu)
    if isinstance(fetched, native.SparseTensor):
        return native.OrtValue.ort_value_from_sparse_tensor(fetched)
    return fetched


def _pack_foreign(value: Any, into: Packer, at: Space) -> Value:
    if isinstance(value, Elsewhere):
        return value.pack(into, at)
    if isinstance(value, library().module.OrtValue):
        return pack_value(value._ortvalue, into, at)
    raise RuntimeError(f"Unable to handle object of type {type(value)}")  # ONNX Runtime's words


def _pack_sparse(value: Any, into: Packer) -> Sparse:
    formats = library().native.OrtSparseFormat
    shape, values = tuple(value.dense_shape()), into.pack_array(value.values())
    if value.format == formats.ORT_SPARSE_COO:
        return Sparse("coo", shape, values, (into.pack_array(value.get_coo_data().indices()),))
    if value.format == formats.ORT_SPARSE_CSRC:
        view = value.get_csrc_data()
        return Sparse("csr", shape, values, (into.pack_array(view.inner()), into.pack_array(view.outer())))
    return Sparse("block", shape, values, (into.pack_array(value.get_blocksparse_data().indices()),))
