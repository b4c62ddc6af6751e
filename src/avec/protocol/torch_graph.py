"""A captured graph of PyTorch operators on its way to a destination: what `LoadGraph` carries, encoded, in part 0.

A graph's values are numbered: its inputs, then its constants, then its nodes' results in order. It is called as one
entry of the stream, a Template of the operator `avec::call_graph(graph, input…)`. Not here: how either end makes one.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from avec.protocol.torch import (
    ComplexArg,
    DeviceArg,
    DTypeArg,
    LayoutArg,
    MemoryFormatArg,
    TensorMeta,
)

# Namespaces of what a node may be beside torch's own operators: functions of Python and torch on plain numbers,
# "operator::floordiv", and the choice of one result of several, "operator::getitem".
PYTHON_FUNCTIONS = {
    "operator": (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge", "and_",
        "or_", "getitem",
    ),
    "math": ("floor", "ceil", "trunc"),
    "torch": ("sym_max", "sym_min", "sym_not", "sym_float", "sym_int", "sym_ite", "sym_sum"),
}  # fmt: skip
OPERATOR_NAMESPACES = ("aten", "torchvision")
# Inductor's switches that a host may set for its graphs. None of them names a file, a command or code.
COMPILER_OPTIONS = frozenset(
    {
        "benchmark_epilogue_fusion", "conv_1x1_as_mm", "coordinate_descent_tuning", "deterministic",
        "emulate_precision_casts", "epilogue_fusion", "epilogue_fusion_first", "fallback_random",
        "layout_optimization", "max_autotune", "max_autotune_gemm", "max_autotune_pointwise", "pattern_matcher",
        "reorder_for_locality", "shape_padding", "split_reductions",
    }
)  # fmt: skip
CONSTANT_NBYTES = 1 << 16  # of one constant that travels in a graph


class ValueArg(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Value number `number` of the graph."""

    number: int


class ValuesArg(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """A list of arguments."""

    items: tuple[GraphArg, ...]


GraphArg: TypeAlias = (
    None
    | bool
    | int
    | float
    | str
    | ValueArg
    | DTypeArg
    | DeviceArg
    | LayoutArg
    | MemoryFormatArg
    | ComplexArg
    | ValuesArg
)


class Constant(msgspec.Struct, frozen=True, array_like=True):
    """A small contiguous tensor in host memory, by value: `data` is its elements in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Node(msgspec.Struct, frozen=True, array_like=True):
    """One call of an operator, "aten::add.Tensor", or of one of PYTHON_FUNCTIONS."""

    operator: str
    args: tuple[GraphArg, ...]
    kwargs: dict[str, GraphArg] = {}


class Graph(msgspec.Struct, frozen=True, array_like=True):
    """A graph in the order of its nodes' execution."""

    # What the inputs have to be; None for an integer, and for a tensor whose sizes vary from call to call. A device
    # of −1 is a tensor of no dimension in the host's own memory.
    inputs: tuple[TensorMeta | None, ...]
    constants: tuple[Constant, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]  # the values that are results; all of them tensors on an accelerator
    options: dict[str, bool] = {}  # some of COMPILER_OPTIONS
    compiled: bool = True  # else it is to be carried out operator by operator
