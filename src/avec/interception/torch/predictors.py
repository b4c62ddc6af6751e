"""Predictions of AVEC's own for popular operators, where torch has only a slow meta kernel in Python: one flat table.

The first use of such a one imports a symbolic compiler, which takes seconds. What a CUDA build of torch gives is also
told better: the strides of a convolution's results, for one. Each function takes what the operator takes, with meta
tensors, and gives NotImplemented for calls that it does not know; torch is asked then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Sizes = Sequence[int]

_NARROW = torch.float16, torch.bfloat16
# Dimensions from the innermost in memory outwards, of tensors of so many dimensions.
_CHANNELS_LAST = {4: (torch.channels_last, (1, 3, 2, 0)), 5: (torch.channels_last_3d, (1, 4, 3, 2, 0))}


def memory_format(tensor: Tensor) -> torch.memory_format:
    """What torch calls the memory format that a tensor's strides suggest. Source: c10::is_channels_last_strides_2d."""
    found = _CHANNELS_LAST.get(tensor.dim())
    if found is None or not tensor.stride(1):
        return torch.contiguous_format
    name, order = found
    least = 0
    for place in order:
        size, stride = tensor.size(place), tensor.stride(place)
        if not size or stride < least or (not place and least == tensor.stride(1)):
            return torch.contiguous_format
        least = stride * max(1, size)
    return name


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which CUDA's kernels sum up elements. Source: at::toAccumulateType."""
    return torch.float32 if dtype in _NARROW else dtype


def like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A result with the strides of its input, if that is dense. Source: torch.preserve_format."""
    within = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != within:
            return torch.empty_like(tensor, dtype=dtype)  # slow
        within *= size
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype or tensor.dtype, device="meta")


def made(shape: Sizes, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """A result of a shape."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta", memory_format=memory_format)


def like_input(self: Tensor, *others: object, **named: object) -> Tensor:
    return like(self)


def in_place(self: object, *others: object, **named: object) -> object:
    return self


def _foreach(tensors: Sequence[Tensor], *others: object, **named: object) -> Any:
    """Results like the first list, where nothing is promoted."""
    dtype = tensors[0].dtype
    if not dtype.is_floating_point or not all(each.dtype is dtype for each in tensors):
        return NotImplemented
    for other in others:
        if isinstance(other, Tensor) or isinstance(other, complex):
            return NotImplemented
        if isinstance(other, list | tuple):
            if len(other) != len(tensors) or not all(map(_alike, tensors, other)):
                return NotImplemented
    return [like(each) for each in tensors]


def _alike(tensor: Tensor, other: object) -> bool:
    if isinstance(other, Tensor):
        return other.dtype is tensor.dtype and other.shape == tensor.shape and other.stride() == tensor.stride()
    return not isinstance(other, complex)


def _where(condition: Tensor, self: Tensor, other: Tensor, *, out: Tensor | None = None) -> Any:
    operands = [each for each in (condition, self, other) if each.dim()]
    if self.dtype is not other.dtype or condition.dtype is not torch.bool or not operands:
        return NotImplemented
    first = operands[0]
    if any(each.shape != first.shape or each.stride() != first.stride() for each in operands):
        return NotImplemented
    if out is None:
        return like(first, self.dtype)
    return out if out.shape == first.shape and out.dtype is self.dtype else NotImplemented


def _filled(size: Sizes, *value: object, dtype: torch.dtype | None = None, **named: object) -> Any:
    if any(isinstance(each, Tensor) for each in value):
        return NotImplemented
    if dtype is None:
        dtype = torch.get_default_dtype() if not value else torch.tensor(value[0]).dtype
    return made(size, dtype)


def _scalar_tensor(s: complex, *, dtype: torch.dtype | None = None, **named: object) -> Tensor:
    return made((), dtype or torch.get_default_dtype())


def _arange(*bounds: Any, dtype: torch.dtype | None = None, **named: object) -> Any:
    """Source: ATen/native/RangeFactories.h, arange_check_bounds."""
    start, end, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    if not all(type(each) in (int, float) for each in bounds) or not step or (end - start) / step < 0:
        return NotImplemented
    floating = float in map(type, bounds)
    dtype = dtype or (torch.get_default_dtype() if floating else torch.int64)
    if floating and not dtype.is_floating_point:
        return NotImplemented
    return made((math.ceil((end - start) / step),), dtype)


def _native_dropout(input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    return like(input), like(input, torch.bool)


def _dropout_backward(grad_output: Tensor, mask: Tensor, scale: float) -> Any:
    return like(grad_output) if grad_output.is_floating_point() else NotImplemented


def _layer_norm(input: Tensor, normalized_shape: Sizes, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    shape, within = tuple(normalized_shape), len(normalized_shape)
    if not shape or tuple(input.shape[-within:]) != shape or not input.is_floating_point():
        return NotImplemented
    if any(each is not None and tuple(each.shape) != shape for each in (weight, bias)):
        return NotImplemented
    kept = (*input.shape[:-within], *(1 for _ in shape))
    statistic = made(kept, statistics_dtype(input.dtype))
    return made(input.shape, input.dtype), statistic, like(statistic)


def _layer_norm_backward(
    grad_out: Tensor,
    input: Tensor,
    normalized_shape: Sizes,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    return tuple(
        None if each is None or not wanted else made(each.shape, each.dtype)
        for each, wanted in zip((input, weight, bias), output_mask, strict=True)
    )


def _batch_norm(input: Tensor, weight: Tensor | None, *others: object) -> tuple[Tensor, Tensor, Tensor]:
    """Source: ATen/native/cuda/Normalization.cu, batch_norm_cuda."""
    statistic = made((input.size(1),), statistics_dtype(input.dtype))
    return like(input), statistic, like(statistic)


def _batch_norm_backward(
    grad_out: Tensor, input: Tensor, weight: Tensor | None, *others: Any
) -> tuple[Tensor | None, ...]:
    """Source: ATen/native/cuda/Normalization.cu, batch_norm_backward_cuda."""
    output_mask: Sequence[bool] = others[-1]
    parameter = input if weight is None else weight
    size = (input.size(1),)
    return (
        like(input) if output_mask[0] else None,
        made(size, parameter.dtype) if output_mask[1] else None,
        made(size, parameter.dtype) if output_mask[2] else None,
    )


def _cudnn_batch_norm_backward(input: Tensor, grad_output: Tensor, weight: Tensor, *others: Any) -> Any:
    """Source: ATen/native/cudnn/BatchNorm.cpp, cudnn_batch_norm_backward."""
    parameter = made(weight.shape, weight.dtype)
    return made(input.shape, input.dtype, memory_format(input)), parameter, like(parameter)


def _group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, group: int, eps: float
) -> Any:
    """Source: ATen/native/group_norm.cpp, native_group_norm."""
    if any(each is not None and (each.dtype is not input.dtype or each.shape != (C,)) for each in (weight, bias)):
        return NotImplemented
    if not group or C % group or input.numel() != N * C * HxW:
        return NotImplemented
    statistic = made((N, group), input.dtype)
    return made(input.shape, input.dtype), statistic, like(statistic)


def _group_norm_backward(
    grad_out: Tensor,
    input: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Source: ATen/native/group_norm.cpp, native_group_norm_backward."""
    parameter = input if weight is None else weight
    return (
        made(input.shape, input.dtype) if output_mask[0] else None,
        made((C,), parameter.dtype) if output_mask[1] else None,
        made((C,), parameter.dtype) if output_mask[2] else None,
    )


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Any:
    spatial = input.dim() - 2
    if spatial < 1 or weight.dim() != input.dim() or groups < 1:
        return NotImplemented
    _check_convolution(input, weight, bias, transposed, groups)
    stride, padding, dilation, output_padding = (
        tuple(each) * spatial if len(each) == 1 else tuple(each) for each in (stride, padding, dilation, output_padding)
    )
    sizes = []
    for size, kernel, step, pad, spread, extra in zip(
        input.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=True
    ):
        reach = spread * (kernel - 1)
        sizes.append(
            (size - 1) * step - 2 * pad + reach + extra + 1 if transposed else (size + 2 * pad - reach - 1) // step + 1
        )
    if min(sizes) < 1 or not input.numel() or not weight.numel():
        return NotImplemented
    channels = weight.size(1) * groups if transposed else weight.size(0)
    return made((input.size(0), channels, *sizes), input.dtype, _convolution_format(input, weight))


def _check_convolution(input: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, groups: int) -> None:
    """Raise what torch raises. Source: ATen/native/Convolution.cpp, check_input_same_type_as_parameters."""
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.dtype is not input.dtype:
            kinds = [
                torch.empty(0, dtype=each.dtype).type().replace("torch.", "torch.cuda.") for each in (input, parameter)
            ]
            raise RuntimeError(f"Input type ({kinds[0]}) and {name} type ({kinds[1]}) should be the same")
    expected = weight.size(0) if transposed else weight.size(1) * groups
    if input.size(1) != expected:
        raise RuntimeError(
            f"Given {f'transposed={int(transposed)}' if transposed else f'groups={groups}'}, weight of size"
            f" {list(weight.shape)}, expected input{list(input.shape)} to have {expected} channels, but got"
            f" {input.size(1)} channels instead"
        )


def _convolution_format(input: Tensor, weight: Tensor) -> torch.memory_format:
    """Source: ATen/native/ConvUtils.h, cudnn_conv_suggest_memory_format."""
    if torch.float64 in (input.dtype, weight.dtype):
        return torch.contiguous_format
    found = {memory_format(input), memory_format(weight)} - {torch.contiguous_format}
    return found.pop() if found else torch.contiguous_format


def _convolution_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, bias_sizes: Sizes | None, *others: Any
) -> tuple[Tensor | None, ...]:
    output_mask: Sequence[bool] = others[-1]
    layout = _convolution_format(input, weight)
    return (
        made(input.shape, input.dtype, layout) if output_mask[0] else None,
        made(weight.shape, weight.dtype, layout) if output_mask[1] else None,
        made((grad_output.size(1),), grad_output.dtype) if output_mask[2] else None,
    )


def _index_select(self: Tensor, dim: int, index: Tensor) -> Any:
    if not self.dim() or index.dim() > 1 or index.dtype not in (torch.int32, torch.int64):
        return NotImplemented
    if not -self.dim() <= dim < self.dim():
        return NotImplemented
    shape = list(self.shape)
    shape[dim] = index.numel()
    return made(shape, self.dtype)


def _lstm_cell(input_gates: Tensor, hidden_gates: Tensor, cx: Tensor, *biases: object) -> tuple[Tensor, Tensor, Tensor]:
    """Source: ATen/native/cuda/RNN.cu, _thnn_fused_lstm_cell_cuda."""
    state = made(cx.shape, cx.dtype)
    return state, like(state), made(input_gates.shape, input_gates.dtype)


def _gru_cell(input_gates: Tensor, hidden_gates: Tensor, hx: Tensor, *biases: object) -> tuple[Tensor, Tensor]:
    """Source: ATen/native/cuda/RNN.cu, _thnn_fused_gru_cell_cuda."""
    return made(hx.shape, hx.dtype), made((hx.size(0), hx.size(1) * 5), hx.dtype)


def _gru_cell_backward(grad_hy: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    """Source: ATen/native/cuda/RNN.cu, _thnn_fused_gru_cell_backward_cuda."""
    batch, hidden = grad_hy.size(0), grad_hy.size(1)
    gates = made((batch, hidden * 3), workspace.dtype)
    bias = made((hidden * 3,), workspace.dtype) if has_bias else None
    return (
        gates,
        like(gates),
        made(grad_hy.shape, grad_hy.dtype),
        bias,
        None if bias is None else like(bias),
    )


def _safe_softmax(self: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return made(self.shape, dtype or self.dtype)


def _log_sigmoid(self: Tensor) -> tuple[Tensor, Tensor]:
    """CUDA keeps nothing for the backward pass, where a CPU keeps a buffer. Source: ATen/native/cuda/Activation.cpp."""
    return like(self), made((0,), self.dtype)


def _log_sigmoid_into(self: Tensor, *, output: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    torch.neg(self, out=output)  # grows it
    return output, buffer


def _efficient_attention_backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *others: Any, **options: Any
) -> Any:
    """A bias that is not there has no gradient, where torch's meta kernel gives a number.

    Source: ATen/native/transformers/cuda/attention_backward.cu.
    """
    if bias is not None or options.get("shared_storage_dqdkdv"):
        return NotImplemented
    return (*(made(each.shape, each.dtype) for each in (query, key, value)), None)


def _svd(A: Tensor, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None) -> Any:
    """cuSOLVER leaves Vh row by row. Source: ATen/native/BatchLinearAlgebra.cpp, _linalg_svd."""
    if not compute_uv or A.dim() < 2 or not (A.is_floating_point() or A.is_complex()) or A.dtype in _NARROW:
        return NotImplemented
    *batch, rows, columns = A.shape
    rank = min(rows, columns)
    u = made((*batch, rows if full_matrices else rank, rows), A.dtype).mT
    vh = made((*batch, columns if full_matrices else rank, columns), A.dtype)
    return u, made((*batch, rank), A.dtype.to_real()), vh


def _cudnn_rnn_backward(
    input: Tensor,
    weight: Sequence[Tensor],
    weight_stride0: int,
    weight_buf: Tensor,
    hx: Tensor,
    cx: Tensor | None,
    *others: Any,
) -> tuple[object, ...]:
    """Source: ATen/native/cudnn/RNN.cpp, _cudnn_rnn_backward."""
    output_mask: Sequence[bool] = others[-1]
    return (
        made(input.shape, input.dtype) if output_mask[0] else None,
        made(hx.shape, hx.dtype) if output_mask[1] else None,
        made(cx.shape, cx.dtype) if output_mask[2] and cx is not None else None,
        [made(each.shape, each.dtype) for each in weight] if output_mask[3] else [],
    )


PREDICTORS: dict[str, Callable[..., Any]] = {
    "relu": like_input,
    "relu_": in_place,
    "where.self": _where,
    "where.self_out": _where,
    "zeros": _filled,
    "ones": _filled,
    "full": _filled,
    "scalar_tensor": _scalar_tensor,
    "arange": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
    "native_dropout": _native_dropout,
    "native_dropout_backward": _dropout_backward,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "cudnn_batch_norm_backward": _cudnn_batch_norm_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_backward,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "index_select": _index_select,
    "_safe_softmax": _safe_softmax,
    "log_sigmoid_forward": _log_sigmoid,
    "log_sigmoid_forward.output": _log_sigmoid_into,
    "log_sigmoid_backward": like_input,
    "_efficient_attention_backward": _efficient_attention_backward,
    "_linalg_svd": _svd,
    "_cudnn_rnn_backward": _cudnn_rnn_backward,
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_foreach_sqrt": _foreach,
    "_foreach_add.List": _foreach,
    "_foreach_add.Scalar": _foreach,
    "_foreach_mul.List": _foreach,
    "_foreach_mul.Scalar": _foreach,
    "_foreach_mul.ScalarList": _foreach,
    "_foreach_neg": _foreach,
    "_foreach_reciprocal": _foreach,
    "_foreach_add_.List": in_place,
    "_foreach_add_.Scalar": in_place,
    "_foreach_mul_.List": in_place,
    "_foreach_mul_.Scalar": in_place,
    "_foreach_mul_.Tensor": in_place,
    "_foreach_div_.ScalarList": in_place,
    "_foreach_lerp_.Scalar": in_place,
    "_foreach_addcmul_.Scalar": in_place,
    "_foreach_addcdiv_.Scalar": in_place,
    "_foreach_addcdiv_.ScalarList": in_place,
    "_fused_adamw_": in_place,
    "_fused_adam_": in_place,
    "_fused_sgd_": in_place,
    "_fused_adagrad_": in_place,
}
