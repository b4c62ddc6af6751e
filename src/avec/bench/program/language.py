"""W3 tokens of a GPT-2, W5 a step of training a BERT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from . import zoo
from .measurement import Measurement
from .place import Place

PROMPT = 16  # tokens
NEW = 64  # tokens of a sequence
GROWING_SEQUENCES = 8  # to warm up with: each length of the cache is a shape of its own
BATCH, SENTENCE = 8, 128


class Decoding:
    """Decodes sequence after sequence, one token at a call, which is read at once."""

    def __init__(
        self, decoder: zoo.OwnDecoder | zoo.TransformersDecoder, prompt: torch.Tensor, count: int,
        begin: Callable[[], Any],
    ) -> None:  # fmt: skip
        """Prepare to decode `count` tokens after a prompt, with the cache that `begin` gives for each sequence."""
        self._decoder = decoder
        self._prompt = prompt
        self._count = count
        self._begin = begin
        self._left = 0
        self._cache: Any = None
        self._logits = self._token = prompt

    def prepare(self) -> None:
        """Begin a sequence if the last one is complete: all of the prompt in one pass."""
        if self._left == 0:
            self._cache = self._begin()
            self._take(self._decoder.logits(self._prompt, self._cache))
            self._token.tolist()
            self._left = self._count
        self._left -= 1

    def token(self) -> int:
        """Decode one token."""
        self._take(self._decoder.logits(self._token, self._cache))
        return int(self._token.item())

    def last_logits(self) -> torch.Tensor:
        """What the last token was chosen by."""
        return self._logits

    def _take(self, logits: torch.Tensor) -> None:
        self._logits, self._token = logits, logits.argmax(-1)


def tokens(place: Place) -> Iterator[Measurement]:
    """W3: a token with a cache of its final size, with one that grows, and as a plain `generate()` makes them."""
    decoder = zoo.decoder(place.small, place.device)
    place.libraries["gpt2"] = decoder.library
    generator = np.random.default_rng(2)
    prompt = torch.from_numpy(generator.integers(0, decoder.vocabulary, (1, PROMPT))).to(place.device)
    new = 8 if place.small else NEW
    static_cache = decoder.static_cache(PROMPT + new + 1)

    def emptied() -> Any:
        static_cache.reset()
        return static_cache

    with torch.inference_mode():
        for name, begin, warm in (
            ("W3.token_static", emptied, 5),
            ("W3.token_growing", decoder.growing_cache, GROWING_SEQUENCES * new),
        ):
            decoding = Decoding(decoder, prompt, new, begin)
            yield Measurement(
                name,
                decoding.token,
                before=decoding.prepare,
                values=decoding.last_logits,
                warm=warm,
            )
        yield Measurement(
            "W3.generate", lambda: decoder.generate(prompt, new), per=new, compared=1, warm=2, repeats=0.5
        )


def step(place: Place) -> Iterator[Measurement]:
    """W5: AdamW, in float32 and with autocast to bfloat16; the loss is read after each step."""
    generator = np.random.default_rng(4)
    batch = 2 if place.small else BATCH
    words = torch.from_numpy(generator.integers(0, 512 if place.small else 30000, (batch, SENTENCE))).to(place.device)
    labels = torch.from_numpy(generator.integers(0, 2, batch)).to(place.device)
    for kind in ("fp32", "bf16"):
        network, loss_of, place.libraries["bert"] = zoo.classifier(place.small)
        network = network.train().to(place.device)
        loss = loss_of(network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        torch.manual_seed(1)  # for dropout, on the accelerator too

        def one(autocast: bool = kind == "bf16") -> float:
            optimizer.zero_grad(set_to_none=True)  # noqa: B023
            with torch.autocast(place.device.type, dtype=torch.bfloat16, enabled=autocast):
                found = loss(words, labels)  # noqa: B023
            found.backward()  # type: ignore[no-untyped-call]
            optimizer.step()  # noqa: B023
            return found.item()

        yield Measurement(f"W5.{kind}_step", one, training=True)
