"""BERT as a classifier of sentences. Source: Devlin et al. 2018; sizes of "bert-base-uncased"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Sizes:
    """What distinguishes one BERT from another."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 30522
    context: int = 512
    dropout: float = 0.1


class Layer(nn.Module):
    """Attention and feed-forward part, each added to its input and normalised after that."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.heads, self.dropped = sizes.heads, sizes.dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.outputs = nn.Sequential(nn.Linear(width, width), nn.Dropout(sizes.dropout))
        self.feed = nn.Sequential(
            nn.Linear(width, sizes.inner), nn.GELU(), nn.Linear(sizes.inner, width), nn.Dropout(sizes.dropout)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """States [N, count, width] → the same."""
        batch, count, width = x.shape
        query, key, value = (
            each(x).view(batch, count, self.heads, -1).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        dropout = self.dropped if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        x = self.norms[0](x + self.outputs(mixed.transpose(1, 2).reshape(batch, count, width)))
        normed: torch.Tensor = self.norms[1](x + self.feed(x))
        return normed


class Bert(nn.Module):
    """The encoder, its pooler and a classifier of two classes."""

    def __init__(self, sizes: Sizes, classes: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.places = nn.Embedding(sizes.context, sizes.width)
        self.kinds = nn.Embedding(2, sizes.width)
        self.norm, self.dropout = nn.LayerNorm(sizes.width, eps=1e-12), nn.Dropout(sizes.dropout)
        self.layers = nn.Sequential(*(Layer(sizes) for _ in range(sizes.layers)))
        self.pooler = nn.Linear(sizes.width, sizes.width)
        self.head = nn.Linear(sizes.width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes] of sentences [N, count]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.places(places) + self.kinds(torch.zeros_like(tokens))
        x = self.layers(self.dropout(self.norm(x)))
        logits: torch.Tensor = self.head(self.dropout(torch.tanh(self.pooler(x[:, 0]))))
        return logits
