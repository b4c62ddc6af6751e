"""Operators that the generated kernels are not enough for: one small function each, in one flat table.

Each takes the Kernels and then what torch passes to the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from avec.errors import UnsupportedOperation
from avec.protocol.torch import Read

from .kernels import Kernel, Kernels
from .templates import device_index, meta_of
from .uploads import host_bytes

_CUDNN_CTC_LENGTH = 256  # of targets, which cuDNN takes no longer

SPECIAL: dict[str, Kernel] = {}
aten = torch.ops.aten
F = TypeVar("F", bound=Callable[..., object])


def special(*names: str) -> Callable[[F], F]:
    """Enter a function into the table under these operators' names."""

    def enter(function: F) -> F:
        SPECIAL.update(dict.fromkeys(names, function))
        return function

    return enter


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _stride(shape: Sequence[int], memory_format: torch.memory_format | None) -> tuple[int, ...]:
    if memory_format in (None, torch.contiguous_format, torch.preserve_format):
        return contiguous_stride(shape)
    return torch.empty(shape, device="meta", memory_format=memory_format).stride()


@special("empty.memory_format")
def _empty(
    kernels: Kernels,
    size: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    shape = tuple(size)
    stride = _stride(shape, memory_format)
    name = "aten::empty.memory_format"
    return kernels.empty(dtype or torch.get_default_dtype(), shape, stride, _index(device), name)


@special("empty_strided")
def _empty_strided(
    kernels: Kernels,
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    name = "aten::empty_strided"
    return kernels.empty(dtype or torch.get_default_dtype(), tuple(size), tuple(stride), _index(device), name)


@special("_efficientzerotensor")
def _efficientzerotensor(
    kernels: Kernels,
    size: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    return torch.zeros(tuple(size), dtype=dtype, device=device or "cuda")


def _index(device: torch.device | None) -> int:
    return device_index(device) if device is not None else torch.cuda.current_device()


@special("copy_")
def _copy(kernels: Kernels, self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if self.is_cuda and src.is_cuda:
        kernels.generated("copy_")(self, src, non_blocking)
    elif self.is_cuda:
        kernels.uploads.upload(self, src, non_blocking and src.is_pinned())
    elif self.is_contiguous() and self.dtype == src.dtype and self.shape == src.shape and not self.is_conj():
        fetch_into(kernels, src, self, later=non_blocking and self.is_pinned())
    else:
        self.copy_(fetch(kernels, src))
    return self


def fetch(kernels: Kernels, source: torch.Tensor) -> torch.Tensor:
    """Copy a tensor on the accelerator to the host; waits."""
    target = torch.empty(source.shape, dtype=source.dtype, device="cpu")
    fetch_into(kernels, source, target)
    return target


def fetch_into(kernels: Kernels, source: torch.Tensor, target: torch.Tensor, later: bool = False) -> None:
    """Copy a tensor on the accelerator into a contiguous one of the host's of the same shape and dtype.

    Args:
        later: do not wait, as on a GPU; the elements are there when anything later has been waited for.
    """
    kernels.uploads.close()
    if source.numel():
        read = Read(source.data_ptr(), meta_of(source), source.is_conj(), source.is_neg())
        reading = kernels.recording.read_later if later else kernels.recording.read
        reading(read, host_bytes(target))


@special("_local_scalar_dense")
def _local_scalar_dense(kernels: Kernels, self: torch.Tensor) -> object:
    memory = np.empty(self.dtype.itemsize, np.uint8)
    kernels.recording.read(Read(self.data_ptr(), meta_of(self), self.is_conj(), self.is_neg()), memory)
    return torch.from_numpy(memory).view(self.dtype).item()


@special("resize_")
def _resize(
    kernels: Kernels, self: torch.Tensor, size: Sequence[int], *, memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    shape = tuple(size)
    if memory_format is None and self.shape == shape:  # the strides stay, too
        return self
    kernels.resize(self, shape, _stride(shape, memory_format))
    return self


@special("_use_cudnn_ctc_loss", "_use_cudnn_ctc_loss.Tensor")
def _use_cudnn_ctc_loss(
    kernels: Kernels,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int] | torch.Tensor,
    target_lengths: Sequence[int] | torch.Tensor,
    blank: int,
) -> bool:
    """Whether cuDNN takes a loss: for lengths in host memory alone. Source: ATen/native/cudnn/LossCTC.cpp."""
    if isinstance(input_lengths, torch.Tensor) or isinstance(target_lengths, torch.Tensor):
        return False
    fits = (
        kernels.recording.destination.cudnn > 0
        and torch._C._get_cudnn_enabled()
        and (blank, targets.dim(), log_probs.dim()) == (0, 1, 3)
        and (log_probs.dtype, targets.dtype) == (torch.float32, torch.int32)
        and targets.device.type == "cpu"
        and targets.is_contiguous()
    )
    if not fits or any(length != log_probs.size(0) for length in input_lengths):
        return False
    return all(
        length < _CUDNN_CTC_LENGTH and length <= longest
        for length, longest in zip(target_lengths, input_lengths, strict=True)
    )


@special("_cudnn_rnn_flatten_weight")
def _cudnn_rnn_flatten_weight(kernels: Kernels, weight_arr: Sequence[torch.Tensor], *sizes: object) -> torch.Tensor:
    """Leave the weights where they are: their storages are the host's to name, and cuDNN gathers them in each call.

    Source: ATen/native/cudnn/RNN.cpp, which makes them views of the result.
    """
    first = weight_arr[0]
    return kernels.empty(first.dtype, (sum(each.numel() for each in weight_arr),), (1,), first.get_device())


@special("_use_miopen_ctc_loss", "_use_miopen_ctc_loss.Tensor")
def _use_miopen_ctc_loss(kernels: Kernels, *args: object) -> bool:
    return False


@special("record_stream")
def _record_stream(kernels: Kernels, self: torch.Tensor, s: object) -> None:
    """Nothing to do: the destination carries everything out in one order."""


@special(
    "quantize_per_tensor", "quantize_per_tensor.tensor_qparams", "quantize_per_tensor_dynamic", "quantize_per_channel",
    "_make_per_tensor_quantized_tensor", "_make_per_channel_quantized_tensor",
)  # fmt: skip
def _quantized(kernels: Kernels, self: torch.Tensor, *args: object, **kwargs: object) -> object:
    raise UnsupportedOperation(
        "a quantized tensor on cuda: torch's quantized dtypes cannot live at AVEC's destination; quantize on the host,"
        " tensor.cpu(), or use int8 or float8 tensors with scales of your own"
    )
