"""W6 the smallest things that a program asks of an accelerator, W7 the largest that it sends and receives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .measurement import Measurement
from .place import Place

OPERATORS = 2000
TRANSFER_MIB = 256


def small(place: Place) -> Iterator[Measurement]:
    """W6: operators on 1024 numbers, a number read, and a wait for nothing."""
    initial = torch.from_numpy(np.random.default_rng(5).random(1024, dtype=np.float32)).to(place.device)
    added = (initial * 1e-4).clone()
    rounds = (200 if place.small else OPERATORS) // 2

    def operators() -> float:
        x = initial
        for _ in range(rounds):
            x = x * 1.0001 + added
        return x[0].item()

    total = initial.sum()
    yield Measurement("W6.tiny_operator", operators, per=2 * rounds)
    yield Measurement("W6.item", total.item, repeats=10)
    yield Measurement("W6.synchronize", place.synchronize, repeats=10)


def transfers(place: Place) -> Iterator[Measurement]:
    """W7: 256 MiB of new numbers up, the same numbers up again, and down, in memory that is not pinned."""
    count = (4 if place.small else TRANSFER_MIB) << 18
    page = numbers(count)
    nbytes = page.numel() * page.element_size()
    target = torch.empty_like(page, device=place.device)

    def renew() -> None:
        page.add_(1.0)

    def upload() -> None:
        target.copy_(page)
        place.synchronize()

    def checksum() -> int:
        return int(target.view(torch.int32).sum().item())

    def download() -> None:
        page.copy_(target)

    yield Measurement(
        "W7.upload", upload, before=renew, values=checksum, compared=1, warm=1, repeats=0.3, nbytes=nbytes
    )
    page = numbers(count)
    # The third time at the latest a destination can have it by its name.
    yield Measurement("W7.upload_again", upload, values=checksum, compared=3, warm=1, repeats=0.3, nbytes=nbytes)
    yield Measurement("W7.download", download, values=lambda: page, compared=1, warm=1, repeats=0.3, nbytes=nbytes)


def numbers(count: int) -> torch.Tensor:
    """Random numbers, the same each time, in the host's memory."""
    return torch.rand(count, generator=torch.Generator().manual_seed(6))
