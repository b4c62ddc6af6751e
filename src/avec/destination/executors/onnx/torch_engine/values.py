"""OrtValues that are torch tensors on the accelerator, with the native OrtValue's methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from avec.destination.executors.onnx.engine import EngineRaised, OnnxRuntime
from avec.destination.executors.onnx.torch_engine.operators import DTYPES
from avec.tensor import Array

ELEMENT_TYPES = {dtype: number for number, dtype in DTYPES.items()}
_NAMES = {
    torch.float32: "float", torch.uint8: "uint8", torch.int8: "int8", torch.int16: "int16", torch.int32: "int32",
    torch.int64: "int64", torch.bool: "bool", torch.float16: "float16", torch.float64: "double",
    torch.bfloat16: "bfloat16",
}  # fmt: skip


NUMPY_NAMES = frozenset(str(dtype).removeprefix("torch.") for dtype in DTYPES.values() if dtype != torch.bfloat16)


class TensorValue:
    """Stands for a native OrtValue; whoever asks for its class is told the native one."""

    def __init__(self, tensor: Tensor, engine: OnnxRuntime) -> None:
        self.tensor = tensor
        self._engine = engine

    @property  # type: ignore[misc]  # so that isinstance() takes it for the native one
    def __class__(self) -> Any:
        return self._engine.native.OrtValue

    def has_value(self) -> bool:
        return True

    def is_tensor(self) -> bool:
        return True

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return False

    def device_name(self) -> str:
        return "Cuda"

    def shape(self) -> list[int]:
        return list(self.tensor.shape)

    def data_type(self) -> str:
        return data_type(self.tensor.dtype)

    def element_type(self) -> int:
        return ELEMENT_TYPES[self.tensor.dtype]

    def tensor_size_in_bytes(self) -> int:
        return self.tensor.nbytes

    def numpy(self) -> Array:
        """A copy in this machine's memory."""
        return as_array(self.tensor)

    def raw_bytes(self) -> Array:
        """The contents of any type as bytes."""
        bytes_of: Array = self.tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
        return bytes_of

    def update_inplace(self, array: Array) -> None:
        """Copy an array's contents into the tensor."""
        source = torch.from_numpy(array)
        if source.dtype != self.tensor.dtype or source.numel() != self.tensor.numel():
            raise EngineRaised(
                "RuntimeError",
                f"an OrtValue of {self.data_type()} and shape {self.shape()} cannot be updated with an array of"
                f" {array.dtype} and shape {list(array.shape)}",
            )
        self.tensor.copy_(source.reshape(self.tensor.shape))

    def as_native(self) -> tuple[Any, Array]:
        """A native OrtValue on the CPU with the same contents, and the memory that it points to."""
        native = self._engine.native.OrtValue
        if self.tensor.dtype == torch.bfloat16:
            array: Array = self.tensor.contiguous().cpu().view(torch.int16).numpy()
            return native.ortvalue_from_numpy_with_onnx_type(array, self.element_type()), array
        array = as_array(self.tensor)
        return native.ortvalue_from_numpy(array, self._engine.device("cpu")), array


def data_type(dtype: torch.dtype) -> str:
    """ONNX Runtime's name of a tensor type."""
    return f"tensor({_NAMES[dtype]})"


def is_known(array: Array) -> bool:
    """Whether an array's type is one that torch and this engine have."""
    return array.dtype.isnative and array.dtype.name in NUMPY_NAMES


def as_array(tensor: Tensor) -> Array:
    """A tensor's contents in this machine's memory; waits for the accelerator."""
    if tensor.dtype == torch.bfloat16:
        raise EngineRaised("RuntimeError", "No corresponding Numpy type for Tensor Type. bfloat16")
    array: Array = tensor.contiguous().cpu().numpy()
    return array


def as_tensor(array: Array) -> Tensor:
    """View an array as a tensor; read-only memory, such as a received part's, is not written to."""
    return torch.from_numpy(array if array.flags.writeable else np.array(array))
