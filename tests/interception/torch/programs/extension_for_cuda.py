"""Loads a library with an operator that has a kernel for CUDA, and calls it: `extension_for_cuda.py LIBRARY`."""

from __future__ import annotations

import sys

import torch

torch.ops.load_library(sys.argv[1])
print(torch.ops.avec_for_cuda.twice(torch.ones(1)).item())
try:
    torch.ops.avec_for_cuda.twice(torch.ones(1, device="cuda"))
except NotImplementedError as exc:
    print(exc)
