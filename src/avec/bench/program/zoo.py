"""The workloads' networks: from the libraries that people take them from, where those are installed, else our own.

The small sizes, for a CPU, are always our own. Each comes with the name of its library, which the record states.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .networks import bert, gpt2
from .networks.openpose import OpenPose
from .networks.resnet import ResNet

OWN = "own"
SMALL_GPT2 = gpt2.Sizes(layers=2, width=64, heads=2, vocabulary=512, context=128)
SMALL_BERT = bert.Sizes(layers=2, width=64, heads=2, inner=128, vocabulary=512, context=128)


def openpose(small: bool) -> tuple[nn.Module, str]:
    """OpenPose's COCO net, which no library has without its licence."""
    torch.manual_seed(0)
    return OpenPose(1 / 8 if small else 1.0), OWN


def resnet(depth: int, small: bool) -> tuple[nn.Module, str]:
    """ResNet-18 or ResNet-50."""
    torch.manual_seed(0)
    if small:
        return ResNet(depth, 10, 8), OWN
    if find_spec("timm"):
        return importlib.import_module("timm").create_model(f"resnet{depth}", pretrained=False), "timm"
    if find_spec("torchvision"):
        models = importlib.import_module("torchvision.models")
        return getattr(models, f"resnet{depth}")(weights=None), "torchvision"
    return ResNet(depth), OWN


class OwnDecoder:
    """Our own GPT-2, called as the decoding workloads call one."""

    def __init__(self, sizes: gpt2.Sizes, device: torch.device) -> None:
        torch.manual_seed(0)
        self._network = gpt2.GPT2(sizes).eval().to(device)
        self._device = device
        self.library = OWN
        self.vocabulary = sizes.vocabulary

    def growing_cache(self) -> object:
        """An empty cache, to grow."""
        return gpt2.GrowingCache(self._network.sizes, self._device)

    def static_cache(self, length: int) -> gpt2.StaticCache:
        """An empty cache of its final size."""
        return gpt2.StaticCache(self._network.sizes, self._device, length)

    def logits(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits of the last of the tokens."""
        logits: torch.Tensor = self._network(tokens, cache)
        return logits[:, -1:]

    def generate(self, prompt: torch.Tensor, count: int) -> list[int]:
        """Greedy decoding as libraries do it: after each token they look whether the text has ended."""
        cache = gpt2.GrowingCache(self._network.sizes, self._device)
        text = prompt
        ended = torch.zeros(1, dtype=torch.bool, device=self._device)
        token = prompt
        for _ in range(count):
            token = self.logits(token, cache).argmax(-1)
            text = torch.cat([text, token], 1)
            if (ended | (token[:, 0] < 0)).all():
                break
        return [int(each) for each in text[0].cpu().tolist()]


class TransformersDecoder:
    """GPT-2 of transformers, with its caches and its `generate`."""

    def __init__(self, device: torch.device) -> None:
        self._library = importlib.import_module("transformers")
        torch.manual_seed(0)
        self._network = self._library.GPT2LMHeadModel(self._library.GPT2Config()).eval().to(device)
        self._network.generation_config.eos_token_id = None
        self.library = "transformers"
        self.vocabulary: int = self._network.config.vocab_size

    def growing_cache(self) -> object:
        """An empty cache, to grow."""
        return self._library.DynamicCache(config=self._network.config)

    def static_cache(self, length: int) -> Any:
        """An empty cache of its final size."""
        return self._library.StaticCache(config=self._network.config, max_cache_len=length)

    def logits(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits of the last of the tokens."""
        logits: torch.Tensor = self._network(tokens, past_key_values=cache, use_cache=True).logits
        return logits[:, -1:]

    def generate(self, prompt: torch.Tensor, count: int) -> list[int]:
        """Greedy decoding by the library's own loop."""
        found = self._network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=self.vocabulary - 1,
        )
        return [int(each) for each in found[0].cpu().tolist()]


def decoder(small: bool, device: torch.device) -> OwnDecoder | TransformersDecoder:
    """GPT-2 on a device."""
    if small:
        return OwnDecoder(SMALL_GPT2, device)
    return TransformersDecoder(device) if find_spec("transformers") else OwnDecoder(gpt2.Sizes(), device)


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def classifier(small: bool) -> tuple[nn.Module, Callable[[nn.Module], Loss], str]:
    """BERT, the loss of it for tokens and labels, and its library."""
    torch.manual_seed(0)
    if not small and find_spec("transformers"):
        library = importlib.import_module("transformers")
        return library.BertForSequenceClassification(library.BertConfig()), _transformers_loss, "transformers"
    return bert.Bert(SMALL_BERT if small else bert.Sizes()), _own_loss, OWN


def _own_loss(network: nn.Module) -> Loss:
    def loss(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(network(tokens), labels)

    return loss


def _transformers_loss(network: nn.Module) -> Loss:
    def loss(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss
        return found

    return loss
