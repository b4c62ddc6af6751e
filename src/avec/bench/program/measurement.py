"""One measurement: what is timed, how often, and the digest of its values. Not here: what the workloads compute."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

FEWEST = 2  # repeats, however long they take


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something to time.

    Its first calls are not timed: of their values a digest is made, in which native and AVEC have to agree. Some more
    are to warm up. A training step is compared in a mode in which a GPU gives the same bits each time, which torch's
    fastest kernels do not, and timed without it.
    """

    name: str
    body: Callable[[], object]  # ends in a wait for the accelerator; gives values to compare, or None
    per: int = 1  # how many items one call handles; times are given for one
    before: Callable[[], None] | None = None  # before each call, not timed
    values: Callable[[], object] | None = None  # after each compared call, not timed: more values to compare
    training: bool = False
    compared: int = 8
    warm: int = 5
    repeats: float = 1.0  # times the number that was asked for
    nbytes: int = 0  # that one call transfers, for a measurement of that


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: so many repeats, but no longer than the limit unless that would be too few."""

    repeats: int
    limit_s: float


def measured(measurement: Measurement, effort: Effort) -> dict[str, object]:
    """Carry a measurement out; give what there is to say about it, as JSON has it."""
    digest, digested = hashlib.sha256(), 0
    first_ns = 0
    with same_bits() if measurement.training else contextlib.nullcontext():
        for number in range(measurement.compared):
            began_ns, values, ended_ns = _called(measurement)
            first_ns = first_ns if number else ended_ns - began_ns
            more = None if measurement.values is None else measurement.values()
            for content in map(_bytes_of, (values, more)):
                digest.update(content)
                digested += len(content)
    for _ in range(measurement.warm):
        _called(measurement)
    windows: list[tuple[int, int]] = []
    started_s, cpu_s = time.monotonic(), 0.0
    wanted = max(FEWEST, int(effort.repeats * measurement.repeats))
    while len(windows) < FEWEST or (len(windows) < wanted and time.monotonic() - started_s < effort.limit_s):
        before_s = time.process_time()
        began_ns, _, ended_ns = _called(measurement)
        cpu_s += time.process_time() - before_s
        windows.append((began_ns, ended_ns))
    return {
        "name": measurement.name,
        "per": measurement.per,
        "nbytes": measurement.nbytes,
        "first_ms": first_ns / 1e6,
        "cpu_ms": 1e3 * cpu_s / len(windows) / measurement.per,
        "digest": digest.hexdigest() if digested else None,
        "windows_ns": windows,  # CLOCK_MONOTONIC, as in AVEC's own report
    }


def _called(measurement: Measurement) -> tuple[int, object, int]:
    if measurement.before is not None:
        measurement.before()
    began_ns = time.monotonic_ns()
    values = measurement.body()
    return began_ns, values, time.monotonic_ns()


@contextlib.contextmanager
def same_bits() -> Iterator[None]:
    """Have torch choose kernels that give the same bits each time, where it has a choice."""
    cudnn: Any = torch.backends.cudnn
    attention: Any = torch.backends.cuda
    before = cudnn.deterministic, attention.mem_efficient_sdp_enabled(), attention.flash_sdp_enabled()
    before_cudnn_sdp = attention.cudnn_sdp_enabled()

    def choose(deterministic: bool, efficient: bool, flash: bool, cudnn_sdp: bool) -> None:
        cudnn.deterministic = deterministic
        attention.enable_mem_efficient_sdp(efficient)
        attention.enable_flash_sdp(flash)
        attention.enable_cudnn_sdp(cudnn_sdp)

    choose(True, False, False, False)
    try:
        yield
    finally:
        choose(*before, before_cudnn_sdp)


def _bytes_of(values: object) -> bytes:
    """All bits of some values."""
    if values is None:
        return b""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.ascontiguousarray(np.asarray(values)).tobytes()
