"""Caffe's settings for training with several solvers, and the refusal of NCCL. Each thread has its own, as in Caffe.

The solver_count processes share the work: a data layer of the one with rank r reads every solver_count-th item.
Source: class Caffe in caffe/include/caffe/common.hpp and its bindings in caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import threading

from avec.errors import UnsupportedOperation


class _Settings(threading.local):
    solver_count: int = 1
    solver_rank: int = 0
    multiprocess: bool = False


_settings = _Settings()


def solver_count() -> int:
    """How many solvers train together."""
    return _settings.solver_count


def set_solver_count(count: int) -> None:
    """Set how many solvers train together."""
    _settings.solver_count = _integer("solver_count", count)


def solver_rank() -> int:
    """Which of the solvers this is, from 0."""
    return _settings.solver_rank


def set_solver_rank(rank: int) -> None:
    """Set which of the solvers this is; only 0 writes snapshots and displays its progress."""
    _settings.solver_rank = _integer("solver_rank", rank)


def multiprocess() -> bool:
    """Whether the solvers are processes rather than threads of one."""
    return _settings.multiprocess


def set_multiprocess(value: bool) -> None:
    """Set whether the solvers are processes rather than threads of one."""
    if not isinstance(value, int):
        raise TypeError(f"caffe.set_multiprocess takes True or False, not {value!r}")
    _settings.multiprocess = bool(value)


def _integer(name: str, value: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"caffe.set_{name} takes an integer, not {value!r}")
    return value


def has_nccl() -> bool:
    """False: a session has one accelerator, so there is nothing to exchange gradients with."""
    return False


class NCCL:
    """Refused; programs ask `has_nccl` before they use it."""

    def __init__(self, *_args: object) -> None:
        _refuse()

    @staticmethod
    def new_uid() -> bytes:
        """Refused."""
        _refuse()
        return b""


def _refuse() -> None:
    raise UnsupportedOperation(
        "caffe.NCCL is not supported: a session has one accelerator; train with one solver (caffe.has_nccl() is False)"
    )
