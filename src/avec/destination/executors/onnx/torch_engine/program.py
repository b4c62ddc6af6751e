"""An ONNX graph as a list of torch operators on one accelerator; what does not depend on its inputs is computed once.

Not here: which engine computes a model (`choice`), what a session is (`session`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from avec.destination.executors.onnx.torch_engine.operators import DTYPES, OPERATORS, Node, Operator
from avec.errors import InvalidModel, UnsupportedOperation

DOMAINS = ("", "ai.onnx")
OPSETS = range(7, 29)  # of the main domain; the operators here know what changed among them
HOST_ELEMENTS = 1024  # integers up to this many stay on the CPU: shapes and axes, which the program itself reads


@dataclass(slots=True)
class Step:
    """One operator: where its inputs and outputs are among the values, and which values die with it."""

    operator: Operator
    node: Node
    inputs: tuple[int, ...]  # −1: not given
    outputs: tuple[int, ...]
    last_used: tuple[int, ...] = ()


class Program:
    """Runs one graph. Its values are numbered; constants stay in their places."""

    def __init__(self, model: onnx.ModelProto, device: torch.device) -> None:
        """Translate a graph.

        Raises:
            UnsupportedOperation: an operator, a type or a form of the model that this engine does not have.
            InvalidModel: the graph contradicts itself.
        """
        self._device = device
        self._places: dict[str, int] = {}
        self._constants: dict[int, Tensor] = {}
        graph = model.graph
        opset = _opset(model)
        if graph.sparse_initializer:
            raise UnsupportedOperation("the torch engine does not have sparse initializers")
        for tensor in graph.initializer:
            self._constants[self._place(tensor.name)] = self._constant(tensor)
        names = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(each.name for each in graph.input if each.name not in names)
        self.overridable = tuple(each.name for each in graph.input if each.name in names)
        self.outputs = tuple(each.name for each in graph.output)
        for name in self.inputs:
            self._place(name)
        self.input_dtypes = {each.name: _dtype(each) for each in graph.input}
        for each in graph.output:
            _dtype(each)
        self._steps = [self._step(node, opset) for node in graph.node]
        for name in self.outputs:
            if name not in self._places:
                raise InvalidModel(f"the graph's output {name!r} is nobody's output")
        self._fold()
        self._note_last_uses()

    def run(self, feeds: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Compute outputs; the results may be views of one another and of the inputs."""
        values: list[Tensor | None] = [None] * len(self._places)
        for place, constant in self._constants.items():
            values[place] = constant
        for name, tensor in feeds.items():
            values[self._places[name]] = self._on_device(tensor)
        kept = {self._places[name] for name in wanted}
        with torch.inference_mode():
            for step in self._steps:
                self._carry_out(step, values)
                for place in step.last_used:
                    if place not in kept:
                        values[place] = None
        return [_there(values[self._places[name]], name) for name in wanted]

    @property
    def operators(self) -> int:
        """How many operators a run launches."""
        return len(self._steps)

    def _carry_out(self, step: Step, values: list[Tensor | None]) -> None:
        given = [values[place] if place >= 0 else None for place in step.inputs]
        results = step.operator(step.node, given)
        if isinstance(results, Tensor):
            values[step.outputs[0]] = results
            return
        for place, result in zip(step.outputs, results, strict=False):
            if place >= 0:
                values[place] = result

    def _on_device(self, tensor: Tensor) -> Tensor:
        if tensor.dtype in (torch.int64, torch.int32) and tensor.ndim <= 1 and tensor.numel() <= HOST_ELEMENTS:
            return tensor
        return tensor.to(self._device)  # waits: a received part's memory is given back after the call

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    def _constant(self, tensor: onnx.TensorProto) -> Tensor:
        return self._on_device(_tensor(tensor))

    def _step(self, proto: onnx.NodeProto, opset: int) -> Step:
        operator = OPERATORS.get(proto.op_type)
        if operator is None or proto.domain not in DOMAINS:
            name = f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type
            raise UnsupportedOperation(f"the torch engine does not have the operator {name}")
        attributes: dict[str, Any] = {each.name: _attribute(each, proto) for each in proto.attribute}
        node = Node(proto.op_type, attributes, sum(bool(name) for name in proto.output), opset)
        for name in proto.input:
            if name and name not in self._places:
                raise InvalidModel(f"{proto.op_type} {proto.name!r} reads {name!r}, which nobody has written")
        inputs = tuple(self._places[name] if name else -1 for name in proto.input)
        return Step(operator, node, inputs, tuple(self._place(name) if name else -1 for name in proto.output))

    def _fold(self) -> None:
        """Compute now what rests on constants alone."""
        overridden = {self._places[name] for name in self.overridable}
        known = {place for place in self._constants if place not in overridden}
        steps: list[Step] = []
        values: list[Tensor | None] = [None] * len(self._places)
        for place, constant in self._constants.items():
            values[place] = constant
        with torch.inference_mode():
            for step in self._steps:
                if not all(place < 0 or place in known for place in step.inputs):
                    steps.append(step)
                    continue
                self._carry_out(step, values)
                for place in step.outputs:
                    made = values[place] if place >= 0 else None
                    if made is not None:
                        values[place] = self._constants[place] = self._on_device(made)
                        known.add(place)
        self._steps = steps

    def _note_last_uses(self) -> None:
        seen: set[int] = set(self._constants)
        for step in reversed(self._steps):
            last = {place for place in (*step.inputs, *step.outputs) if place >= 0 and place not in seen}
            step.last_used = tuple(last)
            seen |= last


def load(path: Path, folder: Path | None, device: torch.device) -> Program:
    """Read a model and translate it.

    Raises:
        UnsupportedOperation, InvalidModel: as Program; a file that is damaged is the other engine's to refuse.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        if folder is not None:
            onnx.load_external_data_for_model(model, str(folder))
    except Exception as exc:  # protobuf's DecodeError and whatever else a damaged file brings about
        raise InvalidModel(f"the torch engine cannot read the model: {exc}") from exc
    if not model.graph.node and not model.graph.output:
        raise InvalidModel("the torch engine cannot read the model: it has no graph")
    return Program(model, device)


def _opset(model: onnx.ModelProto) -> int:
    versions = [each.version for each in model.opset_import if each.domain in DOMAINS]
    if not versions or versions[0] not in OPSETS:
        raise UnsupportedOperation(
            f"the torch engine has the operator sets {OPSETS.start} to {OPSETS.stop - 1}, the model asks for {versions}"
        )
    if model.functions:
        raise UnsupportedOperation("the torch engine does not have functions of a model's own")
    return int(versions[0])


def _dtype(value: onnx.ValueInfoProto) -> torch.dtype:
    kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
    if kind not in DTYPES:
        raise UnsupportedOperation(f"the torch engine does not have the type of {value.name!r}")
    return DTYPES[kind]


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    if tensor.data_type not in DTYPES:
        raise UnsupportedOperation(f"the torch engine does not have tensors of type {tensor.data_type}")
    array = np.array(numpy_helper.to_array(tensor))  # of memory that may be written
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto) -> Any:
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS, onnx.AttributeProto.SPARSE_TENSOR):
        raise UnsupportedOperation(f"the torch engine does not have {node.op_type} with {attribute.name!r}")
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [each.decode() for each in value]
    return value


def _there(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise InvalidModel(f"the graph has not computed {name!r}")
    return tensor
