"""GPT-2, with a cache of keys and values that grows, or that has its full size from the start.

Source: Radford et al. 2019; sizes of the smallest, "gpt2".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Sizes:
    """What distinguishes one GPT-2 from another."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257
    context: int = 1024


class Cache(Protocol):
    """Keys and values of the tokens so far, layer by layer."""

    def positions(self, count: int) -> torch.Tensor:
        """Where the next `count` tokens stand."""

    def extended(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a layer's keys and values [1, heads, count, width]; give all that it has."""

    def mask(self, count: int) -> torch.Tensor | None:
        """Which keys each of the last `count` tokens sees; None: all."""

    def end(self, count: int) -> None:
        """Take note that all layers have added `count` tokens."""


class GrowingCache:
    """A cache whose tensors are made anew, one token longer, at each step."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self._device = device
        self._seen = 0
        self._kept: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * sizes.layers

    def positions(self, count: int) -> torch.Tensor:
        return torch.arange(self._seen, self._seen + count, device=self._device)

    def extended(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = self._kept[layer]
        if kept is not None:
            key, value = torch.cat([kept[0], key], 2), torch.cat([kept[1], value], 2)
        self._kept[layer] = key, value
        return key, value

    def mask(self, count: int) -> torch.Tensor | None:
        if count == 1:
            return None
        everything = torch.ones(count, self._seen + count, dtype=torch.bool, device=self._device)
        return everything.tril(self._seen)

    def end(self, count: int) -> None:
        self._seen += count


class StaticCache:
    """A cache of `length` tokens, whose place for the next one is a number on the accelerator."""

    def __init__(self, sizes: Sizes, device: torch.device, length: int) -> None:
        shape = (sizes.layers, 1, sizes.heads, length, sizes.width // sizes.heads)
        self._keys, self._values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self._places = torch.arange(length, device=device)
        self._seen = torch.zeros((), dtype=torch.int64, device=device)

    def positions(self, count: int) -> torch.Tensor:
        return self._places[:count] + self._seen

    def extended(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = self.positions(key.shape[2])
        keys = self._keys[layer].index_copy_(2, positions, key)
        return keys, self._values[layer].index_copy_(2, positions, value)

    def mask(self, count: int) -> torch.Tensor | None:
        return self._places <= self.positions(count)[:, None]

    def end(self, count: int) -> None:
        self._seen += count

    def reset(self) -> None:
        """Forget all tokens."""
        self._seen.zero_()


class Layer(nn.Module):
    """Attention and feed-forward part, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, sizes: Sizes, number: int) -> None:
        super().__init__()
        width = sizes.width
        self.number, self.heads = number, sizes.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, cache: Cache, mask: torch.Tensor | None) -> torch.Tensor:
        """Tokens' states [1, count, width] → the same."""
        batch, count, width = x.shape
        query, key, value = (
            each.view(batch, count, self.heads, -1).transpose(1, 2)
            for each in self.inputs(self.before(x)).split(width, dim=2)
        )
        keys, values = cache.extended(self.number, key, value)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        x = x + self.outputs(mixed.transpose(1, 2).reshape(batch, count, width))
        fed: torch.Tensor = self.feed(self.between(x))
        return x + fed


class GPT2(nn.Module):
    """The language model; its output matrix is its embedding."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.places = nn.Embedding(sizes.context, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes, number) for number in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, tokens: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Logits [1, count, vocabulary] of tokens [1, count]; the cache knows those before them."""
        count = tokens.shape[1]
        x = self.tokens(tokens) + self.places(cache.positions(count))
        mask = cache.mask(count)
        for layer in self.layers:
            x = layer(x, cache, mask)
        cache.end(count)
        return functional.linear(self.norm(x), self.tokens.weight)
