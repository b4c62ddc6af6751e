"""Operators that torch has for CUDA alone, in terms of others, for a destination without GPU: one flat table.

A host issues what a program would on a GPU: torch chooses these there by itself, without being asked. What a program
has to ask for by name (sparse semi-structured products, quantised attention …) is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _lstm_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    cx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Source: ATen/native/cuda/RNN.cu, lstm_cell_forward."""
    gates = input_gates + hidden_gates
    if input_bias is not None and hidden_bias is not None:
        gates = gates + input_bias + hidden_bias
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat((i, f, g, o), 1)


def _lstm_cell_backward(
    grad_hy: Tensor | None, grad_cy: Tensor | None, cx: Tensor, cy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Source: ATen/native/cuda/RNN.cu, lstm_cell_backward."""
    if grad_hy is None and grad_cy is None:
        return None, None, None
    i, f, g, o = workspace.chunk(4, 1)
    hidden = torch.zeros_like(cy) if grad_hy is None else grad_hy
    squashed = cy.tanh()
    cell = hidden * o * (1 - squashed * squashed)
    cell = cell if grad_cy is None else cell + grad_cy
    gates = torch.cat(
        (cell * g * (1 - i) * i, cell * cx * (1 - f) * f, cell * i * (1 - g * g), hidden * squashed * (1 - o) * o), 1
    )
    return gates, cell * f, gates.sum(0) if has_bias else None


def _gru_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    hx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Source: ATen/native/cuda/RNN.cu, gru_cell_forward."""
    if input_bias is not None and hidden_bias is not None:
        input_gates, hidden_gates = input_gates + input_bias, hidden_gates + hidden_bias
    (input_r, input_z, input_n), (hidden_r, hidden_z, hidden_n) = input_gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    reset, update = (input_r + hidden_r).sigmoid(), (input_z + hidden_z).sigmoid()
    new = (input_n + reset * hidden_n).tanh()
    return new + update * (hx - new), torch.cat((reset, update, new, hx, hidden_n), 1)


def _gru_cell_backward(
    grad_hy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Source: ATen/native/cuda/RNN.cu, gru_cell_backward."""
    reset, update, new, hx, hidden_n = workspace.chunk(5, 1)
    grad_update = grad_hy * (hx - new) * (1 - update) * update
    grad_new = grad_hy * (1 - update) * (1 - new * new)
    grad_reset = grad_new * hidden_n * (1 - reset) * reset
    of_input = torch.cat((grad_reset, grad_update, grad_new), 1)
    of_hidden = torch.cat((grad_reset, grad_update, grad_new * reset), 1)
    biases = (of_input.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_input, of_hidden, grad_hy * update, *biases


def _fused_dropout(self: Tensor, p: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """`p` is the probability to keep. Source: ATen/native/cuda/Dropout.cu."""
    mask = torch.empty_like(self, dtype=torch.uint8).bernoulli_(p, generator=generator)
    return self * mask * (1 / p), mask


def _masked_scale(self: Tensor, mask: Tensor, scale: float) -> Tensor:
    return self * mask * scale


def _rms_norm_backward(
    grad_out: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    rstd: Tensor,
    weight: Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Source: ATen/native/cuda/layer_norm_kernel.cu, _fused_rms_norm_backward_cuda."""
    within = list(range(input.dim() - len(normalized_shape), input.dim()))
    grad, normal = grad_out.to(rstd.dtype), input.to(rstd.dtype) * rstd
    scaled = grad if weight is None else grad * weight.to(rstd.dtype)
    grad_input = (scaled - normal * (scaled * normal).mean(within, keepdim=True)) * rstd
    before = list(range(within[0]))
    grad_weight = (grad * normal).sum(before) if before else grad * normal
    return (
        grad_input.to(input.dtype) if output_mask[0] else None,
        grad_weight.to(weight.dtype) if output_mask[1] and weight is not None else None,
    )


def _batch_norm_into(*args: Any, out: Tensor, save_mean: Tensor, save_invstd: Tensor) -> tuple[Tensor, ...]:
    """The CPU's own, with the statistics in the type that they are wanted in."""
    targets = out, save_mean, save_invstd
    for target, result in zip(targets, torch.ops.aten.native_batch_norm(*args), strict=True):
        if result.numel():
            target.copy_(result)
    return targets


def _in_dtype(product: Callable[..., Tensor], tensors: int) -> Callable[..., Tensor]:
    """A product of narrow numbers whose result is wider: the numbers are widened first."""

    def widened(*args: Any, beta: float = 1, alpha: float = 1) -> Tensor:
        operands = [operand.to(args[tensors]) for operand in args[:tensors]]
        return product(*operands, beta=beta, alpha=alpha) if tensors == 3 else product(*operands)

    return widened


def _into(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator that writes into what is given as `out`."""

    def into(*args: Any, out: Tensor, **named: Any) -> Tensor:
        return out.copy_(operator(*args, **named))

    return into


def _softmax_in_float(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A softmax of halves whose result is float32, as autocast asks for on CUDA: the halves are widened first."""

    def softmax(self: Tensor, dim: int, half_to_float: bool, **out: Tensor) -> Tensor:
        return operator(self.float() if half_to_float else self, dim, False, **out)

    return softmax


def _softmax_backward_in_float(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Its derivative: float32 gradients become halves at the end."""

    def softmax_backward(grad_output: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
        return operator(grad_output, output, dim, grad_output.dtype).to(input_dtype)

    return softmax_backward


def _no_cudnn(*args: object, **named: object) -> bool:
    return False


EMULATIONS: dict[str, Callable[..., object]] = {
    "aten::_thnn_fused_lstm_cell": _lstm_cell,
    "aten::_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
    "aten::_thnn_fused_gru_cell": _gru_cell,
    "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "aten::_fused_dropout": _fused_dropout,
    "aten::_masked_scale": _masked_scale,
    "aten::_fused_rms_norm_backward": _rms_norm_backward,
    "aten::native_batch_norm.out": _batch_norm_into,
    "aten::mm.dtype": _in_dtype(torch.mm, 2),
    "aten::mm.dtype_out": _into(_in_dtype(torch.mm, 2)),
    "aten::bmm.dtype_out": _into(_in_dtype(torch.bmm, 2)),
    "aten::addmm.dtype_out": _into(_in_dtype(torch.addmm, 3)),
    "aten::baddbmm.dtype_out": _into(_in_dtype(torch.baddbmm, 3)),
    "aten::bmm.dtype": _in_dtype(torch.bmm, 2),
    "aten::addmm.dtype": _in_dtype(torch.addmm, 3),
    "aten::baddbmm.dtype": _in_dtype(torch.baddbmm, 3),
    "aten::_softmax": _softmax_in_float(torch.ops.aten._softmax.default),
    "aten::_softmax.out": _softmax_in_float(torch.ops.aten._softmax.out),
    "aten::_log_softmax": _softmax_in_float(torch.ops.aten._log_softmax.default),
    "aten::_log_softmax.out": _softmax_in_float(torch.ops.aten._log_softmax.out),
    "aten::_softmax_backward_data": _softmax_backward_in_float(torch.ops.aten._softmax_backward_data.default),
    "aten::_log_softmax_backward_data": _softmax_backward_in_float(torch.ops.aten._log_softmax_backward_data.default),
    "aten::_use_cudnn_ctc_loss": _no_cudnn,
    "aten::_use_cudnn_ctc_loss.Tensor": _no_cudnn,
}
