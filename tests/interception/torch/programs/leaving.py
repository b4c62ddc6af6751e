"""Ends without a look at what it has computed last; `leaving.py fail` computes what fails, `lost` waits to be told."""

import sys

import torch

weight = torch.ones(10, 4, device="cuda")
print(weight.sum().item(), flush=True)
if "lost" in sys.argv:
    sys.stdin.readline()
if "fail" in sys.argv:
    weight[torch.tensor([11], device="cuda")]
weight.add_(1)
