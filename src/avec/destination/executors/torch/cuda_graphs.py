"""CUDA graphs as torch makes them: operators are recorded while they are issued, and all launched by one call later.

Not here: what is worth a graph, and when it may be replayed (`captures`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

_MODE = "thread_local"  # another thread receives meanwhile, into page-locked memory


class Graph(Protocol):
    """Operators on fixed memory."""

    def replay(self) -> None:
        """Carry them out once more."""


class Recorder(Protocol):
    """Makes graphs on a kind of accelerator."""

    def fits(self, tensor: Tensor) -> bool:
        """Whether a graph may take a tensor from before."""

    def record(self, device: int, carry_out: Callable[[], None]) -> tuple[Graph, int]:
        """Record what a function issues, without computing it.

        Returns:
            The graph, and how many bytes of memory it keeps to itself.

        Raises:
            Exception: what `carry_out` raises, or a RuntimeError about what cannot be recorded. Nothing was computed.
        """

    def memory(self, device: int) -> tuple[int, int]:
        """All bytes of an accelerator, and those that this process could have yet."""

    def release(self) -> None:
        """Give back what graphs that are no more have kept."""


class CudaGraphs:
    """Makes graphs on CUDA devices. Source: torch.cuda.graph, which also collects garbage and empties caches."""

    def __init__(self) -> None:
        self._streams: dict[int, torch.cuda.Stream] = {}
        self._failed: list[torch.cuda.CUDAGraph] = []  # torch's allocator may look at them yet

    def fits(self, tensor: Tensor) -> bool:
        return tensor.is_cuda

    def record(self, device: int, carry_out: Callable[[], None]) -> tuple[Graph, int]:
        reserved = torch.cuda.memory_reserved(device)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        with torch.cuda.device(device):
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream = self._streams[device]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                graph.capture_begin(pool, capture_error_mode=_MODE)
                try:
                    carry_out()
                    graph.capture_end()
                except Exception:
                    self._abandon(graph, device, pool)
                    raise
        return graph, torch.cuda.memory_reserved(device) - reserved

    def memory(self, device: int) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return total, free + cached

    def release(self) -> None:
        torch.cuda.empty_cache()

    def _abandon(self, graph: torch.cuda.CUDAGraph, device: int, pool: tuple[int, int]) -> None:
        """End a recording that has failed, so that torch goes on as before it.

        Source: at::cuda::CUDAGraph::capture_end, which leaves the allocator and the random number generator in the
        middle of a recording when CUDA has already given it up; another one, of nothing, sets the generator right.
        """
        try:
            graph.capture_end()
        except RuntimeError:
            self._failed.append(graph)
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(device, pool)
                torch._C._cuda_releasePool(device, pool)
            nothing = torch.cuda.CUDAGraph()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is empty
                nothing.capture_begin(capture_error_mode=_MODE)
                nothing.capture_end()
