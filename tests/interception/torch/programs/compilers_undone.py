"""Asks for what AVEC has put in the place of torch's compilers, ends the interception, and looks for what is left."""

from __future__ import annotations

import sys

import torch
import torch._dynamo
from torch._dynamo import trace_rules

import avec
from avec.errors import UnsupportedOperation

net, x = torch.nn.Linear(4, 4).cuda(), torch.ones(2, 4, device="cuda")
assert torch.allclose(torch.compile(net)(x), net(x))
try:
    torch._inductor.aoti_compile_and_package(torch.export.export(net, (x,)))
except UnsupportedOperation as exc:
    assert "compiling a graph ahead of time (AOTInductor)" in str(exc)
else:
    raise AssertionError("a graph was compiled ahead of time")

avec.release()
assert torch._TorchCompileInductorWrapper.__call__.__globals__ is vars(torch)
assert torch._dynamo.lookup_backend.__module__ == "torch._dynamo.backends.registry"
assert sys.modules["torch._inductor.compile_fx"].compile_fx.__module__ == "torch._inductor.compile_fx"
assert not [each for each in trace_rules.SKIP_DIRS if "avec" in each]
assert not [each for each in sys.meta_path if type(each).__module__.startswith("avec")]
assert not hasattr(torch._C, "_cuda_CUDAAllocator_AllocatorState")
