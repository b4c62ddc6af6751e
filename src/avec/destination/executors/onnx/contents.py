"""OrtValues and what is in them: made of what a host sent, and turned into what it gets back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avec.destination.executors.onnx.engine import EngineRaised, OnnxRuntime, engine_raises
from avec.destination.executors.onnx.torch_engine.operators import DTYPES
from avec.destination.executors.onnx.torch_engine.values import TensorValue, is_known
from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.onnx import Device, Held, Info, Sparse, Typed, Value
from avec.protocol.onnx_values import ELEMENT_BITS, Packer, bytes_of, storage_nbytes, unpack, unpack_array
from avec.tensor import Array


@dataclass(frozen=True, slots=True)
class Stored:
    """An OrtValue, and the memory that it points to where it does not own it."""

    ort_value: Any
    memory: object = None


class Contents:
    """Translates between frames and the engine's values."""

    def __init__(self, engine: OnnxRuntime, held: dict[int, Stored]) -> None:
        self._engine = engine
        self._held = held

    def value(self, number: int) -> Stored:
        """The value that the host calls by a number."""
        stored = self._held.get(number)
        if stored is None:
            raise InvalidArgument(f"value {number} names nothing in this session")
        return stored

    def feed(self, value: Value, parts: Sequence[Array]) -> object:
        """What `InferenceSession.run` takes for a value; valid as long as the parts are."""
        return unpack(value, parts, lambda known: self._wrapped(known, parts))

    def stored(self, value: Value, parts: Sequence[Array], device: Device) -> Stored:
        """A value of its own memory on a device."""
        if isinstance(value, Held):
            return self.value(value.value)
        if isinstance(value, Typed):
            return Stored(self._typed(value, parts))
        if isinstance(value, Sparse):
            return self._sparse(value, parts)
        array = unpack(value, parts, lambda known: self._wrapped(known, parts))
        if not isinstance(array, np.ndarray):
            raise InvalidArgument(f"an array is needed, not {type(array).__name__}")
        if device == "cuda" and self._engine.torch_device is not None and is_known(array):
            return Stored(TensorValue(torch.from_numpy(np.array(array)).to(self._engine.torch_device), self._engine))
        if self._engine.is_host_memory(device):
            array = np.array(array, order="C")  # the parts are given back after this call
        with engine_raises():
            return Stored(self._engine.native.OrtValue.ortvalue_from_numpy(array, self._engine.device(device)), array)

    def transient(self, value: Value, parts: Sequence[Array]) -> Stored:
        """A value on the CPU that may use the parts' own memory."""
        if isinstance(value, Held | Typed | Sparse):
            return self.stored(value, parts, "cpu")
        array = unpack_array(value, parts)
        with engine_raises():
            return Stored(self._engine.native.OrtValue.ortvalue_from_numpy(array, self._engine.device("cpu")), array)

    def own(self, ort_value: Any, parts: Sequence[Array]) -> Stored:
        """Keep a result; copied where it is the very memory of an input, which is given back after this call."""
        if parts and ort_value.has_value() and ort_value.is_tensor() and ort_value.device_name().lower() == "cpu":
            info = self.info(ort_value)
            if info is not None and info.element_type not in ELEMENT_BITS and ort_value.data_type() != "tensor(string)":
                array = ort_value.numpy()
                if _shares_memory(array, parts):
                    copied = np.array(array, order="C")
                    cpu = self._engine.device("cpu")
                    return Stored(self._engine.native.OrtValue.ortvalue_from_numpy(copied, cpu), copied)
        return Stored(ort_value)

    def info(self, ort_value: Any) -> Info | None:
        """What a value is; None for all but dense tensors."""
        if not ort_value.has_value() or not ort_value.is_tensor():
            return None
        return Info(ort_value.data_type(), ort_value.element_type(), tuple(ort_value.shape()))

    def allocate(self, info: Info, device: Device) -> Stored:
        """A tensor of undefined contents."""
        if device == "cuda" and self._engine.torch_device is not None and info.element_type in DTYPES:
            return Stored(self._allocate_tensor(info, self._engine.torch_device))
        with engine_raises():
            return Stored(
                self._engine.native.OrtValue.ortvalue_from_shape_and_onnx_type(
                    list(info.shape), info.element_type, self._engine.device(device)
                )
            )

    def _allocate_tensor(self, info: Info, device: torch.device) -> TensorValue:
        try:
            tensor = torch.empty(info.shape, dtype=DTYPES[info.element_type], device=device)
        except (RuntimeError, TypeError, ValueError) as exc:  # too large, or negative
            raise EngineRaised("RuntimeError", str(exc).split("\n", 1)[0]) from exc
        return TensorValue(tensor, self._engine)

    def update(self, stored: Stored, value: Value, parts: Sequence[Array]) -> None:
        """Copy contents into a value's memory."""
        if isinstance(value, Held):
            source = self.value(value.value).ort_value
            array = source.numpy()  # onnxruntime before 1.24 copies arrays only
        else:
            array = unpack_array(value, parts)
        with engine_raises():
            stored.ort_value.update_inplace(np.ascontiguousarray(array))

    def contents(self, stored: Stored, packer: Packer, raw: bool) -> Value:
        """Pack what is in a value.

        Args:
            raw: also what OrtValue.numpy refuses: sparse tensors, and types that numpy lacks.
        """
        value = stored.ort_value
        if raw and value.is_tensor() and (element_type := value.element_type()) in ELEMENT_BITS:
            shape = tuple(value.shape())
            return Typed(packer.add(self._raw_bytes(value, element_type, shape)), element_type, shape)
        with engine_raises():
            if raw and value.is_sparse_tensor():
                return self.pack_foreign(value.as_sparse_tensor(), packer)
            return packer.pack(value.numpy())

    def results(self, results: Sequence[object], packer: Packer, parts: Sequence[Array]) -> tuple[Value, ...]:
        """Pack what a run gave; arrays that are the memory of an input are copied."""
        return tuple(
            packer.pack(each.copy() if isinstance(each, np.ndarray) and _shares_memory(each, parts) else each)
            for each in results
        )

    def packer(self) -> Packer:
        """Collects the parts of an answer."""
        packer = Packer(lambda value: self.pack_foreign(value, packer))
        return packer

    def pack_foreign(self, value: Any, packer: Packer) -> Value:
        """Pack what only ONNX Runtime knows: sparse tensors."""
        native = self._engine.native
        if not isinstance(value, native.SparseTensor):
            raise EngineRaised("RuntimeError", f"a result of type {type(value)} cannot be sent back by AVEC")
        shape, values = tuple(value.dense_shape()), packer.pack(value.values())
        if value.format == native.OrtSparseFormat.ORT_SPARSE_COO:
            return Sparse("coo", shape, values, (packer.pack(value.get_coo_data().indices()),))
        if value.format == native.OrtSparseFormat.ORT_SPARSE_CSRC:
            view = value.get_csrc_data()
            return Sparse("csr", shape, values, (packer.pack(view.inner()), packer.pack(view.outer())))
        return Sparse("block", shape, values, (packer.pack(value.get_blocksparse_data().indices()),))

    def _raw_bytes(self, value: Any, element_type: int, shape: tuple[int, ...]) -> Array:
        if isinstance(value, TensorValue):
            return value.raw_bytes()
        if value.device_name().lower() != "cpu":  # its address is none of this process's memory
            if not hasattr(self._engine.native, "copy_tensors"):
                raise UnsupportedOperation(
                    f"a value of type {value.data_type()} on cuda cannot be read with onnxruntime"
                    f" {self._engine.description.version}, which this destination has"
                )
            here = self.allocate(Info("", element_type, shape), "cpu").ort_value
            self._engine.native.copy_tensors([value], [here], None)
            value = here
        return np.frombuffer(ctypes.string_at(value.data_ptr(), storage_nbytes(element_type, shape)), np.uint8)

    def _wrapped(self, value: Typed | Sparse | Held, parts: Sequence[Array]) -> object:
        """An OrtValue as `InferenceSession.run` takes it."""
        return self._engine.module.OrtValue(self.stored(value, parts, "cpu").ort_value)

    def _typed(self, value: Typed, parts: Sequence[Array]) -> Any:
        data = bytes_of(parts, value.part)
        if data.nbytes != storage_nbytes(value.element_type, value.shape):
            raise InvalidArgument(f"a tensor of type {value.element_type}, shape {value.shape} in {data.nbytes} bytes")
        made = self.allocate(Info("", value.element_type, value.shape), "cpu").ort_value
        ctypes.memmove(made.data_ptr(), data.ctypes.data, data.nbytes)
        return made

    def _sparse(self, value: Sparse, parts: Sequence[Array]) -> Stored:
        native, cpu = self._engine.native, self._engine.device("cpu")
        values = np.array(unpack(value.values, parts, lambda known: None))
        indices = [np.array(unpack_array(each, parts)) for each in value.indices]
        make = {
            "coo": native.SparseTensor.sparse_coo_from_numpy,
            "csr": native.SparseTensor.sparse_csr_from_numpy,
            "block": native.SparseTensor.blocksparse_from_numpy,
        }[value.format]
        if len(indices) != (2 if value.format == "csr" else 1):
            raise InvalidArgument(f"a sparse tensor of format {value.format} with {len(indices)} arrays of indices")
        with engine_raises():
            sparse = make(list(value.dense_shape), values, *indices, cpu)
            return Stored(native.OrtValue.ort_value_from_sparse_tensor(sparse), (values, indices))


def _shares_memory(array: Array, parts: Sequence[Array]) -> bool:
    return any(np.may_share_memory(array, part) for part in parts)
