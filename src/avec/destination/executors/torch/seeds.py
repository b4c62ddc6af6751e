"""Attention's random seeds, which torch keeps in host memory, but on the GPU where a CUDA graph made them.

The backward operator reads them there, according to whether it is part of a graph itself. Where the forward operator
was replayed and the backward one is not, they have to move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _with_seeds_on_host(operator: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
    """An operator whose seeds are the arguments at these places."""

    def call(*args: Any, **named: Any) -> Any:
        if not torch.cuda.is_current_stream_capturing():
            args = tuple(
                each.cpu() if place in places and _is_on_gpu(each) else each for place, each in enumerate(args)
            )
        return operator(*args, **named)

    return call


def _is_on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cuda


def _places(operator: Any) -> tuple[int, ...]:
    return tuple(
        place
        for place, argument in enumerate(operator.default._schema.arguments)
        if argument.name in ("philox_seed", "philox_offset", "seed", "offset")
    )


# Source: ATen/native/transformers/cuda/attention_backward.cu, _efficient_attention_backward.
SEEDED: dict[str, Callable[..., Any]] = {
    f"aten::{operator.__name__}": _with_seeds_on_host(operator.default._op, _places(operator))
    for operator in (
        torch.ops.aten._efficient_attention_backward,
        torch.ops.aten._scaled_dot_product_efficient_attention_backward,
    )
}
