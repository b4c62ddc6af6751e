"""Prints what of each batch goes on the wire, for a program that does a little of everything, on two accelerators.

The kernels in Python and those in C++ have to record the same.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avec.interception.torch.recording import Recording

CUDA = torch.device("cuda")


def tell_what_is_sent() -> None:
    sent = Recording._send

    def send(self: Recording, *args: Any) -> Any:
        numbers, floats = self.stream.recorded()
        digest = hashlib.sha256()
        for each in (numbers, floats, *map(bytes, self._known.new), *(site.encode() for _, site in self._places.marks)):
            digest.update(each)
        print(
            label,
            len(numbers),
            len(floats),
            len(self._known.new),
            [place for place, _ in self._places.marks],
            digest.hexdigest(),
        )
        return sent(self, *args)

    Recording._send = send  # type: ignore[method-assign]


class Block(nn.Module):
    """Attention, a convolution, normalisations and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.convolution, self.batch = nn.LayerNorm(16), nn.Conv1d(16, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))
        return self.dropout(F.gelu(self.batch(self.convolution(x.transpose(1, 2))))).mean(-1)


def training() -> None:
    torch.manual_seed(0)
    model = Block().to(CUDA)
    tokens, labels = torch.arange(40, device=CUDA).view(4, 10) % 50, torch.arange(4, device=CUDA)
    for make in (
        lambda: torch.optim.AdamW(model.parameters(), lr=1e-3),
        lambda: torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True),
        lambda: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    ):
        optimizer = make()
        for _ in range(4):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(model(tokens), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.item()


def numbers_and_constants() -> None:
    x = torch.arange(6.0, device=CUDA).view(2, 3)
    for _ in range(3):
        for other in (1, 1.5, True, 2.0, -0.0, torch.tensor(3.0), torch.tensor(2, device=CUDA)):
            x + other, x * other, x / other, x.pow(2), x**other, x > other, torch.add(x, other, alpha=2)
        x.clamp(0.5), x.clamp(max=2), x.clamp(0, 1.0), x.round(decimals=1), x.sum(0, dtype=torch.float64)
        (
            torch.full((2, 2), 7, device=CUDA),
            torch.full((2, 2), 7.5, device="cuda:0"),
            torch.linspace(0, 1, 5, device=CUDA),
        )
        torch.arange(0, 5, 0.5, device=CUDA), torch.zeros(3, device=CUDA, dtype=torch.int8), torch.ones_like(x)
        F.interpolate(x[None], scale_factor=2.0, mode="linear"), F.pad(x, (1, 1), value=0.5)
        (x * 1j).conj() @ (x * 2j).mH, torch.view_as_real(x + 1j).sum()
        with contextlib.suppress(RuntimeError):
            x @ x
        x.cpu()


def results() -> None:
    x = torch.arange(12.0, device=CUDA).view(3, 4)
    out = torch.empty(3, 4, device=CUDA)
    for _ in range(3):
        torch.add(x, 1, out=out), out.mul_(2), out.copy_(x), out.fill_(3.5), out[1].zero_()
        torch.add(x, 1, out=torch.empty(0, device=CUDA))
        torch.sort(x), x.topk(2), torch.linalg.svd(x), x.max(0), torch.aminmax(x), x.unbind(), x.split(2, 1)
        torch._foreach_add([x, x], 1.5), torch._foreach_mul_([out, out], [2.0, 3.0]), torch._foreach_norm([x, x])
        x[torch.tensor([0, 2])], x[x > 3], x.index_select(0, torch.tensor([1], device=CUDA)), x.nonzero()
        torch.where(x > 2, x, 0.0), torch.cat([x, x]), torch.empty(0, 3, device=CUDA) + 1, torch.cat([x, x[:0]])
        x.new_empty(2, 2), torch.empty_like(x), torch.empty(3, 0, device=CUDA), x.to(torch.float16), x.t().contiguous()
        torch.empty(17 << 20, device=CUDA)[:2].add_(1)  # so large that a batch is sent
        torch.empty(3 << 20, device=CUDA).add_(1).mul(2), x.expand(2, 3, 4).sum().reshape(1)
        F.max_pool2d(x[None, None], 2, return_indices=True), F.batch_norm(x, None, None, training=True)
    x.tolist()


def random() -> None:
    torch.cuda.manual_seed(3)
    generator = torch.Generator("cuda").manual_seed(5)
    x = torch.empty(4, 4, device=CUDA)
    for _ in range(3):
        x.normal_(), x.uniform_(0, 2.0), torch.rand(3, device=CUDA), torch.randn(3, device=CUDA, generator=generator)
        x.bernoulli_(0.5), F.dropout(x, 0.3), torch.randperm(5, device=CUDA), x.exponential_(generator=generator)
        torch.randint(0, 5, (3,), device=CUDA), torch.multinomial(x.abs() + 1, 2)
    x.sum().item()


def transforms() -> None:
    x = torch.arange(6.0, device=CUDA).view(2, 3)
    for _ in range(3):
        torch.func.vmap(torch.func.grad(lambda each: (each.sin() * 2.5).sum()))(x)
        time.sleep(0.1)  # autograd's thread holds tensors a little longer than a backward pass lasts
        torch.func.jvp(lambda each: each.exp() / 2, (x,), (x,))
        with torch.inference_mode():
            kept = (x + 1).view(3, 2)
        with torch.no_grad():
            kept.clone().t_().squeeze_()
        x.requires_grad_()
        checkpoint(lambda each: each.cos() * 3, x, use_reentrant=False).sum().backward()
        x = x.detach()
        time.sleep(0.1)
    torch.set_default_dtype(torch.float64)
    torch.zeros(2, device=CUDA) + torch.tensor(1.5)
    torch.set_default_dtype(torch.float32)
    torch.zeros(2, device=CUDA).tolist()


def graphs() -> None:
    x = torch.zeros(4, device=CUDA)
    for _ in range(2):
        x.add_(1.5).mul(2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x.add_(1.5).mul(2).relu()
        for _ in range(200):
            y = y + 1
    for _ in range(3):
        graph.replay()
    y.sum().item()


def several() -> None:
    x = torch.arange(4.0, device="cuda:0")
    for _ in range(3):
        y = x.to("cuda:1") + 1.5
        with torch.cuda.device(1):
            y = (
                y
                + torch.ones(4, device="cuda")
                + torch.empty(4, device="cuda").fill_(2)
                + torch.zeros(4, device="cuda:1")
            )
        x = x + y.to(x.device) + torch.ones(4, device="cuda")
    with contextlib.suppress(RuntimeError):
        x + y
    x.tolist()


def deaths() -> None:
    kept: list[Tensor] = []
    for step in range(60):
        kept.append(torch.full((3,), float(step), device=CUDA).add(1).view(3))
        if step % 7 == 0:
            del kept[::2]
    torch.stack(kept).sum().item()


PARTS: tuple[Callable[[], None], ...] = (
    training, numbers_and_constants, results, random, transforms, graphs, several, deaths,
)  # fmt: skip

if __name__ == "__main__":
    gc.disable()  # tensors in cycles would die when it happens to run
    tell_what_is_sent()
    for part in PARTS:
        label = part.__name__
        part()
