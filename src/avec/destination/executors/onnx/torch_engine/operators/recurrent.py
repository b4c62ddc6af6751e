"""LSTM, GRU and RNN, as torch's own layers compute them. Source: onnx/docs/Operators.md

Forms that torch's layers do not have are refused: peepholes, clipping, other activations, sequences of unlike lengths,
and a GRU that resets before its linear step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    given,
    optional,
)

# ONNX's gates in torch's order. ONNX: LSTM i o f c, GRU z r h; torch: i f g o, r z n.
_LSTM_GATES, _GRU_GATES, _RNN_GATES = (0, 2, 3, 1), (1, 0, 2), (0,)
_PLAIN_ACTIVATIONS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}


def _check(node: Node, inputs: Inputs, others: Sequence[int] = ()) -> None:
    activations = node.attributes.get("activations")
    plain = _PLAIN_ACTIVATIONS[node.kind]
    if activations is not None and tuple(activations) not in (plain, plain * 2):  # type: ignore[arg-type]
        raise node.refuse(f"with activations {activations}")
    if "clip" in node.attributes or node.integer("input_forget", 0):
        raise node.refuse("with clipping, or coupled gates")
    if optional(inputs, 4) is not None or any(optional(inputs, place) is not None for place in others):
        raise node.refuse("with lengths of sequences, or peepholes")


def _weights(inputs: Inputs, gates: Sequence[int]) -> list[Tensor]:
    """The parameters as torch wants them: of each direction, W, R, and their biases."""
    kernels, recurrences, biases = given(inputs, 1), given(inputs, 2), optional(inputs, 3)
    flat: list[Tensor] = []
    for direction in range(kernels.shape[0]):
        flat += [_reordered(kernels[direction], gates), _reordered(recurrences[direction], gates)]
        if biases is not None:
            of_input, of_state = biases[direction].chunk(2)
            flat += [_reordered(of_input, gates), _reordered(of_state, gates)]
    return flat


def _reordered(parameter: Tensor, gates: Sequence[int]) -> Tensor:
    blocks = parameter.chunk(len(gates))
    return torch.cat([blocks[gate] for gate in gates])


def _run(node: Node, inputs: Inputs, gates: Sequence[int], states: int) -> tuple[Tensor, ...]:
    x, batch_first = given(inputs, 0), node.integer("layout", 0)
    x = x.transpose(0, 1) if batch_first else x
    direction, hidden = node.text("direction", "forward"), given(inputs, 2).shape[2]
    directions = given(inputs, 1).shape[0]
    initial = [_initial(inputs, 5 + place, directions, x, hidden, bool(batch_first)) for place in range(states)]
    reverse = direction == "reverse"
    flat, biased = _weights(inputs, gates), optional(inputs, 3) is not None
    settings = (flat, biased, 1, 0.0, False, direction == "bidirectional", False)
    source = x.flip(0) if reverse else x
    if node.kind == "LSTM":
        output, *final = torch.lstm(source, initial, *settings)
    else:
        layer = torch.gru if node.kind == "GRU" else torch.rnn_tanh
        output, *final = layer(source, initial[0], *settings)
    output = output.flip(0) if reverse else output
    output = output.reshape(*output.shape[:2], directions, hidden).transpose(1, 2)
    if batch_first:
        return output.permute(2, 0, 1, 3), *(each.transpose(0, 1) for each in final)
    return output, *final


def _initial(inputs: Inputs, place: int, directions: int, x: Tensor, hidden: int, batch_first: bool) -> Tensor:
    state = optional(inputs, place)
    if state is None:
        return x.new_zeros(directions, x.shape[1], hidden)
    return (state.transpose(0, 1) if batch_first else state).contiguous()


def _lstm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    _check(node, inputs, (7,))
    return _run(node, inputs, _LSTM_GATES, 2)


def _gru(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    _check(node, inputs)
    if not node.integer("linear_before_reset", 0) and not _is_zero_state(node, inputs):
        raise node.refuse("that resets before its linear step")
    return _run(node, inputs, _GRU_GATES, 1)


def _is_zero_state(node: Node, inputs: Inputs) -> bool:
    """One step from no state, without a bias: then it is the same on either side of the linear step."""
    steps = given(inputs, 0).shape[1 if node.integer("layout", 0) else 0]
    return steps == 1 and optional(inputs, 5) is None and optional(inputs, 3) is None


def _rnn(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    _check(node, inputs)
    return _run(node, inputs, _RNN_GATES, 1)


OPERATORS: dict[str, Operator] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
