"""From a graph that torch has captured (FX, of aten operators) to the protocol's Graph, and what its callers need.

What the host does better itself stays here: results that are inputs, views of them or of other results, numbers.
Not here: how a captured graph is called (`fx_calls`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from avec.protocol.torch import ComplexArg, DeviceArg, DTypeArg, LayoutArg, MemoryFormatArg, TensorMeta
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

from .templates import device_index, name_of

Size: TypeAlias = int | torch.SymInt
_MODULES = {"operator": operator, "math": math, "torch": torch}
_FUNCTIONS: dict[object, str] = {
    getattr(_MODULES[module], name): f"{module}::{name}" for module, names in PYTHON_FUNCTIONS.items() for name in names
}


class NotCaptured(Exception):
    """This graph cannot be sent; it is carried out operator by operator."""


@dataclass(frozen=True, slots=True)
class Made:
    """A result that the destination makes: number `place` among the graph's outputs."""

    place: int


@dataclass(frozen=True, slots=True)
class Given:
    """A result that is input `place` itself."""

    place: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A result that is a view of another; its offset counts from that one's."""

    of: Made | Given
    shape: tuple[Size, ...]
    stride: tuple[Size, ...]
    offset: Size


@dataclass(frozen=True, slots=True)
class Plain:
    """A result that is no tensor: None, a number, or a symbolic one."""

    value: Any


Result: TypeAlias = Made | Given | Seen | Plain


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph with what it takes and gives, in torch's terms."""

    graph: Graph
    inputs: tuple[Any, ...]  # all, as fake tensors and symbolic numbers
    used: tuple[int, ...]  # the places of those that are sent
    attributes: tuple[torch.Tensor, ...]  # tensors on an accelerator that belong to the graph: its last inputs
    made: tuple[torch.Tensor, ...]  # what comes from the destination, as fake tensors
    results: tuple[Result, ...]


def capture(module: fx.GraphModule, options: Mapping[str, bool] | None) -> Captured:
    """Describe a graph.

    Args:
        options: the compiler's, which are sent with it; None: it is not to be compiled.

    Raises:
        NotCaptured: it has something in it that a destination cannot do, or that belongs to this host.
    """
    return _Capture(module, options).captured()


class _Capture:
    def __init__(self, module: fx.GraphModule, options: Mapping[str, bool] | None) -> None:
        self._module = module
        self._options = options
        self._placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._values: dict[fx.Node, int] = {}
        self._used: list[int] = []
        self._metas: list[TensorMeta | None] = []
        self._attributes: list[torch.Tensor] = []
        self._constants: list[Constant] = []
        self._nodes: list[Node] = []
        self._made: dict[fx.Node, Made] = {}

    def captured(self) -> Captured:
        for place, node in enumerate(self._placeholders):
            if node.users:
                self._add_input(place, node)
        attributes = [node for node in self._module.graph.nodes if node.op == "get_attr"]
        for node in attributes:
            if (tensor := self._attribute(node)).is_cuda:
                self._values[node] = len(self._metas)
                self._metas.append(_meta(tensor))
                self._attributes.append(tensor)
        for node in attributes:
            if node not in self._values:
                self._values[node] = len(self._metas) + len(self._constants)
                self._constants.append(_constant(self._attribute(node)))
        for node in self._module.graph.nodes:
            if node.op == "call_function":
                self._values[node] = len(self._metas) + len(self._constants) + len(self._nodes)
                self._nodes.append(described(node, self._values))
        results = tuple(self._result(each) for each in _returned(self._module.graph))
        made = tuple(self._made)
        graph = Graph(
            inputs=tuple(self._metas),
            constants=tuple(self._constants),
            nodes=tuple(self._nodes),
            outputs=tuple(self._values[node] for node in made),
            options=dict(self._options or {}),
            compiled=self._options is not None,
        )
        fakes = tuple(node.meta["val"] for node in made)
        inputs = tuple(node.meta.get("val") for node in self._placeholders)
        return Captured(graph, inputs, tuple(self._used), tuple(self._attributes), fakes, results)

    def _add_input(self, place: int, node: fx.Node) -> None:
        value = node.meta.get("val")
        self._values[node] = len(self._metas)
        self._used.append(place)
        match value:
            case torch.Tensor() if value.is_cuda:
                _check_plain(value)
                self._metas.append(None if is_symbolic(value) else _meta(value))
            case torch.Tensor() if value.device.type == "cpu" and value.dim() == 0 and not value.is_complex():
                self._metas.append(TensorMeta(name_of(value.dtype), (), (), -1))
            case int() | torch.SymInt():
                self._metas.append(None)
            case torch.Tensor():
                raise NotCaptured(f"an input on {value.device}")
            case _:
                raise NotCaptured(f"an input of type {type(value).__name__}")

    def _attribute(self, node: fx.Node) -> torch.Tensor:
        found: object = self._module
        for name in str(node.target).split("."):
            found = getattr(found, name)
        if not isinstance(found, torch.Tensor):
            raise NotCaptured(f"a part of type {type(found).__name__}")
        return found

    def _result(self, node: object) -> Result:
        if not isinstance(node, fx.Node):
            return Plain(node)
        if node.op == "placeholder":
            return Given(self._placeholders.index(node))
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            if value is not None and not isinstance(value, bool | int | float | torch.SymInt):
                raise NotCaptured(f"a result of type {type(value).__name__}")
            return Plain(value)
        return self._tensor_result(node, value)

    def _tensor_result(self, node: fx.Node, value: torch.Tensor) -> Result:
        if not value.is_cuda:
            raise NotCaptured(f"a result on {value.device}")
        if value.layout is not torch.strided:
            raise NotCaptured(f"a result with the layout {value.layout}")
        _check_plain(value)
        root = node
        while _is_view(root) and isinstance(source := root.args[0], fx.Node):
            root = source
        origin = root.meta.get("val")
        if root is node or not isinstance(origin, torch.Tensor) or origin.dtype != value.dtype or root.op == "get_attr":
            return self._from_destination(node)
        _check_plain(origin)
        given = root.op == "placeholder"
        of = Given(self._placeholders.index(root)) if given else self._from_destination(root)
        offset = value.storage_offset() - origin.storage_offset()
        return Seen(of, tuple(value.shape), tuple(value.stride()), offset)

    def _from_destination(self, node: fx.Node) -> Made:
        return self._made.setdefault(node, Made(len(self._made)))


def described(node: fx.Node, values: Mapping[fx.Node, int]) -> Node:
    """Describe one call of an operator.

    Args:
        values: the numbers of the values before it.

    Raises:
        NotCaptured: no destination can do it.
    """
    if node.target is torch.ops.prims.convert_element_type.default:
        x, dtype = (_argument(each, values) for each in node.args)
        return Node("aten::_to_copy", (x,), {"dtype": dtype})
    args = tuple(_argument(each, values) for each in node.args)
    kwargs = {name: _argument(each, values) for name, each in node.kwargs.items() if name != "pin_memory"}
    return Node(_target(node.target), args, kwargs)


def _argument(value: object, values: Mapping[fx.Node, int]) -> GraphArg:
    match value:
        case fx.Node():
            return ValueArg(values[value])
        case None | bool() | float() | str():
            return value
        case int():
            return int(value)
        case complex():
            return ComplexArg(value.real, value.imag)
        case list() | tuple():
            return ValuesArg(tuple(_argument(each, values) for each in value))
        case torch.dtype():
            return DTypeArg(name_of(value))
        case torch.device() if value.type in ("cpu", "cuda"):
            return DeviceArg(-1 if value.type == "cpu" else device_index(value))
        case torch.layout():
            return LayoutArg(name_of(value))
        case torch.memory_format():
            return MemoryFormatArg(name_of(value))
    raise NotCaptured(f"an argument of type {type(value).__name__}")


def _returned(graph: fx.Graph) -> Sequence[object]:
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    returned = output.args[0]
    return returned if isinstance(returned, list | tuple) else (returned,)


def _target(target: object) -> str:
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace in OPERATOR_NAMESPACES:
            return str(target.name())  # type: ignore[no-untyped-call]
        raise NotCaptured(f"the operator {target}")
    function = _FUNCTIONS.get(target)
    if function is None:
        raise NotCaptured(f"a call of {target}")
    return function


def _is_view(node: fx.Node) -> bool:
    """Whether a node sees its first argument otherwise, and that argument is another node's only result."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target is torch.ops.aten._unsafe_view.default:
        return True
    returns = target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is not None and not returns[0].alias_info.is_write


def _check_plain(tensor: torch.Tensor) -> None:
    if tensor.is_conj() or tensor.is_neg():
        raise NotCaptured("a lazily conjugated or negated tensor")


def is_on_accelerator(module: fx.GraphModule, inputs: Sequence[Any]) -> bool:
    """Whether a graph has to do with tensors on an accelerator."""
    values = [*inputs]
    for node in module.graph.nodes:
        values += (node.meta.get("example_value"), node.meta.get("val"))
    flat = [one for each in values for one in (each if isinstance(each, list | tuple) else (each,))]
    return any(isinstance(each, torch.Tensor) and each.is_cuda for each in flat)


def is_symbolic(tensor: torch.Tensor) -> bool:
    """Whether a fake tensor's sizes or strides vary."""
    return any(isinstance(each, torch.SymInt) for each in (*tensor.shape, *tensor.stride()))


def _meta(tensor: torch.Tensor) -> TensorMeta:
    return TensorMeta(name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride()), tensor.get_device())


def _constant(tensor: torch.Tensor) -> Constant:
    nbytes = tensor.numel() * tensor.dtype.itemsize
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or nbytes > CONSTANT_NBYTES:
        raise NotCaptured(f"a constant of {nbytes} bytes on {tensor.device}")
    with _disable_current_modes():  # torch pretends, while it compiles, that tensors have no elements
        contiguous = tensor.detach().resolve_conj().resolve_neg().contiguous()
        data = contiguous.reshape(-1).view(torch.uint8).numpy().tobytes()
    return Constant(name_of(tensor.dtype), tuple(tensor.shape), data)
