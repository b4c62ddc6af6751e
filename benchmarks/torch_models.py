"""Networks that the PyTorch benchmarks run, with random weights: ResNets and a GPT for training."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from avec.bench.program.networks.resnet import ResNet

__all__ = ["GPT", "ResNet"]


class Attention(nn.Module):
    """Causal self-attention with a residual and a feed-forward part, as in GPT-2."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        query, key, value = (
            each.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for each in self.inputs(self.before(x)).split(width, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        x = x + self.outputs(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.between(x))


class GPT(nn.Module):
    """A GPT; `forward` gives the logits of every position."""

    def __init__(
        self, vocabulary: int, width: int, layers: int, heads: int, context: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Attention(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.layers(self.tokens(tokens) + self.positions(positions))))
