"""What code is made for."""

from __future__ import annotations

from typing import NamedTuple


class GPUTarget(NamedTuple):
    backend: str
    arch: int
    warp_size: int
