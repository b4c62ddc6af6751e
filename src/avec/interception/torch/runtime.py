"""Stands in for the CUDA runtime as torch.cuda.cudart() shows it: what can be answered, and clear refusals."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NoReturn

import torch

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches
from avec.protocol.torch import Memory, MemoryStatistics

if TYPE_CHECKING:
    from .recording import Recording


class CudaError(enum.IntEnum):
    """The results of calls that are answered here. Source: driver_types.h."""

    success = 0


class Runtime:
    """The functions of the runtime that torch gives Python. Source: torch/csrc/cuda/shared/cudart.cpp."""

    cudaError = CudaError

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def cudaMemGetInfo(self, device: int) -> tuple[int, int]:
        """Return the free and the total memory of an accelerator, in bytes."""
        memory = self._recording.ask(MemoryStatistics(0, device))
        assert isinstance(memory, Memory)
        return memory.free, memory.total

    def cudaGetErrorString(self, error: int) -> str:
        """Return what an error's number means."""
        return "no error" if error == CudaError.success else f"CUDA error {int(error)}"

    def cudaProfilerStart(self) -> CudaError:
        """Do nothing: no profiler of this machine sees the destination's accelerators."""
        return CudaError.success

    def cudaProfilerStop(self) -> CudaError:
        """Do nothing."""
        return CudaError.success

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> CudaError:
        """Do nothing: memory needs no registering to be sent."""
        return CudaError.success

    def cudaHostUnregister(self, address: int) -> CudaError:
        """Do nothing."""
        return CudaError.success

    def __getattr__(self, name: str) -> NoReturn:
        if not name.startswith("cuda"):
            raise AttributeError(f"module 'torch._C._cudart' has no attribute {name!r}")
        raise UnsupportedOperation(
            f"torch.cuda.cudart().{name}: the CUDA runtime that computes is in another process, at the destination;"
            " use torch's own functions"
        )


def patch(patches: Patches, recording: Recording) -> None:
    """Give torch the runtime."""
    runtime = Runtime(recording)
    for module in (torch._C, torch.cuda):
        patches.replace(module, "_cudart", lambda original: runtime)
