"""Prints what a program sees that has hidden all GPUs from itself, and computes on the CPU."""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

print(torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.is_initialized())
net = torch.nn.Linear(3, 1)
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(2, 3)).sum().backward()
optimizer.step()
with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
    print(net.weight.grad.tolist())
try:
    torch.zeros(1, device="cuda")
except (RuntimeError, AssertionError):
    print("no CUDA")
