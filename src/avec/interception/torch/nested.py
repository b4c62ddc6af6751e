"""Kernels of nested CUDA tensors that CPUs and GPUs do not share (`structured`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avec.errors import UnsupportedOperation

aten = torch.ops.aten


def _to_padded_tensor(self: Tensor, padding: float, output_size: Sequence[int] | None = None) -> Tensor:
    """Source: torch.nested.to_padded_tensor."""
    parts = self.unbind()
    largest = [max((part.size(place) for part in parts), default=0) for place in range(self.dim() - 1)]
    shape = (len(parts), *largest) if output_size is None else tuple(output_size)
    padded = torch.full(shape, padding, dtype=self.dtype, device=self.device)
    for row, part in zip(padded, parts, strict=False):
        row[tuple(slice(size) for size in part.shape)].copy_(part)
    return padded


def _nested_bmm(self: Tensor, mat2: Tensor) -> Tensor:
    """Source: ATen/native/nested/cuda/NestedTensorMatmul.cu, bmm_nested_cuda."""
    products = [one @ other for one, other in zip(self.unbind(), mat2.unbind(), strict=True)]
    made: Tensor = aten._nested_tensor_from_tensor_list(products)
    return made


def _nested_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Source: ATen/native/nested/NestedTensorMath.cpp, nested_layer_norm."""
    if weight is None or bias is None:
        raise RuntimeError("NestedTensor layer_norm requires weight and bias")
    rows = input.contiguous().values().view(-1, weight.numel())
    result, mean, rstd = aten.native_layer_norm(rows, [weight.numel()], weight.flatten(), bias.flatten(), eps)
    sizes = input._nested_tensor_size()
    strides, offsets = aten._nested_compute_contiguous_strides_offsets(sizes)
    return aten._nested_view_from_buffer(result.flatten(), sizes, strides, offsets), mean, rstd


def _nested_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """An encoder's self-attention, sequence by sequence. Source: ATen/native/transformers/cuda/attention.cu."""
    if need_weights or mask is not None or query is not key or query is not value:
        raise UnsupportedOperation("attention of nested CUDA tensors with masks or weights is not forwarded")
    attended = []
    for part in query.unbind():
        heads = functional.linear(part, qkv_weight, qkv_bias).view(part.size(0), 3, num_head, -1).permute(1, 2, 0, 3)
        mixed = functional.scaled_dot_product_attention(heads[:1], heads[1:2], heads[2:])[0]
        attended.append(functional.linear(mixed.transpose(0, 1).reshape(-1, embed_dim), proj_weight, proj_bias))
    return aten._nested_tensor_from_tensor_list(attended), None


NESTED: dict[str, Callable[..., Any]] = {
    "to_padded_tensor": _to_padded_tensor,
    "bmm": _nested_bmm,
    "native_layer_norm": _nested_layer_norm,
    "_native_multi_head_attention": _nested_attention,
}
