"""LSTM, GRU and RNN by cuDNN, where the destination has it.

torch composes them in C++ and leaves them to cuDNN by a table that is empty in a build without CUDA. Here the call of
cuDNN is composed anew, as in ATen/native/cudnn/RNN.cpp; without cuDNN torch's own composition is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .kernels import Kernels

_RELU, _TANH, _LSTM, _GRU = range(4)  # cudnnRNNMode_t
_MODES = {"rnn_relu": _RELU, "rnn_tanh": _TANH, "lstm": _LSTM, "gru": _GRU}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

aten = torch.ops.aten


class Recurrent:
    """The operators, and the states of dropout in them."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._dropout_states: dict[int, tuple[object, Tensor]] = {}  # by device, with the seeding that they are of

    def composites(self) -> dict[str, Callable[..., Any]]:
        """The operators that are composed here, by name."""
        made: dict[str, Callable[..., Any]] = {}
        for name, mode in _MODES.items():
            made[f"{name}.input"] = self._padded(name, mode)
            made[f"{name}.data"] = self._packed(name, mode)
        return made

    def _padded(self, name: str, mode: int) -> Callable[..., Any]:
        composite = getattr(aten, name).input

        def operator(input: Tensor, hx: Any, *rest: Any) -> object:  # the others as of _cudnn
            if not self._cudnn_takes(input):
                return composite._op_dk(_COMPOSITE, input, hx, *rest)
            return self._cudnn(mode, input, hx, (), *rest)

        return operator

    def _packed(self, name: str, mode: int) -> Callable[..., Any]:
        composite = getattr(aten, name).data

        def operator(data: Tensor, batch_sizes: Tensor, hx: Any, *rest: Any) -> object:
            if not self._cudnn_takes(data):
                return composite._op_dk(_COMPOSITE, data, batch_sizes, hx, *rest)
            return self._cudnn(mode, data, hx, batch_sizes.tolist(), *rest)

        return operator

    def _cudnn_takes(self, input: Tensor) -> bool:
        """Source: ATen/native/Cudnn.cpp, cudnn_is_acceptable."""
        return (
            bool(self._kernels.recording.destination.cudnn)
            and torch._C._get_cudnn_enabled()
            and input.dtype in _DTYPES
            and input.numel() > 0
        )

    def _cudnn(
        self,
        mode: int,
        input: Tensor,
        hx: Any,
        batch_sizes: Sequence[int],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool = False,
    ) -> object:
        """Source: ATen/native/cudnn/RNN.cpp, _cudnn_impl."""
        if mode == _LSTM and len(hx) != 2:
            raise RuntimeError("lstm expects two hidden states")
        hidden, cell = hx if mode == _LSTM else (hx, None)
        hidden_size = (hidden if cell is None else cell).size(2)
        projected = hidden.size(2) if hidden.size(2) != hidden_size else 0
        parameters = (4 if has_biases else 2) + (1 if projected else 0)
        output, last, last_cell, *_ = aten._cudnn_rnn(
            input, list(params), parameters, None, hidden, cell, mode, hidden_size, projected, num_layers, batch_first,
            dropout, train, bidirectional, list(batch_sizes),
            self._dropout_state(input.device, dropout) if train and dropout > 0 else None,
        )  # fmt: skip
        return (output, last, last_cell) if mode == _LSTM else (output, last)

    def _dropout_state(self, device: torch.device, dropout: float) -> Tensor:
        """The state of cuDNN's own random numbers; begun anew after each seeding of the device's generator."""
        index = torch.cuda.current_device() if device.index is None else device.index
        seeding = self._kernels.generators.seeding(index)
        known = self._dropout_states.get(index)
        if known is None or known[0] != seeding:
            seed = int(torch.empty((), dtype=torch.int64, device=device).random_().item())
            state = aten._cudnn_init_dropout_state(dropout, True, seed, dtype=torch.uint8, device=device)
            known = self._dropout_states[index] = (seeding, state)
        return known[1]
