"""Compiles nothing: it trains, generates, branches on values, and fails, as asked; prints as JSON what it has seen."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)


class Classifier(nn.Module):
    """With all that changes while it is trained: statistics, dropped units, parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return self.last(self.features(x).mean((2, 3))) * scale


class Block(nn.Module):
    """A block of a decoder, with a cache that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.projections, self.last = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
        q, k, v = self.projections(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - q.shape[2])
        weights = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -1e9).softmax(-1)
        return x + self.last((weights @ v).transpose(1, 2).flatten(2)), (k, v)


class Decoder(nn.Module):
    """A small GPT."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(32, 16), nn.Embedding(64, 16)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.last = nn.Linear(16, 32)

    def forward(self, tokens: torch.Tensor, past: list[Any] | None = None, position: int = 0) -> dict[str, Any]:
        x = self.tokens(tokens) + self.places(torch.arange(position, position + tokens.shape[1], device=tokens.device))
        cache = []
        for number, block in enumerate(self.blocks):
            x, kept = block(x, past[number] if past else None)
            cache.append(kept)
        return {"logits": self.last(x), "cache": cache}


class Branching(nn.Module):
    """Branches on a value, which breaks its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).sin()
        return self.inner(y) * 2 if y.sum().item() > 0 else self.inner(-y)


class Refusing(nn.Module):
    """Raises an exception of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (self.layer(x).sin() * 2).tanh()
        if len(x) > 2:
            raise KeyError("too many")
        return y


def training() -> list[float]:
    torch.manual_seed(0)
    net = Classifier().to("cuda")
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    x, y = torch.randn(20, 3, 8, 8, device="cuda"), torch.arange(20, device="cuda") % 4
    seen = []
    for first in (0, 8, 16, 0, 8, 16):  # the last batch is smaller
        net.train()
        loss = F.cross_entropy(net(x[first : first + 8]), y[first : first + 8])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        net.eval()
        with torch.no_grad():
            seen += [loss.item(), net(x, scale=0.5).sum().item()]
    return seen + [each.double().sum().item() for each in net.buffers()]


def generating() -> list[float]:
    torch.manual_seed(0)
    net = Decoder().to("cuda").eval()
    tokens, past, position = torch.tensor([[1, 2, 3]], device="cuda"), None, 0
    seen = []
    with torch.no_grad():
        for _ in range(24):
            given = net(tokens, past, position=position)
            position, past = position + tokens.shape[1], given["cache"]
            tokens = given["logits"][:, -1:].argmax(-1)
            seen += [tokens.item(), given["logits"][0, -1, 0].item()]
    return seen


def branching() -> list[float]:
    torch.manual_seed(0)
    net = Branching().to("cuda")
    seen = []
    for sign in (1.0, -1.0, 1.0):
        y = net(torch.full((2, 8), sign, device="cuda")).sum()
        y.backward()
        assert net.first.weight.grad is not None
        seen += [y.item(), net.first.weight.grad.sum().item()]
    return seen


def failing() -> list[Any]:
    torch.manual_seed(0)
    net = Refusing().to("cuda")
    seen: list[Any] = []
    for rows in (3, 2, 4):
        try:
            seen.append(net(torch.ones(rows, 8, device="cuda")).sum().item())
        except KeyError as exc:
            frames = [each.name for each in traceback.extract_tb(exc.__traceback__) if each.filename == __file__]
            seen += [repr(exc), frames]
    return seen


if __name__ == "__main__":
    functions = {each.__name__: each for each in (training, generating, branching, failing)}
    print(json.dumps({name: functions[name]() for name in sys.argv[1:] or functions}))
