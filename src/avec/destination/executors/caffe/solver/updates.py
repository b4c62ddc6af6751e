"""What each type of solver makes of a diff. Source: caffe/src/caffe/solvers/*_solver.cpp, ComputeUpdateValue.

A rule turns the diffs into what is to be subtracted from the parameters, and keeps its history; both in place. It
works on all parameters at once, in a few launches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message


@dataclass(frozen=True, slots=True)
class Update:
    """The arrays of one update; `rates` are the learning rate times each parameter's lr_mult."""

    diffs: list[Tensor]
    history: list[Tensor]
    second: list[Tensor]  # the second history of the solvers that have one
    rates: list[float]
    iteration: int


Rule: TypeAlias = Callable[[Message, Update], None]


@dataclass(frozen=True, slots=True)
class SolverType:
    """One type of solver."""

    rule: Rule
    histories: int = 1
    momentum: bool = True  # whether it takes one


def _move(settings: Message, update: Update) -> None:
    """history = momentum · history + rate · diff."""
    torch._foreach_mul_(update.diffs, update.rates)
    torch._foreach_mul_(update.history, settings.momentum)
    torch._foreach_add_(update.history, update.diffs)


def _sgd(settings: Message, update: Update) -> None:
    _move(settings, update)
    torch._foreach_copy_(update.diffs, update.history)


def _nesterov(settings: Message, update: Update) -> None:
    """Step back by the old history, then further by the new one."""
    before = torch._foreach_mul(update.history, settings.momentum)
    _move(settings, update)
    torch._foreach_copy_(update.diffs, update.history)
    torch._foreach_mul_(update.diffs, 1 + settings.momentum)
    torch._foreach_sub_(update.diffs, before)


def _divide_by_root(settings: Message, update: Update) -> None:
    """diff = rate · diff / (√history + delta)."""
    roots = torch._foreach_sqrt(update.history)
    torch._foreach_add_(roots, settings.delta)
    torch._foreach_div_(update.diffs, roots)
    torch._foreach_mul_(update.diffs, update.rates)


def _ada_grad(settings: Message, update: Update) -> None:
    torch._foreach_addcmul_(update.history, update.diffs, update.diffs)
    _divide_by_root(settings, update)


def _rms_prop(settings: Message, update: Update) -> None:
    torch._foreach_mul_(update.history, settings.rms_decay)
    torch._foreach_addcmul_(update.history, update.diffs, update.diffs, 1 - settings.rms_decay)
    _divide_by_root(settings, update)


def _ada_delta(settings: Message, update: Update) -> None:
    """Scale the diff by the root of the mean square of updates over that of gradients."""
    keep = settings.momentum
    torch._foreach_mul_(update.history, keep)
    torch._foreach_addcmul_(update.history, update.diffs, update.diffs, 1 - keep)
    ratios = torch._foreach_add(update.second, settings.delta)
    torch._foreach_div_(ratios, torch._foreach_add(update.history, settings.delta))
    torch._foreach_sqrt_(ratios)
    torch._foreach_mul_(update.diffs, ratios)
    torch._foreach_mul_(update.second, keep)
    torch._foreach_addcmul_(update.second, update.diffs, update.diffs, 1 - keep)
    torch._foreach_mul_(update.diffs, update.rates)


def _adam(settings: Message, update: Update) -> None:
    first, second, time = settings.momentum, settings.momentum2, update.iteration + 1
    correction = math.sqrt(1 - second**time) / (1 - first**time)
    torch._foreach_mul_(update.history, first)
    torch._foreach_add_(update.history, update.diffs, alpha=1 - first)
    torch._foreach_mul_(update.second, second)
    torch._foreach_addcmul_(update.second, update.diffs, update.diffs, 1 - second)
    roots = torch._foreach_sqrt(update.second)
    torch._foreach_add_(roots, settings.delta)
    torch._foreach_copy_(update.diffs, update.history)
    torch._foreach_div_(update.diffs, roots)
    torch._foreach_mul_(update.diffs, [rate * correction for rate in update.rates])


SOLVER_TYPES = {
    "AdaDelta": SolverType(_ada_delta, histories=2),
    "AdaGrad": SolverType(_ada_grad, momentum=False),
    "Adam": SolverType(_adam, histories=2),
    "Nesterov": SolverType(_nesterov),
    "RMSProp": SolverType(_rms_prop, momentum=False),
    "SGD": SolverType(_sgd),
}


def check_settings(settings: Message) -> None:
    """Raise InvalidArgument for settings that a type of solver does not take."""
    kind = SOLVER_TYPES.get(settings.type)
    if kind is None:
        raise InvalidArgument(f"solver type {settings.type!r} is unknown; known are {', '.join(SOLVER_TYPES)}")
    if not kind.momentum and settings.momentum != 0:
        raise InvalidArgument(f"momentum {settings.momentum:g} cannot be used with {settings.type}; remove it")
    if settings.type == "RMSProp" and not 0 <= settings.rms_decay < 1:
        raise InvalidArgument(f"rms_decay must be 0 or more and under 1, not {settings.rms_decay}")
    if settings.regularization_type not in ("L1", "L2"):
        raise InvalidArgument(f"regularization_type {settings.regularization_type!r} is unknown; known are L1, L2")
    for name, least in (("average_loss", 1), ("iter_size", 1)):
        if getattr(settings, name) < least:
            raise InvalidArgument(f"{name} must be {least} or more, not {getattr(settings, name)}")


def regularize(settings: Message, values: list[Tensor], diffs: list[Tensor], decays: list[float]) -> None:
    """Add each parameter's decay to its diff, in place. Source: SGDSolver::Regularize."""
    local = [settings.weight_decay * decay for decay in decays]
    places = [place for place, decay in enumerate(local) if decay != 0]
    if not places:
        return
    chosen = [values[place] for place in places]
    pull = (
        torch._foreach_sign(chosen) if settings.regularization_type == "L1" else list(torch._foreach_mul(chosen, 1.0))
    )
    torch._foreach_mul_(pull, [local[place] for place in places])
    torch._foreach_add_([diffs[place] for place in places], pull)


def clip(limit: float, diffs: list[Tensor]) -> Tensor:
    """Scale diffs down, in place, to a norm of `limit` over all of them. Returns the norm before.

    Source: SGDSolver::ClipGradients.
    """
    norm: Tensor = torch.stack(torch._foreach_norm(diffs)).norm()
    torch._foreach_mul_(diffs, torch.where(norm > limit, limit / norm, 1.0))
    return norm
