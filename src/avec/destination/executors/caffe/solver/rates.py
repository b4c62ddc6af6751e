"""The learning rate of an iteration. Source: caffe/src/caffe/solvers/sgd_solver.cpp, GetLearningRate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message

Factor: TypeAlias = Callable[[Message, int, int], float]  # settings, iteration, current step → what base_lr is times


def learning_rate(settings: Message, iteration: int, step: int) -> float:
    """The rate by the solver's policy, rounded to float32 as Caffe does.

    Args:
        step: of the policies "step" and "multistep", see `current_step`.
    """
    return float(np.float32(settings.base_lr * FACTORS[settings.lr_policy](settings, iteration, step)))


def current_step(settings: Message, iteration: int, step: int) -> int:
    """How many steps down have been made at an iteration, `step` of them before."""
    if settings.lr_policy == "step":
        return int(iteration // settings.stepsize)
    if settings.lr_policy == "multistep" and step < len(settings.stepvalue) and iteration >= settings.stepvalue[step]:
        return step + 1
    return step


def check_policy(settings: Message) -> None:
    """Raise InvalidArgument for settings that no rate can be computed from."""
    policy = settings.lr_policy
    if policy not in FACTORS:
        raise InvalidArgument(f"lr_policy {policy!r} is unknown; known are {', '.join(FACTORS)}")
    if policy in ("step", "sigmoid") and settings.stepsize <= 0:
        raise InvalidArgument(f"lr_policy {policy!r} needs a positive stepsize, not {settings.stepsize}")
    if policy not in ("fixed", "poly") and settings.gamma < 0:
        raise InvalidArgument(f"lr_policy {policy!r} needs a gamma of 0 or more, not {settings.gamma}")


def _fixed(settings: Message, iteration: int, step: int) -> float:
    return 1.0


def _steps(settings: Message, iteration: int, step: int) -> float:
    return _power(settings.gamma, step)


def _exp(settings: Message, iteration: int, step: int) -> float:
    return _power(settings.gamma, iteration)


def _inv(settings: Message, iteration: int, step: int) -> float:
    return _power(1 + settings.gamma * iteration, -settings.power)


def _poly(settings: Message, iteration: int, step: int) -> float:
    if settings.max_iter == 0:
        return math.nan
    return _power(1 - iteration / settings.max_iter, settings.power)


def _sigmoid(settings: Message, iteration: int, step: int) -> float:
    return float(1 / (1 + np.exp(-settings.gamma * (iteration - settings.stepsize))))


def _power(base: float, exponent: float) -> float:
    """As C's pow: no exception where the result is no number or infinite."""
    with np.errstate(all="ignore"):
        return float(np.power(np.float64(base), np.float64(exponent)))


FACTORS: dict[str, Factor] = {
    "fixed": _fixed,
    "step": _steps,
    "exp": _exp,
    "inv": _inv,
    "multistep": _steps,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
