"""`releasing.py URL`: uses an accelerator, gives torch back, and prints what is not as it was; then does it again."""

from __future__ import annotations

import sys

import torch
import torch.cuda.comm
import torch.nn.parallel

import avec

OWNERS = {
    **{
        name: module for name, module in sys.modules.items() if name.startswith("torch") and hasattr(module, "__dict__")
    },
    "CudnnModule": type(torch.backends.cudnn),
    "Tensor": torch.Tensor,
    "UntypedStorage": torch.UntypedStorage,
    "profile": torch.autograd.profiler.profile,
    "emit_nvtx": torch.autograd.profiler.emit_nvtx,
    **{f"cudnn.{name}": value for name, value in vars(type(torch.backends.cudnn)).items() if hasattr(value, "setter")},
}
# torch makes these when it is used.
OWN = {
    ("torch.ops", "c10d"),
    ("torch._opaque_base", "_FakeScriptObject_cls"),
    ("torch._meta_registrations", "_meta_lib_dont_use_me_use_register_meta"),
}


def held() -> dict[tuple[str, str], object]:
    """All attributes of torch's modules and classes."""
    return {(name, key): value for name, owner in OWNERS.items() for key, value in vars(owner).items()}


def use() -> None:
    """Use what the front-end has replaced."""
    y = torch.ones(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y.add_(1)
    graph.replay()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.deterministic = False
    print(y.tolist(), torch.cuda.is_available(), torch.cuda.is_initialized(), torch.cuda.device_count())


before = held()
for _ in range(2):
    avec.intercept(sys.argv[1])
    use()
    avec.release()
    after = held()
    changed = [key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)]
    print(sorted(set(changed) - OWN))
    print(torch.cuda.is_available(), torch.cuda.is_initialized(), torch.cuda.device_count())
