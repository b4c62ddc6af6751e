"""Whether what a program asks for fits into an accelerator's memory.

What can never fit is refused at once. Where memory may run out, the host waits, so that the operator at fault raises
and nothing is built on a result that will never be: a program that catches that goes on with less. It waits only when
more is in use than ever before, so a loop that repeats itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from avec.protocol.torch import OFFSET_BITS, Device

if TYPE_CHECKING:
    from .storages import Arena

FRESH_NBYTES = 64 << 20  # memory that was never in use before is looked at in steps of this size
ASKED_SHARE = 8  # once an eighth of an accelerator is in use, the destination is asked how much others left
SAFE_SHARE = 2  # up to half of what is there, nothing is expected to fail


class Room:
    """The memory of a destination's accelerators, as far as this session is concerned."""

    def __init__(
        self, arena: Arena, accelerators: Callable[[], Sequence[Device]], free_nbytes: Callable[[int], int]
    ) -> None:
        """Begin to look after an arena's storages.

        Args:
            accelerators: tells what the destination has.
            free_nbytes: asks it how much of one's memory is free.
        """
        self._arena = arena
        self._accelerators = accelerators
        self._free_nbytes = free_nbytes
        self._fitted: dict[int, int] = {}  # by accelerator: bytes in use when all was well
        self._there: dict[int, int] = {}  # by accelerator: bytes that this session may get

    def admit(self, nbytes: int, device: int) -> None:
        """Refuse a storage that is larger than its accelerator.

        Raises:
            torch.OutOfMemoryError: as torch does.
        """
        if nbytes < FRESH_NBYTES:
            return
        accelerator = self._accelerators()[device]
        if nbytes > min(accelerator.total_memory, 1 << OFFSET_BITS):
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {_readable(nbytes)}. GPU {device} has a total capacity of"
                f" {_readable(accelerator.total_memory)} ({accelerator.name}, at the destination)."
            )

    def see(self, wait: Callable[[], object]) -> None:
        """Wait for what was sent last if it needs more memory than was ever in use, and that may be too much."""
        if self._arena.fresh_nbytes < FRESH_NBYTES:
            return
        self._arena.fresh_nbytes = 0
        for device, nbytes in self._arena.live_nbytes().items():
            if nbytes > self._fitted.get(device, 0) and nbytes > self._safe_nbytes(device, nbytes):
                wait()
                self._fitted[device] = nbytes

    def _safe_nbytes(self, device: int, nbytes: int) -> int:
        there = self._there.get(device)
        if there is None:
            total = self._accelerators()[device].total_memory
            if nbytes <= total // ASKED_SHARE:
                return nbytes
            there = self._there[device] = nbytes + self._free_nbytes(device)
        return there // SAFE_SHARE


def _readable(nbytes: int) -> str:
    """A size as torch writes it. Source: c10/cuda/CUDACachingAllocator.cpp, format_size."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if nbytes >= 1 << power:
            return f"{nbytes / (1 << power):.2f} {unit}"
    return f"{nbytes} bytes"
