"""Where torch's CPU operators take or give something else than its CUDA operators, which the host predicts.

Only a destination without GPU looks here. Two flat tables: functions to call in an operator's place, those for CUDA's
own operators (`emulations`) among them; and functions from an operator's results, and what was predicted for them,
to results that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from avec.destination.executors.torch.emulations import EMULATIONS
from avec.destination.executors.torch.storages import Layout
from avec.errors import InvalidArgument

Results = Sequence[Tensor | None]
NARROW = torch.float16, torch.bfloat16


def _as_predicted(results: Results, predicted: Sequence[Layout | None]) -> Results:
    """Statistics of narrow floats are float32 on CUDA; in evaluation a CPU saves none, where CUDA has room for them."""
    return [
        result if result is None or layout is None else _statistic(result, layout)
        for result, layout in zip(results, predicted, strict=True)
    ]


def _statistic(result: Tensor, layout: Layout) -> Tensor:
    if result.numel() == 0 != layout.nbytes:
        return torch.zeros(layout.shape, dtype=layout.dtype)  # nobody reads it
    return result.to(layout.dtype) if result.dtype in NARROW else result


def _with_own_statistics(
    operator: Callable[..., Any], parameters: Sequence[int], statistics: Sequence[int]
) -> Callable[..., Any]:
    """A backward operator that takes statistics of its input's dtype, unless its parameters are float32.

    The input is argument 1; parameters and statistics are told by their places.
    """

    def call(*args: Any, **named: Any) -> Any:
        dtype = args[1].dtype
        if dtype in NARROW and all(args[place] is None or args[place].dtype is dtype for place in parameters):
            args = tuple(
                each.to(dtype) if place in statistics and each is not None else each for place, each in enumerate(args)
            )
        return operator(*args, **named)

    return call


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A CPU's fast path leaves out which bag an index is in; CUDA has a size for the last offset too, if that ends."""
    arguments = scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx
    output, bags, sizes, maxima = torch.ops.aten._embedding_bag(weight, indices, offsets, *arguments)
    if bags.numel() != indices.numel():
        begins = offsets[:-1] if include_last_offset else offsets
        places = torch.arange(indices.numel(), dtype=offsets.dtype)
        bags = torch.searchsorted(begins, places, right=True).to(offsets.dtype) - 1
    sizes = torch.nn.functional.pad(sizes, (0, offsets.numel() - sizes.numel()))
    return output, bags, sizes, maxima if mode == _MAX else maxima.new_empty(0)


def _histc(self: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """CUDA counts integers too. Source: ATen/native/cuda/SummaryOps.cu, _histc_cuda_template and getBin."""
    if self.is_floating_point():
        return torch.histc(self, bins, min, max)
    values = self.flatten().long()
    low, high = int(min), int(max)
    if low == high and values.numel():
        low, high = (int(each) for each in values.aminmax())
    if low == high:
        low, high = low - 1, high + 1
    inside = values[(values >= low) & (values <= high)]
    places = ((inside - low) * bins // (high - low)).clamp(max=bins - 1)
    return places.bincount(minlength=bins).to(self.dtype)


def _histc_into(self: Tensor, *arguments: Any, out: Tensor, **named: Any) -> Tensor:
    return out.copy_(_histc(self, *arguments, **named))


def _log_sigmoid(self: Tensor) -> tuple[Tensor, Tensor]:
    """CUDA keeps nothing for the backward pass."""
    return torch.nn.functional.logsigmoid(self), self.new_empty(0)


def _log_sigmoid_into(self: Tensor, *, output: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    torch.ops.aten.log_sigmoid.out(self, out=output)
    return output, buffer


def _log_sigmoid_backward(grad_output: Tensor, self: Tensor, buffer: Tensor, **named: Any) -> Tensor:
    """A CPU's form, which reads what its forward pass keeps."""
    kept = torch.exp(-self.abs())
    result: Tensor = torch.ops.aten.log_sigmoid_backward(grad_output, self, kept, **named)
    return result


def _rows_of_csr(crow_indices: Tensor, col_indices: Tensor, **named: Any) -> Tensor:
    """A CPU's kernel writes as far as the indices say, whatever there is room for."""
    begins, ends, count = crow_indices[..., :-1], crow_indices[..., 1:], col_indices.shape[-1]
    fit = crow_indices.shape[:-1] == col_indices.shape[:-1] and not (begins > ends).any()
    if not fit or (crow_indices[..., 0] != 0).any() or (crow_indices[..., -1] != count).any():
        raise InvalidArgument(
            f"compressed indices of shape {tuple(crow_indices.shape)} that do not rise from 0 to {count}, the number"
            " of the others"
        )
    result: Tensor = _overload("_convert_indices_from_csr_to_coo", named)(crow_indices, col_indices, **named)
    return result


def _csr_of_rows(self: Tensor, size: int, **named: Any) -> Tensor:
    """A CPU's kernel writes where the indices say."""
    if self.numel() and not 0 <= self.min() <= self.max() < size:
        raise InvalidArgument(f"indices from {self.min()} to {self.max()} for {size} rows")
    result: Tensor = _overload("_convert_indices_from_coo_to_csr", named)(self, size, **named)
    return result


def _overload(name: str, named: Mapping[str, object]) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), "out" if "out" in named else "default")
    return found


_MAX = 2  # torch.nn.functional.embedding_bag(mode="max")

STAND_INS: dict[str, Callable[..., Any]] = {
    **EMULATIONS,
    "aten::_convert_indices_from_csr_to_coo": _rows_of_csr,
    "aten::_convert_indices_from_csr_to_coo.out": _rows_of_csr,
    "aten::_convert_indices_from_coo_to_csr": _csr_of_rows,
    "aten::_convert_indices_from_coo_to_csr.out": _csr_of_rows,
    "aten::_embedding_bag": _embedding_bag,
    "aten::_embedding_bag_forward_only": _embedding_bag,
    "aten::histc": _histc,
    "aten::histc.out": _histc_into,
    "aten::log_sigmoid_forward": _log_sigmoid,
    "aten::log_sigmoid_forward.output": _log_sigmoid_into,
    "aten::log_sigmoid_backward": _log_sigmoid_backward,
    "aten::log_sigmoid_backward.grad_input": _log_sigmoid_backward,
    "aten::native_layer_norm_backward": _with_own_statistics(torch.ops.aten.native_layer_norm_backward, (5, 6), (3, 4)),
    "aten::native_batch_norm_backward": _with_own_statistics(
        torch.ops.aten.native_batch_norm_backward, (2, 3, 4), (5, 6)
    ),
    "aten::batch_norm_backward": _with_own_statistics(torch.ops.aten.batch_norm_backward, (2, 3, 4), (5, 6)),
}

QUIRKS: dict[str, Callable[[Results, Sequence[Layout | None]], Results]] = {
    "aten::native_layer_norm": _as_predicted,
    "aten::native_batch_norm": _as_predicted,
    "aten::_native_batch_norm_legit": _as_predicted,
    "aten::_native_batch_norm_legit.no_stats": _as_predicted,
    "aten::_native_batch_norm_legit_no_training": _as_predicted,
    "aten::_native_batch_norm_legit_functional": _as_predicted,
    "aten::_batch_norm_with_update": _as_predicted,
    "aten::_batch_norm_with_update_functional": _as_predicted,
    "aten::_batch_norm_no_update": _as_predicted,
}
