"""RNN and LSTM, unrolled over time, and the LSTM's unit. Source: …/layers/recurrent_layer.cpp, lstm_layer.cpp.

Bottoms are the sequence (T, N, …), the indicators of continuation (T, N), perhaps a static input (N, …), and where
hidden states are exposed, their first values; tops are the outputs (T, N, D), and then the last hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import (
    Layer,
    ParameterSpec,
    Pass,
    Prepared,
    Shape,
    differentiated,
)

# One step: input of the gates, states before, continuation (N, 1), parameters of the recurrence → output, states after.
Unit = Callable[[Tensor, list[Tensor], Tensor, Sequence[Tensor]], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of recurrence."""

    gates: int  # sizes of the input of a unit, in outputs
    states: int
    unit: Unit
    own_parameters: Callable[[int], list[tuple[Shape, bool]]]  # after those of the inputs: shape, whether a bias


def _rnn_unit(
    gate_input: Tensor, states: list[Tensor], continues: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    recurrent, output_weight, output_bias = parameters
    hidden = torch.tanh(F.linear(states[0] * continues, recurrent) + gate_input)
    return torch.tanh(F.linear(hidden, output_weight, output_bias)), [hidden]


def _lstm_unit(
    gate_input: Tensor, states: list[Tensor], continues: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    hidden, cell = states
    cell, hidden = _cell(cell, F.linear(hidden * continues, parameters[0]) + gate_input, continues)
    return hidden, [hidden, cell]


def _cell(cell: Tensor, gates: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM's cell and hidden state from the one before and the gates' inputs i, f, o, g."""
    i, f, o, g = gates.chunk(4, -1)
    cell = continues * torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return cell, torch.sigmoid(o) * torch.tanh(cell)


RNN = Cell(1, 1, _rnn_unit, lambda d: [((d, d), False), ((d, d), False), ((d,), True)])
LSTM = Cell(4, 2, _lstm_unit, lambda d: [((4 * d, d), False)])


def _static(layer: Layer, cell: Cell) -> bool:
    exposed = cell.states if layer.setting("recurrent_param").expose_hidden else 0
    return len(layer.bottoms) > 2 + exposed


def _parameters(cell: Cell) -> Callable[[Layer, Sequence[Shape]], list[ParameterSpec]]:
    def parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
        setting = layer.setting("recurrent_param")
        layer.require(setting.num_output > 0, "num_output must be positive")
        layer.require(len(bottoms[0]) >= 2, f"the sequence must be (steps, streams, …), not shape {bottoms[0]}")
        rows = cell.gates * setting.num_output
        shapes = [((rows, math.prod(bottoms[0][2:])), False), ((rows,), True)]
        if _static(layer, cell):
            shapes.append(((rows, math.prod(bottoms[2][1:])), False))
        shapes += cell.own_parameters(setting.num_output)
        return [ParameterSpec(shape, setting.bias_filler if bias else setting.weight_filler) for shape, bias in shapes]

    return parameters


rnn_parameters, lstm_parameters = _parameters(RNN), _parameters(LSTM)


def _check(layer: Layer, bottoms: Sequence[Shape], cell: Cell, exposed: bool, static: bool) -> None:
    sequence, continues = bottoms[:2]
    layer.require(continues == sequence[:2], f"indicators of shape {continues} for a sequence of shape {sequence}")
    count = 2 + static + (cell.states if exposed else 0)
    layer.require(len(bottoms) == count, f"{len(bottoms)} bottoms; {count} are needed")
    if static:
        layer.require(bottoms[2][:1] == sequence[1:2], f"static input {bottoms[2]} for {sequence[1]} streams")
    for shape in bottoms[2 + static :]:
        wanted = (1, sequence[1], layer.setting("recurrent_param").num_output)
        layer.require(shape == wanted, f"a hidden state of shape {shape}; {wanted} is needed")


def _recurrent(layer: Layer, bottoms: Sequence[Shape], device: torch.device, cell: Cell) -> Prepared:
    setting = layer.setting("recurrent_param")
    steps, streams = bottoms[0][:2]
    exposed, static, size = setting.expose_hidden, _static(layer, cell), setting.num_output
    _check(layer, bottoms, cell, exposed, static)
    names = [f"state{place}" for place in range(cell.states)]
    fixed = 2 + static

    def unrolled(*tensors: Tensor) -> list[Tensor]:
        """Bottoms, first states, parameters → output, last states."""
        sequence, continues = tensors[:2]
        states = [state.view(streams, size) for state in tensors[fixed : fixed + cell.states]]
        weight, bias, *rest = tensors[fixed + cell.states :]
        inputs = F.linear(sequence.reshape(steps, streams, -1), weight, bias)
        if static:
            inputs = inputs + F.linear(tensors[2].reshape(streams, -1), rest.pop(0))
        outputs = []
        for step in range(steps):
            output, states = cell.unit(inputs[step], states, continues[step].unsqueeze(1), rest)
            outputs.append(output)
        return [torch.stack(outputs), *(state.unsqueeze(0) for state in states)]

    def first_states(tensors: Sequence[Tensor]) -> list[Tensor]:
        if exposed:
            return list(tensors[fixed : fixed + cell.states])
        zeros = torch.zeros((1, streams, size), device=device)
        return [found if (found := layer.state.get(name, zeros)).shape == zeros.shape else zeros for name in names]

    def operation(*tensors: Tensor) -> Tensor | list[Tensor]:
        states = first_states(tensors)
        layer.state.update({f"first {name}": state for name, state in zip(names, states, strict=True)})
        parameters = tensors[fixed + (cell.states if exposed else 0) :]
        output, *last = unrolled(*tensors[:fixed], *states, *parameters)
        layer.state.update(zip(names, last, strict=True))
        return [output, *last] if exposed else output

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        """Through the outputs only: neither first nor last states take part. Source: RecurrentLayer::LayerSetUp."""
        states = [layer.kept(f"first {name}") for name in names]
        blank = [False] * cell.states
        wanted = (True, False, *([True] * static), *blank, *given.wanted[len(given.bottoms) :])
        part = Pass([*given.bottoms[:fixed], *states], [], given.diffs[:1], given.parameters, wanted)
        found = differentiated(lambda *tensors: unrolled(*tensors)[:1])(part)
        return [*found[:fixed], *([None] * (len(given.bottoms) - fixed)), *found[fixed + cell.states :]]

    state = (1, streams, size)
    tops = [(steps, streams, size), *([state] * cell.states if exposed else [])]
    return Prepared(operation, tops, gradient, scribbles=frozenset({0, 2} if static else {0}))


def rnn(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    return _recurrent(layer, bottoms, device, RNN)


def lstm(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    return _recurrent(layer, bottoms, device, LSTM)


def lstm_unit(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """One step of an LSTM: the cell before, the gates' inputs, the continuation → the cell and the hidden state."""
    cell, gates, continues = bottoms
    layer.require(len(cell) == 3 and cell[0] == 1, f"the cell must be (1, streams, size), not shape {cell}")
    layer.require(gates == (1, cell[1], 4 * cell[2]), f"the gates have shape {gates} for a cell of shape {cell}")
    layer.require(continues == cell[:2], f"the continuation has shape {continues} for a cell of shape {cell}")

    def operation(cell: Tensor, gates: Tensor, continues: Tensor) -> Sequence[Tensor]:
        return _cell(cell, gates, continues.unsqueeze(-1))

    return Prepared(operation, [cell, cell])
