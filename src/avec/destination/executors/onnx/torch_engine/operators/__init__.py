"""The operators that the torch engine has, by name; each is held to ONNX's own cases for it."""

from __future__ import annotations

from avec.destination.executors.onnx.torch_engine.operators import (
    convolution,
    detection,
    elementwise,
    indexing,
    matrices,
    normalization,
    quantization,
    recurrent,
    reductions,
    resizing,
    shaping,
)
from avec.destination.executors.onnx.torch_engine.operators.operator import DTYPES, Node, Operator

OPERATORS: dict[str, Operator] = {
    **convolution.OPERATORS,
    **detection.OPERATORS,
    **elementwise.OPERATORS,
    **indexing.OPERATORS,
    **matrices.OPERATORS,
    **normalization.OPERATORS,
    **quantization.OPERATORS,
    **recurrent.OPERATORS,
    **reductions.OPERATORS,
    **resizing.OPERATORS,
    **shaping.OPERATORS,
}

__all__ = ["DTYPES", "OPERATORS", "Node", "Operator"]
