"""Prints how torch.cuda's functions and classes are called; what stands in for them has to be called as they are."""

from __future__ import annotations

import inspect

import torch
import torch.cuda.comm

MODULES = (
    torch.cuda, torch.cuda.memory, torch.cuda.nccl, torch.cuda.comm, torch.cuda.nvtx, torch.cuda.random,
    torch.cuda.graphs, torch.accelerator, torch.accelerator.memory, torch.backends.cuda, torch.backends.cudnn.m,
    torch.autograd.profiler,
)  # fmt: skip
PRIVATE = ("_exchange_device", "_maybe_exchange_device", "_sleep", "_lazy_init", "_lazy_call", "_is_in_bad_fork")
METHODS = {
    torch.cuda.Stream: ("query", "synchronize", "wait_event", "wait_stream", "record_event"),
    torch.cuda.Event: ("query", "synchronize", "record", "wait", "elapsed_time", "ipc_handle", "from_ipc_handle"),
    torch.cuda.CUDAGraph: ("capture_begin", "capture_end", "instantiate", "replay", "reset", "pool", "debug_dump"),
    torch.cuda.MemPool: ("use_count", "snapshot"),
}


def parameters(function: object) -> str:
    """Names, kinds and defaults of parameters."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # C functions do not say
        return "?"
    return str([(each.name, str(each.kind), repr(each.default)) for each in found])


for module in MODULES:
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") and name not in PRIVATE or not callable(value) or name.endswith("Tensor"):
            continue
        if inspect.isclass(value):
            print(module.__name__, name, value.__module__, value.__qualname__, parameters(value))
        else:
            described = value.__module__, value.__name__, bool(value.__doc__)
            signature = "?" if parameters(value) == "?" else inspect.signature(value)
            print(module.__name__, name, *described, signature)
for kind, methods in METHODS.items():
    for name in methods:
        print(kind.__name__, name, parameters(getattr(kind, name)))
