"""caffe.set_random_seed: runs after the same seed repeat. Each thread has its own seed, as in Caffe.

The numbers are not those of Caffe's own generators. Source: Caffe::set_random_seed in caffe/src/caffe/common.cpp.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

import numpy as np

_SEED_LIMIT = 2**32  # an unsigned int, as in Caffe
_DRAWN_LIMIT = 2**63
UNSEEDED = -1  # what the protocol and `draw_seed` call no seed


class Seeded(Protocol):
    """A net with random layers."""

    def reseed(self, seed: int) -> None:
        """Begin the random numbers anew."""


class _State(threading.local):
    def __init__(self) -> None:
        self.generator: np.random.Generator | None = None
        self.nets: weakref.WeakSet[Seeded] = weakref.WeakSet()


_state = _State()


def set_random_seed(seed: int) -> None:
    """Let all that is random from here on repeat what followed the last time that this seed was set."""
    if not isinstance(seed, (int, np.integer)):
        raise TypeError(f"caffe.set_random_seed takes an integer, not {seed!r}")
    if not 0 <= seed < _SEED_LIMIT:
        raise OverflowError(f"caffe.set_random_seed takes 0 to {_SEED_LIMIT - 1}, not {seed}")
    _state.generator = np.random.default_rng(int(seed))
    for net in tuple(_state.nets):
        net.reseed(int(seed))


def follow(net: Seeded) -> None:
    """Let a net begin its random numbers anew whenever this thread sets a seed."""
    _state.nets.add(net)


def draw_seed() -> int:
    """The seed for the next net, or whatever else needs random numbers; UNSEEDED if no seed was set."""
    return UNSEEDED if _state.generator is None else int(_state.generator.integers(_DRAWN_LIMIT))
