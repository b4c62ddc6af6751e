"""What an operator is: a function of a node and tensors. Shared by the tables in this package.

Tensors may be on the CPU though the accelerator is a GPU: shapes and other small integers are kept where the program
that launches operators can read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from avec.errors import UnsupportedOperation

Attribute: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | Tensor"
Inputs: TypeAlias = Sequence[Tensor | None]
Outputs: TypeAlias = "Tensor | tuple[Tensor, ...]"
Operator: TypeAlias = "Callable[[Node, Inputs], Outputs]"
T = TypeVar("T")

# TensorProto.DataType → torch's. Source: onnx/onnx.proto3
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph, with the version of the operator set that it is of."""

    kind: str
    attributes: dict[str, Attribute]
    outputs: int
    opset: int

    def refuse(self, reason: str) -> UnsupportedOperation:
        """What to raise for a form of the operator that is not implemented."""
        return UnsupportedOperation(f"the torch engine does not have {self.kind} of opset {self.opset} {reason}")

    def integer(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        value = self.attributes.get(name, default)
        return int(value)  # type: ignore[arg-type]

    def number(self, name: str, default: float) -> float:
        """An attribute that is a float."""
        value = self.attributes.get(name, default)
        return float(value)  # type: ignore[arg-type]

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        return str(self.attributes.get(name, default))

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers; None where it is not given."""
        value = self.attributes.get(name)
        return None if value is None else [int(each) for each in value]  # type: ignore[union-attr]


def given(inputs: Inputs, index: int) -> Tensor:
    """An input that has to be there."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise UnsupportedOperation(f"input {index} is missing")
    return value


def optional(inputs: Inputs, index: int) -> Tensor | None:
    """An input that may be missing."""
    return inputs[index] if index < len(inputs) else None


def together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to one device: to the accelerator where one of them is there."""
    device = next((each.device for each in tensors if each.device.type != "cpu"), None)
    return tensors if device is None else tuple(each.to(device) for each in tensors)


def host_list(tensor: Tensor) -> list[int]:
    """A shape, axes or the like as Python integers."""
    return [int(each) for each in tensor.reshape(-1).tolist()]


def axes_of(node: Node, inputs: Inputs, index: int = 1) -> list[int] | None:
    """Axes, which were an attribute in older operator sets and are an input in newer ones."""
    tensor = optional(inputs, index)
    return node.integers("axes") if tensor is None else host_list(tensor)
