"""A backward pass over two grafted devices, with kernels that only make results; prints what autograd did where."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from avec.interception.torch.grafting import graft
from avec.interception.torch.storages import Arena

torch.cuda._lazy_init = lambda: None
grafted = graft(lambda: 2, lambda: 0)
arena = Arena()
library = torch.library.Library("aten", "IMPL")
multiplied_on: set[int] = set()  # the device that was current, in each kernel that ran in autograd's threads


def on_cuda(name: str) -> Callable[[Callable[..., Any]], None]:
    return lambda kernel: library.impl(name, kernel, "CUDA")


def new(shape: Sequence[int], device: int) -> torch.Tensor:
    return arena.layout(torch.float32, shape, torch.empty(shape, device="meta").stride(), device).new()


@on_cuda("mul.Tensor")
def mul(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if torch._C._current_autograd_node() is not None:
        assert grafted.current_device == self.device.index
        multiplied_on.add(grafted.current_device)
    return new(self.shape, self.device.index)


@on_cuda("_to_copy")
def to_copy(self: torch.Tensor, *, device: torch.device, **_: object) -> torch.Tensor:
    return new(self.shape, device.index)


@on_cuda("empty_strided")
def empty_strided(size: Sequence[int], stride: Sequence[int], *, device: torch.device, **_: object) -> torch.Tensor:
    return new(size, grafted.current_device if device.index is None else device.index)


@on_cuda("copy_")
def copy(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return self


@on_cuda("add_.Tensor")
def add(self: torch.Tensor, other: torch.Tensor, *, alpha: int = 1) -> torch.Tensor:
    return self


first, second = (new((3, 4), device).requires_grad_() for device in (0, 1))
ones = new((3, 4), 0)
result = (first.to("cuda:1") * second).to("cuda:0") * first
result.backward(ones)
print(first.grad.device, second.grad.device, sorted(multiplied_on), flush=True)
# Autograd's threads may still be dropping tensors that have Python objects; up to Python 3.13 they cannot do so while
# the interpreter ends, and abort the process.
os._exit(0)
