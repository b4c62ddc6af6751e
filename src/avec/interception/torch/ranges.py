"""Profilers on a host without a GPU: NVTX ranges are only counted, and torch.profiler shows the host's own time.

Both would otherwise look for CUDA in this process. What the destination does is in AVEC's own report and trace.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import profiler

from avec.interception.patching import Patches

_STATES: Any = vars(profiler)["ProfilerState"]


class Ranges:
    """Stands in for torch._C._nvtx. Thread-safe."""

    def __init__(self) -> None:
        self._depths = threading.local()
        self._numbers = itertools.count(1)

    def rangePushA(self, message: str) -> int:
        """Begin a range; give its depth, from 0."""
        depth: int = self._depths.__dict__.get("depth", 0)
        self._depths.depth = depth + 1
        return depth

    def rangePop(self) -> int:
        """End the innermost range; give its depth, or −2 where there is none."""
        depth: int = self._depths.__dict__.get("depth", 0)
        if not depth:
            return -2
        self._depths.depth = depth - 1
        return depth - 1

    def rangeStartA(self, message: str) -> int:
        """Begin a range that any thread may end; give its number."""
        return next(self._numbers)

    def rangeEnd(self, number: int) -> None:
        """End such a range."""

    def markA(self, message: str) -> None:
        """Note a moment."""

    def deviceRangeStart(self, message: str, stream: int) -> int:
        """Begin a range in an accelerator's time."""
        return next(self._numbers)

    def deviceRangeEnd(self, number: object, stream: int) -> None:
        """End such a range."""


def _config(original: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(original)
    def config(self: Any, *args: Any, **kwargs: Any) -> object:
        """With CUDA asked for and no CUPTI at hand torch would note CUDA events around each operator."""
        if self.profiler_kind == _STATES.KINETO_GPU_FALLBACK:
            self.profiler_kind = _STATES.KINETO
        return original(self, *args, **kwargs)

    return config


def _enter_nvtx(self: Any) -> Any:
    torch.cuda.synchronize()
    return self


def _exit_nvtx(self: Any, exc_type: Any, exc_val: Any, exc_tb: Any) -> bool:
    torch.cuda.synchronize()
    return False


def patch(patches: Patches) -> None:
    """Give torch these ranges, and keep its profilers from CUDA."""
    patches.replace(profiler.profile, "config", _config)
    patches.stand_in(profiler.emit_nvtx, {"__enter__": _enter_nvtx, "__exit__": _exit_nvtx})
    ranges = Ranges()
    for owner in (torch._C, torch.cuda.nvtx):
        patches.replace(owner, "_nvtx", lambda original: ranges)
