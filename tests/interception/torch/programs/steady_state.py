"""Trains small nets of the usual kinds; says which operators were still described anew in the last steps, where all
has been seen before. Run under AVEC alone: it looks into the kernels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avec.interception.torch.kernels import Kernels

WARM_UP, STEPS, BATCH = 2, 4, 4
described: Counter[str] = Counter()
call = Kernels.call


def counted(self: Kernels, operator: object, *args: object) -> object:
    """Kernels.call, noted."""
    described[operator.name] += 1  # type: ignore[attr-defined]
    return call(self, operator, *args)  # type: ignore[arg-type]


class Recurrent(nn.Module):
    """A recurrent network and what is made of its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(8, 12, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(24, 4)

    def forward(self, data: Tensor) -> Tensor:
        return self.head(self.cells(data)[0][:, -1])


class Decoder(nn.Module):
    """Attention as a language model has it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.norm, self.mixing, self.head = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 20)

    def forward(self, words: Tensor) -> Tensor:
        batch, length = words.shape
        hidden = self.words(words) + self.places(torch.arange(length, device=words.device))
        heads = (each.view(batch, length, 2, 8).transpose(1, 2) for each in self.mixing(self.norm(hidden)).split(16, 2))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(batch, length, 16)
        return self.head(F.dropout(hidden + mixed, 0.1)).flatten(0, 1)


def train(
    net: nn.Module, data: Callable[[], Tensor], optimizer: type, dtype: torch.dtype | None, **options: object
) -> None:
    """Train for some steps; only the last ones are counted."""
    net.cuda()
    steps = optimizer(net.parameters(), **options)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    for step in range(STEPS):
        Kernels.call = counted if step >= WARM_UP else call  # type: ignore[method-assign, assignment]
        given = data().cuda()
        steps.zero_grad()
        with torch.autocast("cuda", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            scores = net(given)
            loss = F.cross_entropy(scores, torch.randint(0, 4, scores.shape[:1]).cuda())
        scaler.scale(loss).backward()
        scaler.unscale_(steps)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(steps)
        scaler.update()
        loss.item()
    Kernels.call = call  # type: ignore[method-assign]


def main() -> None:
    """Train all nets, and say what was described in their last steps."""
    torch.set_num_threads(1)
    perceptron = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.LayerNorm(16), nn.Linear(16, 4))
    pictures = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    encoder = nn.Sequential(
        nn.Embedding(20, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Flatten(0, 1)
    )
    for optimizer, options in (
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.AdamW, {"foreach": False}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    ):
        train(perceptron, lambda: torch.randn(BATCH, 8), optimizer, None, **options)
    train(pictures, lambda: torch.randn(BATCH, 3, 8, 8), torch.optim.AdamW, torch.float16)
    train(encoder, lambda: torch.randint(0, 20, (BATCH, 6)), torch.optim.AdamW, torch.bfloat16)
    train(Decoder(), lambda: torch.randint(0, 20, (BATCH, 6)), torch.optim.AdamW, None, fused=True)
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        train(Recurrent(kind), lambda: torch.randn(BATCH, 5, 8), torch.optim.Adam, None)
    print(json.dumps(described))


if __name__ == "__main__":
    main()
