"""Graphs that a host's torch has captured: built anew as FX modules, compiled where a compiler works, and called.

A graph is looked at when it is called first, so that what is wrong with it is the failure of an operator of the
stream. Not here: what a call's addresses mean (`storages`), whether results are as predicted (`templates`).
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, fx

from avec.destination.executors.torch.compilers import Compiled, compiled
from avec.destination.executors.torch.constants import constant_of
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.operators import resolve
from avec.destination.executors.torch.quirks import QUIRKS, STAND_INS
from avec.destination.executors.torch.storages import Layout, named_dtype
from avec.errors import InvalidArgument
from avec.protocol.torch import (
    HOST,
    Arg,
    HostScalarArg,
    IntArg,
    TensorArg,
)
from avec.protocol.torch_graph import (
    CONSTANT_NBYTES,
    OPERATOR_NAMESPACES,
    PYTHON_FUNCTIONS,
    Constant,
    Graph,
    GraphArg,
    Node,
    ValueArg,
    ValuesArg,
)
from avec.tensor import Array

LIMIT = 1 << 12  # graphs of one session

_GRAPHS = msgspec.msgpack.Decoder(Graph)
_MODULES = {"operator": operator, "math": math, "torch": torch}

log = logging.getLogger("avec.destination")


class Graphs:
    """A session's graphs by the host's numbers."""

    def __init__(self, devices: Devices, host_version: str) -> None:
        self._devices = devices
        self._host_version = host_version
        self._graphs: dict[int, _Loaded] = {}
        self._last = 0

    def load(self, number: int, encoded: Array) -> None:
        """Take a graph in; its number is higher than any before.

        Raises:
            InvalidArgument: it cannot be understood.
        """
        if number <= self._last or len(self._graphs) >= LIMIT:
            raise InvalidArgument(
                f"graph {number}, after graph {self._last} and beside {len(self._graphs)} others: numbers grow, and"
                f" {LIMIT} are the limit"
            )
        try:
            graph = _GRAPHS.decode(encoded.tobytes())
        except msgspec.MsgspecError as exc:
            raise InvalidArgument(f"graph {number} cannot be understood: {exc}") from exc
        self._last = number
        self._graphs[number] = _Loaded(graph)

    def forget(self, number: int) -> None:
        """Drop a graph, if it is there."""
        self._graphs.pop(number, None)

    def check(self, args: Sequence[Arg]) -> None:
        """Raise InvalidArgument unless a call with these arguments fits its graph, which is named by the first."""
        number = args[0] if args else None
        graph = self._find(number).graph
        if len(args) - 1 != len(graph.inputs):
            raise InvalidArgument(f"graph {number} takes {len(graph.inputs)} inputs, not {len(args) - 1}")
        for place, (arg, meta) in enumerate(zip(args[1:], graph.inputs, strict=True)):
            match arg:
                case TensorArg() if not arg.conj and not arg.neg and meta in (None, arg.meta):
                    continue
                case IntArg() if meta is None:
                    continue
                case HostScalarArg() if meta is not None and meta.device == HOST and meta.dtype == arg.dtype:
                    continue
            raise InvalidArgument(f"graph {number} takes {meta or 'what varies'} as input {place}, not {arg}")

    def call(self, number: object, layouts: Sequence[Layout | None], inputs: Sequence[object]) -> Sequence[Tensor]:
        """Carry a graph out."""
        loaded = self._find(number)
        if loaded.function is None:
            module = _Builder(self._devices, self._host_version).build(loaded.graph)
            with self._devices.aside():  # compilers take seconds
                loaded.function = compiled(module, loaded.graph, self._devices.cuda, inputs)
            loaded.filled = () if self._devices.cuda else _unsaved(loaded.graph)
        results: Sequence[Tensor] = loaded.function(*inputs)
        if len(results) != len(layouts):
            raise InvalidArgument(f"graph {number} gives {len(results)} results, not {len(layouts)}")
        if loaded.filled:
            results = [
                quirk((result,), (layout,))[0] if quirk is not None else result
                for result, layout, quirk in zip(results, layouts, loaded.filled, strict=True)
            ]
        return results

    def close(self) -> None:
        """Forget all."""
        self._graphs.clear()

    def _find(self, number: object) -> _Loaded:
        loaded = self._graphs.get(number) if isinstance(number, int) else None
        if loaded is None:
            raise InvalidArgument(f"there is no graph {number!r}")
        return loaded


class _Loaded:
    """A graph and, from its first call on, what carries it out."""

    __slots__ = ("filled", "function", "graph")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.function: Compiled | None = None
        self.filled: Sequence[Callable[..., Any] | None] = ()  # on a CPU: what makes a result as CUDA's, or None


def _unsaved(graph: Graph) -> Sequence[Callable[..., Any] | None]:
    """For each result the row of QUIRKS that its operator has, with () for none at all."""
    first = len(graph.inputs) + len(graph.constants)

    def quirk(value: int) -> Callable[..., Any] | None:
        node = graph.nodes[value - first] if value >= first else None
        if node is not None and node.operator == "operator::getitem" and isinstance(node.args[0], ValueArg):
            return quirk(node.args[0].number)
        return None if node is None else QUIRKS.get(node.operator)

    quirks = [quirk(value) for value in graph.outputs]
    return quirks if any(quirks) else ()


class _Builder:
    """Builds the FX module of one graph; of the peer's text nothing gets into names."""

    def __init__(self, devices: Devices, host_version: str) -> None:
        self._devices = devices
        self._host_version = host_version
        self._root = torch.nn.Module()
        self._graph = fx.Graph()
        self._values: list[fx.Node] = []

    def build(self, graph: Graph) -> fx.GraphModule:
        """Build it.

        Raises:
            UnsupportedOperation: an operator is unknown here, or not for hosts.
            InvalidArgument: the graph contradicts itself.
        """
        for place in range(len(graph.inputs)):
            self._values.append(self._graph.placeholder(f"input_{place}"))
        for place, constant in enumerate(graph.constants):
            self._root.register_buffer(f"constant_{place}", _tensor(constant))
            self._values.append(self._graph.get_attr(f"constant_{place}"))
        for node in graph.nodes:
            self._values.append(self._node(node))
        self._graph.output(tuple(self._value(number) for number in graph.outputs))
        return fx.GraphModule(self._root, self._graph)

    def _node(self, node: Node) -> fx.Node:
        target, known = self._target(node.operator)
        args = tuple(self._argument(arg) for arg in node.args)
        kwargs = {name: self._argument(arg) for name, arg in node.kwargs.items()}
        for name in kwargs:
            if name not in known:
                raise InvalidArgument(f"{node.operator} has no argument {name!r}; it has {', '.join(known)}")
        return self._graph.call_function(target, args, kwargs)

    def _target(self, name: str) -> tuple[Callable[..., Any], Sequence[str]]:
        """What a node calls, and the names of its arguments."""
        namespace, _, rest = name.partition("::")
        if rest in PYTHON_FUNCTIONS.get(namespace, ()):
            return getattr(_MODULES[namespace], rest), ()
        if namespace not in OPERATOR_NAMESPACES:
            raise InvalidArgument(
                f"a graph with a node {name!r}, which is neither an operator nor a function on numbers"
            )
        resolved = resolve(name, self._host_version)
        if not self._devices.cuda and resolved.name in STAND_INS:
            return STAND_INS[resolved.name], resolved.names
        base, _, overload = rest.partition(".")
        packet = getattr(getattr(torch.ops, namespace), base)
        return getattr(packet, overload or "default"), resolved.names

    def _argument(self, arg: GraphArg) -> Any:
        match arg:
            case ValueArg(number=number):
                return self._value(number)
            case ValuesArg(items=items):
                return [self._argument(item) for item in items]
            case _:
                return constant_of(arg, self._devices)

    def _value(self, number: int) -> fx.Node:
        if not 0 <= number < len(self._values):
            raise InvalidArgument(f"value {number} of a graph that has {len(self._values)} up to there")
        return self._values[number]


def _tensor(constant: Constant) -> Tensor:
    dtype = named_dtype(constant.dtype)
    nbytes = math.prod(constant.shape) * dtype.itemsize
    if min(constant.shape, default=0) < 0 or nbytes != len(constant.data) or nbytes > CONSTANT_NBYTES:
        raise InvalidArgument(
            f"{len(constant.data)} bytes for a constant of shape {constant.shape} and dtype {constant.dtype}, which"
            f" takes {nbytes}; the limit is {CONSTANT_NBYTES}"
        )
    if not nbytes:
        return torch.empty(constant.shape, dtype=dtype)
    return torch.frombuffer(bytearray(constant.data), dtype=dtype).view(constant.shape)
