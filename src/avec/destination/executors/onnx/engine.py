"""The ONNX Runtime of this worker: its native interface, its providers, what it raises.

The native layer (`onnxruntime.capi._pybind_state`) is used directly, because the host's own onnxruntime has the
Python layer on top of it. Not here: requests (`space`, `session`), files (`files`).
"""

from __future__ import annotations

import builtins
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from avec.destination.accelerators import Accelerator
from avec.errors import UnsupportedOperation
from avec.protocol.onnx import Device, Engine

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

# Options of the CUDA provider that a host may set. Others hold addresses or files of this machine.
# Source: onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc
CUDA_OPTIONS = frozenset({
    "arena_extend_strategy", "cudnn_conv1d_pad_to_nc1d", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace",
    "do_copy_in_default_stream", "enable_cuda_graph", "enable_skip_layer_norm_strict_mode", "fuse_conv_bias",
    "gpu_mem_limit", "prefer_nhwc", "sdpa_kernel", "tunable_op_enable", "tunable_op_max_tuning_duration_ms",
    "tunable_op_tuning_enable", "use_ep_level_unified_stream", "use_tf32",
})  # fmt: skip


class EngineRaised(Exception):
    """What the engine raised, to be raised again on the host as the same class with the same text."""

    def __init__(self, exception: str, text: str) -> None:
        super().__init__(text)
        self.exception = exception
        self.text = text


@contextmanager
def engine_raises() -> Iterator[None]:
    """Take what ONNX Runtime raises here for the application's."""
    try:
        yield
    except Exception as exc:  # a class of its own, or whatever its bindings made of a C++ exception
        kind = type(exc)
        if kind.__module__.startswith("onnxruntime.") or getattr(builtins, kind.__name__, None) is kind:
            raise EngineRaised(kind.__name__, str(exc)) from exc
        raise


class OnnxRuntime:
    """The engine of one worker, on its accelerator."""

    def __init__(self, accelerator: Accelerator, choice: Literal["auto", "onnxruntime", "torch"]) -> None:
        """Import onnxruntime, which takes a moment.

        Args:
            choice: "auto" takes onnxruntime where it has the accelerator, else torch where that has the model's
                operators, else onnxruntime on the CPU; "torch" refuses models that torch does not have.
        """
        self.module: Any = importlib.import_module("onnxruntime")
        self.native: Any = importlib.import_module("onnxruntime.capi._pybind_state")
        self._strict = accelerator.numerics == "strict"
        self._limit_nbytes = accelerator.limit_nbytes
        self.native.disable_telemetry_events()  # what a host computes is nobody else's affair
        available = self.native.get_available_providers()
        self.has_cuda = accelerator.device.type == "cuda" and CUDA in available
        self.fast = accelerator.numerics == "fast"
        self.choice = choice
        wants_torch = choice == "torch" or (
            choice == "auto" and accelerator.device.type == "cuda" and not self.has_cuda
        )
        self.torch_device = accelerator.device if wants_torch else None  # where the torch engine computes, if at all
        providers = (CUDA, CPU) if self.has_cuda else (CPU,)
        self.description = Engine("onnxruntime", self.module.__version__, providers)
        self._devices = {
            "cpu": self.module.OrtDevice.make("cpu", 0)._get_c_device(),
            "cuda": self.module.OrtDevice.make("cuda" if self.has_cuda else "cpu", 0)._get_c_device(),
        }

    @property
    def summary(self) -> str:
        """What computes, for the log."""
        first = f"{self.description.name} {self.description.version} ({', '.join(self.description.providers)})"
        return first if self.torch_device is None else f"torch on {self.torch_device}, verified against {first}"

    def device(self, device: Device) -> Any:
        """The native device for a value; "cuda" is the CPU where this engine has no CUDA."""
        return self._devices[device]

    def is_host_memory(self, device: Device) -> bool:
        """Whether a value on this device is in ordinary memory."""
        return device == "cpu" or not self.has_cuda

    def providers(self, asked: Sequence[tuple[str, Mapping[str, str]]]) -> list[tuple[str, dict[str, str]]]:
        """What to compute with, the best first, whatever was asked for; options for CUDA are taken over.

        Raises:
            UnsupportedOperation: an option means nothing on another machine.
        """
        wanted = dict(next((options for name, options in asked if name == CUDA), {}))
        wanted.pop("device_id", None)  # a session has one accelerator, and no other
        if foreign := sorted(set(wanted) - CUDA_OPTIONS):
            raise UnsupportedOperation(
                f"the option {foreign[0]!r} of {CUDA} cannot be forwarded to a destination; leave it out"
            )
        if not self.has_cuda:
            return [(CPU, {})]
        if self._strict:
            wanted.setdefault("use_tf32", "0")
        if self._limit_nbytes is not None:
            own = wanted.get("gpu_mem_limit", "")
            wanted["gpu_mem_limit"] = str(min(int(own), self._limit_nbytes) if own.isdigit() else self._limit_nbytes)
        return [(CUDA, {"device_id": "0", **wanted}), (CPU, {})]
