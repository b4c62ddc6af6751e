"""Launches kernels written in Triton and prints whether their results are those of torch."""

from __future__ import annotations

from importlib.util import find_spec

import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver

SHIFT = tl.constexpr(3)
FACTORS = (2, 5)


@triton.constexpr_function
def larger(a, b):
    return a if a > b else b


@triton.jit
def doubled(x):
    return x * FACTORS[0]


@triton.jit
def combine(x_ptr, y_ptr, out_ptr, count, alpha, BLOCK: tl.constexpr, kind: tl.constexpr, scale=1.0):
    """out = 2 x + alpha y + 3."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    x = tl.load(x_ptr + places, mask=inside)
    y = tl.load(y_ptr + places, mask=inside)
    tl.store(out_ptr + places, doubled(x) * scale + alpha * y + SHIFT, mask=inside)


def combined(x: torch.Tensor, y: torch.Tensor, alpha: float, **options: int) -> torch.Tensor:
    out = torch.empty_like(x)
    count = x.numel()
    grid = lambda meta: (triton.cdiv(count, meta["BLOCK"]),)  # noqa: E731 - as Triton's tutorials have it
    combine[grid](x, y, out, count, alpha, BLOCK=larger.fn(8, 16), kind=tl.float32, **options)
    return out


def right(out: torch.Tensor, x: torch.Tensor, y: torch.Tensor, alpha: float) -> bool:
    return torch.allclose(out.cpu(), 2 * x.cpu() + alpha * y.cpu() + 3)


if __name__ == "__main__":
    torch.manual_seed(0)
    x, y = torch.randn(2, 100, device="cuda")
    for alpha in (0.5, -1.5):
        print(right(combined(x, y, alpha, num_warps=2), x, y, alpha))
    function = torch.compile(combined) if find_spec("triton.compiler") else combined  # torch wants all of Triton
    print(right(function(x, y, 1.0), x, y, 1.0))
    print(driver.active.get_active_torch_device())
    try:
        combined(x.cpu(), y, 1.0)
    except ValueError as exc:
        print(exc)
