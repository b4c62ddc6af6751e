"""Graphs in which something cannot be sent: split, so that the rest is.

What stays is carried out here, operator by operator: operators of the program's own, such as draw random numbers twice,
branches, tensors in the host's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.passes.split_module import split_module

from .fx_calls import GraphCall
from .fx_graphs import NotCaptured, capture, described
from .recording import Recording

SMALLEST = 4  # operators of a piece; fewer are as well carried out one by one


class _Piece(torch.nn.Module):
    """A graph at the destination in the place of a part of another."""

    def __init__(self, call: GraphCall, single: bool) -> None:
        super().__init__()
        self._call = call
        self._single = single

    def forward(self, *args: object) -> object:
        results = self._call(list(args))
        return results[0] if self._single else tuple(results)


def split(recording: Recording, options: Mapping[str, bool] | None, module: fx.GraphModule) -> fx.GraphModule:
    """Send what can be sent of a graph.

    Returns:
        A module that does as the graph, in part by calls of graphs at the destination.
    """
    if any(isinstance(node.meta.get("val"), torch.SymInt) for node in module.graph.nodes):
        return module
    pieces = _numbered(module.graph)
    if not any(pieces.values()):
        return module
    whole = split_module(module, module, lambda node: pieces[node], keep_original_order=True)
    for name, part in list(whole.named_children()):
        count = sum(node.op == "call_function" for node in part.graph.nodes) if isinstance(part, fx.GraphModule) else 0
        if count < SMALLEST or not isinstance(part, fx.GraphModule):
            continue
        output = next(iter(reversed(part.graph.nodes))).args[0]
        try:
            setattr(whole, name, _Piece(GraphCall(recording, capture(part, options)), not isinstance(output, tuple)))
        except NotCaptured:
            continue  # it stays as it is
    return whole


def _numbered(graph: fx.Graph) -> dict[fx.Node, int]:
    """Number the stretches of a graph by turns: the odd ones can be sent."""
    pieces: dict[fx.Node, int] = {}
    piece = 0
    values = {node: 0 for node in graph.nodes}
    for node in graph.nodes:
        if node.op == "call_function":
            if _goes_with_source(node):
                pieces[node] = pieces[node.args[0]]
                continue
            if _can_be_sent(node, values) != bool(piece % 2):
                piece += 1
        pieces[node] = piece
    return pieces


def _goes_with_source(node: fx.Node) -> bool:
    """Whether it chooses one of several results."""
    source = node.args[0] if node.args else None
    return isinstance(source, fx.Node) and not isinstance(source.meta.get("val"), torch.Tensor | None)


def _can_be_sent(node: fx.Node, values: Mapping[fx.Node, int]) -> bool:
    if any(_is_in_host_memory(each) for each in (node, *node.all_input_nodes)):
        return False
    try:
        described(node, values)
    except NotCaptured:
        return False
    return True


def _is_in_host_memory(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    flat = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(each, torch.Tensor) and each.device.type == "cpu" and each.dim() for each in flat)
