"""A program with the methods of a native session and binding, beside the native session that it was verified against.

What the caller did wrong is said by that native session, in ONNX Runtime's own words.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from avec.destination.executors.onnx.engine import EngineRaised, OnnxRuntime
from avec.destination.executors.onnx.torch_engine.operators import DTYPES
from avec.destination.executors.onnx.torch_engine.values import TensorValue, as_array, as_tensor, is_known
from avec.errors import AcceleratorOutOfMemory, UnsupportedOperation
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.destination.executors.onnx.torch_engine.program import Program


log = logging.getLogger("avec.destination")


class TorchSession:
    """Runs a program; everything but running is the native session's."""

    def __init__(self, program: Program, reference: Any, engine: OnnxRuntime) -> None:
        self._program = program
        self._reference = reference
        self._engine = engine
        self._warned = False
        self._shapes = {each.name: tuple(each.shape) for each in reference.inputs_meta}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reference, name)  # inputs_meta, model_meta, end_profiling, …

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any], options: Any = None) -> list[Array]:
        """Compute outputs as arrays. Source: InferenceSession.run."""
        tensors = self._tensors(feeds)
        if tensors is None or not self._fits(outputs, options):
            results: list[Array] = self._reference.run(list(outputs), self._native_feeds(feeds), options)
            return results
        computed = self._compute(tensors, outputs)
        if computed is None:
            on_cpu: list[Array] = self._reference.run(list(outputs), self._native_feeds(feeds), options)
            return on_cpu
        return [as_array(each) for each in computed]

    def run_with_ort_values(
        self, feeds: Mapping[str, Any], outputs: Sequence[str], options: Any = None
    ) -> list[TensorValue]:
        """Compute outputs, which stay on the accelerator. Source: InferenceSession.run_with_ort_values."""
        tensors = self._tensors(feeds)
        fits = tensors is not None and self._fits(outputs, options)
        computed = self._compute(tensors, outputs) if tensors is not None and fits else None
        if computed is None:  # onnxruntime says what is wrong, or computes it
            kept = {name: native_value(value, self._engine) for name, value in feeds.items()}
            native = {name: value for name, (value, _) in kept.items()}
            computed = [
                as_tensor(each.numpy()) for each in self._reference.run_with_ort_values(native, list(outputs), options)
            ]
        return [self._value(each) for each in computed]

    def run_with_iobinding(self, binding: TorchBinding, options: Any = None) -> None:
        """Compute what a binding says. Source: InferenceSession.run_with_iobinding."""
        binding.run(options)

    def io_binding(self) -> TorchBinding:
        """A binding for this session."""
        return TorchBinding(self, self._engine)

    def _compute(self, tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor] | None:
        """Run the program; None where it fails on these inputs, and onnxruntime has to say why, or to compute."""
        try:
            return self._program.run(tensors, outputs)
        except torch.cuda.OutOfMemoryError as exc:
            reason = str(exc).split("\n", 1)[0]
            raise AcceleratorOutOfMemory(f"running an ONNX model: {reason}") from exc
        except (UnsupportedOperation, RuntimeError, ValueError, IndexError, TypeError) as exc:
            if not self._warned:
                self._warned = True
                log.warning("a run is left to onnxruntime on the CPU: %s", exc)
            return None

    @property
    def operators(self) -> int:
        """How many operators a run launches."""
        return self._program.operators

    def _value(self, tensor: Tensor) -> TensorValue:
        device = self._engine.torch_device
        return TensorValue((tensor if device is None else tensor.to(device)).clone(), self._engine)

    def _tensors(self, feeds: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Inputs as tensors; None where one is not what the model takes."""
        tensors: dict[str, Tensor] = {}
        for name, value in feeds.items():
            tensor = _tensor(value, self._program.input_dtypes.get(name))
            if tensor is None or not self._takes(name, tensor):
                return None
            tensors[name] = tensor
        return tensors if all(name in tensors for name in self._program.inputs) else None

    def _takes(self, name: str, tensor: Tensor) -> bool:
        if self._program.input_dtypes.get(name) != tensor.dtype:
            return False
        shape = self._shapes.get(name)
        if shape is None:  # an initializer that the application overrides
            return True
        return len(shape) == tensor.ndim and all(
            not isinstance(wanted, int) or wanted == size for wanted, size in zip(shape, tensor.shape, strict=True)
        )

    def _fits(self, outputs: Sequence[str], options: Any) -> bool:
        known = all(name in self._program.outputs for name in outputs)
        return known and bool(outputs) and not (options is not None and options.terminate)

    def _native_feeds(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {name: native_feed(value, self._engine) for name, value in feeds.items()}


class TorchBinding:
    """Inputs and outputs of a TorchSession. Source: SessionIOBinding."""

    def __init__(self, session: TorchSession, engine: OnnxRuntime) -> None:
        self._session = session
        self._engine = engine
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, TensorValue | None] = {}
        self._given: set[str] = set()  # outputs whose memory is the application's

    def bind_input(self, name: str, array: Array) -> None:
        self._inputs[name] = array

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self._inputs[name] = value

    def bind_output(self, name: str, device: object) -> None:
        self._outputs[name] = None
        self._given.discard(name)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self._outputs[name] = value
        self._given.add(name)

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()
        self._given.clear()

    def get_outputs(self) -> list[Any]:
        return list(self._outputs.values())

    def copy_outputs_to_cpu(self) -> list[Array]:
        return [value.numpy() for value in self._outputs.values() if value is not None]

    def run(self, options: Any) -> None:
        """Run the session on what is bound."""
        if not self._outputs:
            raise EngineRaised("RuntimeError", "Error in execution: At least one output should be requested.")
        try:
            results = self._session.run_with_ort_values(self._inputs, list(self._outputs), options)
        except Exception as exc:
            raise EngineRaised("RuntimeError", f"Error in execution: {_status(exc)}") from exc
        for name, value in zip(tuple(self._outputs), results, strict=True):
            if name not in self._given:
                self._outputs[name] = value
                continue
            bound = self._outputs[name]
            if bound is not None:
                _copy_into(bound, value)


def native_value(value: Any, engine: OnnxRuntime) -> tuple[Any, object]:
    """A native OrtValue for an array or a value of either kind, and the memory that it points to."""
    if isinstance(value, TensorValue):
        return value.as_native()
    if isinstance(value, np.ndarray):
        return engine.native.OrtValue.ortvalue_from_numpy(value, engine.device("cpu")), value
    return value, None


def native_feed(value: Any, engine: OnnxRuntime) -> Any:
    """What a native session takes for an input: an OrtValue of torch's goes to the CPU."""
    inner = getattr(value, "_ortvalue", None)
    if not isinstance(inner, TensorValue):
        return value
    native, memory = inner.as_native()
    return engine.module.OrtValue(native, memory)


def _tensor(value: Any, dtype: torch.dtype | None) -> Tensor | None:
    value = getattr(value, "_ortvalue", value)
    if isinstance(value, TensorValue):
        return value.tensor
    if isinstance(value, np.ndarray):
        return as_tensor(value) if is_known(value) else None
    if isinstance(value, list) and dtype is not None:
        try:
            return torch.tensor(value, dtype=dtype)
        except (TypeError, ValueError, RuntimeError):
            return None
    if value is None or not hasattr(value, "is_tensor") or not value.is_tensor():
        return None
    if value.element_type() not in DTYPES or DTYPES[value.element_type()] == torch.bfloat16:
        return None
    return as_tensor(value.numpy())


def _copy_into(bound: Any, value: TensorValue) -> None:
    if bound.shape() != value.shape():
        raise EngineRaised(
            "RuntimeError",
            f"Error in execution: an output of shape {value.shape()} was bound to memory of shape {bound.shape()}",
        )
    if isinstance(bound, TensorValue):
        bound.tensor.copy_(value.tensor)
    else:
        bound.update_inplace(value.numpy())


def _status(exc: Exception) -> str:
    """An error's text without the code that ONNX Runtime puts in front."""
    text = str(exc)
    return text.split(" : ", 3)[3] if text.startswith("[ONNXRuntimeError]") and text.count(" : ") >= 3 else text
