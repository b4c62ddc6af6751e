"""scaled_dot_product_attention, by the kernel that torch would choose on the destination's accelerator.

torch composes it in C++ and asks a table there which kernel a device has; a build without CUDA has no entry for one.
Here it is composed anew, step by step as in ATen/native/transformers/attention.cpp, and the destination is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .kernels import Kernels

MATH, FLASH, EFFICIENT, CUDNN = 0, 1, 2, 3  # at::SDPBackend
_ALIGNMENT = 8  # elements, of the last dimension in the fused kernels
_BARRED = -65504.0  # what cuDNN adds to a score that is masked
_DIMENSIONS = 4  # that the fused kernels take

aten = torch.ops.aten


class Attention:
    """The operator and what the destination has answered to its questions."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._choices: dict[object, int] = {}
        self._first_order = torch._C._get_sdp_priority_order()
        kernels.recording.on_open.append(self._take_order)

    def composites(self) -> dict[str, Callable[..., Any]]:
        """The operators that are composed here, by name."""
        return {"scaled_dot_product_attention": self.scaled_dot_product_attention}

    def _take_order(self) -> None:
        """Prefer the kernels that torch prefers on the destination's accelerator, if the program has not chosen."""
        order = list(self._kernels.recording.destination.sdp_order)
        if torch._C._get_sdp_priority_order() == self._first_order and len(order) == len(self._first_order):
            torch._C._set_sdp_priority_order(order)

    def scaled_dot_product_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compose the operator. See torch.nn.functional.scaled_dot_product_attention."""
        _check(query, key, value, attn_mask, dropout_p, is_causal)
        choice = self.choice(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        mask = None if attn_mask is None else _additive(attn_mask, query.dtype, choice)
        gradients = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
        result: Tensor
        if choice == FLASH:
            size = query.size(-1)
            scale = 1 / math.sqrt(size) if scale is None else scale
            padded = (_padded(query), _padded(key), _padded(value))
            result = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=scale)[0]
            return result if result.size(-1) == size else result[..., :size]
        if choice == EFFICIENT:
            if mask is not None:
                mask = _aligned(mask).expand(query.size(0), query.size(1), query.size(2), key.size(2))
            result = aten._scaled_dot_product_efficient_attention(
                query, key, value, mask, gradients, dropout_p, is_causal, scale=scale
            )[0]
        elif choice == CUDNN:
            result = aten._scaled_dot_product_cudnn_attention(
                query, key, value, mask, gradients, dropout_p, is_causal, False, scale=scale
            )[0]
        else:
            result = aten._scaled_dot_product_attention_math(
                query, key, value, mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
            )[0]
        return result

    def choice(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> int:
        """Which kernel the destination's torch chooses, asked once for each kind. See torch._fused_sdp_choice."""
        given = [query, key, value] if attn_mask is None else [query, key, value, attn_mask]
        device = self._kernels.recording.destination.devices[query.get_device()]
        if device.kind != "cuda" or not all(each.dim() == _DIMENSIONS and each.numel() for each in given[:3]):
            return MATH
        gradients = [torch.is_grad_enabled() and each.requires_grad for each in given]
        order = torch._C._get_sdp_priority_order()
        kind = (
            *((each.dtype, each.shape, each.stride(), each.get_device()) for each in given),
            (*gradients, dropout_p > 0, is_causal, scale, enable_gqa, *order),
            torch._C._get_flash_sdp_enabled(),
            torch._C._get_mem_efficient_sdp_enabled(),
            torch._C._get_math_sdp_enabled(),
            torch._C._get_cudnn_sdp_enabled(),
            torch.are_deterministic_algorithms_enabled(),
        )
        choice = self._choices.get(kind)
        if choice is None:
            choice = self._choices[kind] = self._kernels.ask(
                "avec::sdp_choice",
                (query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, gradients, order),
            )
        return choice


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool) -> None:
    """Raise what torch raises. Source: ATen/native/transformers/attention.cpp, validate_sdpa_input."""
    if not query.dtype is key.dtype is value.dtype:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{query.dtype} key.dtype: {key.dtype} and value.dtype: {value.dtype} instead."
        )
    if not query.device == key.device == value.device:
        raise RuntimeError(
            "Expected query, key, and value to have the same device type, but got query.device: "
            f"{query.device} key.device: {key.device} and value.device: {value.device} instead."
        )
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{query.dim()} key.dim: {key.dim()} and value.dim: {value.dim()} instead."
        )
    if mask is not None and mask.dtype is not torch.bool and mask.dtype not in (query.dtype, torch.float32):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{mask.dtype} and  query.dtype: {query.dtype} instead."
        )


def _additive(mask: Tensor, dtype: torch.dtype, choice: int) -> Tensor:
    """A mask as what is added to the scores. Source: convert_boolean_attn_mask."""
    if mask.dtype is not torch.bool:
        return mask
    barred = torch.scalar_tensor(_BARRED if choice == CUDNN else -math.inf, dtype=dtype, device=mask.device)
    return torch.where(mask, torch.scalar_tensor(0.0, dtype=dtype, device=mask.device), barred)


def _padded(tensor: Tensor) -> Tensor:
    """With zeros up to a multiple of the alignment. Source: pad_last_dim."""
    excess = tensor.size(-1) % _ALIGNMENT
    return torch.nn.functional.pad(tensor, (0, _ALIGNMENT - excess)) if excess else tensor


def _aligned(mask: Tensor) -> Tensor:
    """In memory whose rows begin at multiples of the alignment. Source: preprocess_mask, pad_bias."""
    if mask.stride(-1) == 1 and not any(stride % _ALIGNMENT for stride in mask.stride()[:-1]):
        return mask
    size = mask.size(-1)
    return torch.nn.functional.pad(mask, (0, _ALIGNMENT - size % _ALIGNMENT))[..., :size]
