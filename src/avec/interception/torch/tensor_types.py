"""torch's older names for tensors on a GPU, torch.cuda.FloatTensor, which a build without CUDA has but refuses to make.

A type is a function that makes tensors and a question that isinstance asks; no tensor is of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from avec.interception.patching import Patches

_DTYPES = {
    "FloatTensor": torch.float32, "DoubleTensor": torch.float64, "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16, "ByteTensor": torch.uint8, "CharTensor": torch.int8, "ShortTensor": torch.int16,
    "IntTensor": torch.int32, "LongTensor": torch.int64, "BoolTensor": torch.bool,
}  # fmt: skip


class _TensorType(type):
    """The class of these types. Source: torch/csrc/tensor/python_tensor.cpp."""

    dtype: torch.dtype
    layout = torch.strided
    is_cuda = True
    is_sparse = False

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a tensor of sizes, of a sequence's values, or like another tensor."""
        return torch.empty(0, dtype=cls.dtype, device=kwargs.pop("device", "cuda")).new(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return (
            isinstance(instance, torch.Tensor)
            and instance.is_cuda
            and instance.dtype is cls.dtype
            and instance.layout is torch.strided
        )

    def __repr__(cls) -> str:
        return f"<class '{cls.__module__}.{cls.__name__}'>"


def patch(patches: Patches) -> None:
    """Put these types into torch.cuda, and let torch take them where it takes its own."""
    for name, dtype in _DTYPES.items():
        tensor_type = _TensorType(name, (), {"dtype": dtype, "__module__": "torch.cuda"})
        patches.replace(torch.cuda, name, lambda original, tensor_type=tensor_type: tensor_type)
    patches.replace(torch.Tensor, "type", lambda original: _type_of(original))
    patches.replace(torch._C, "_set_default_tensor_type", lambda original: _default_setter(original))


def _type_of(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], _TensorType):
            args = (f"torch.cuda.{args[0].__name__}", *args[1:])
        return original(self, *args, **kwargs)

    return type_


def _default_setter(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """A default type on a GPU is a default dtype and a default device."""
    on_gpu = False

    @functools.wraps(original)
    def set_default_tensor_type(tensor_type: Any) -> None:
        nonlocal on_gpu
        if isinstance(tensor_type, _TensorType):
            torch.set_default_dtype(tensor_type.dtype)
            torch.set_default_device("cuda")
            on_gpu = True
            return
        original(tensor_type)
        if on_gpu:
            torch.set_default_device(None)
            on_gpu = False

    return set_default_tensor_type
