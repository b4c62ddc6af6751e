"""What torch.cuda has and a destination has not: each is refused by name. Holds under AVEC alone."""

from __future__ import annotations

import torch
import torch.cuda.nccl
from surface import raised

from avec.errors import UnsupportedOperation


def _refused(code: str, *texts: str) -> None:
    text = raised(UnsupportedOperation, lambda: eval(code))
    for each in texts:
        assert each in text, text


def check_pointers() -> None:
    _refused("torch.cuda.current_blas_handle()", "_cuda_getCurrentBlasHandle", "use torch's own operators")
    _refused("torch.cuda.ExternalStream(1234)", "ExternalStream", "use torch.cuda.Stream()")
    _refused("torch.cuda.get_stream_from_external(1234)", "use torch.cuda.Stream()")
    _refused("torch.cuda.cudart().cudaStreamCreate(0)", "cudaStreamCreate", "use torch's own functions")
    _refused("torch.cuda.caching_allocator_alloc(100)", "_raw_alloc", "leave allocating to torch")
    _refused("torch.cuda.memory.CUDAPluggableAllocator('libc.so.6', 'malloc', 'free')", "leave allocating to torch")


def check_source() -> None:
    code = "template <typename T> T plus_one(T x) { return x + 1; }"
    function = torch.cuda.jiterator._create_jit_fn(code)
    text = raised(UnsupportedOperation, lambda: function(torch.ones(1, device="cuda")))
    assert "write the function with torch's operators" in text


def check_sensors() -> None:
    for name in ("utilization", "temperature", "power_draw", "clock_rate", "memory_usage", "list_gpu_processes"):
        _refused(f"torch.cuda.{name}()", f"torch.cuda.{name}", "nvidia-smi")


def check_histories() -> None:
    _refused("torch.cuda.memory_snapshot()", "torch.cuda.memory_stats() gives its figures")
    _refused("torch.cuda.memory._record_memory_history()", "keeps no history")
    _refused("torch.cuda.MemPool().snapshot()", "keeps no history")


def check_other_processes() -> None:
    _refused("torch.cuda.Event(interprocess=True)", "sessions of their own")
    _refused("torch.cuda.Event().ipc_handle()", "processes have sessions of their own")
    _refused("torch.cuda.nccl.unique_id()", "torch.nn.DataParallel")


def check_native_graphs() -> None:
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    for name in ("raw_cuda_graph", "raw_cuda_graph_exec"):
        _refused_of(graph, name)


def _refused_of(graph: torch.cuda.CUDAGraph, name: str) -> None:
    text = raised(UnsupportedOperation, getattr(graph, name))
    assert f"CUDAGraph.{name}" in text
