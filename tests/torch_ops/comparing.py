"""What the checks of operators, modules and optimizers share: moving what is given, comparing what came out."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch.utils import _pytree as pytree

SEED = 20
FAILURES_KEPT = 4  # of each operator: enough to see what is wrong
TEXT_LENGTH = 400
# rtol, atol. Both sides are the CPU's kernels, but native CUDA's way to them is other than the CPU's: other operators
# are composed, and sums are done in another order.
TOLERANCES = {
    torch.float64: (1e-7, 1e-7), torch.complex128: (1e-7, 1e-7),
    torch.float32: (2e-5, 2e-5), torch.complex64: (2e-5, 2e-5),
    torch.float16: (4e-3, 4e-3), torch.complex32: (4e-3, 4e-3), torch.bfloat16: (2e-2, 2e-2),
}  # fmt: skip


@dataclass
class Outcome:
    """What became of one operator: how many checks it had and passed, and what the first failures said."""

    operator: str
    checks: int = 0
    passed: int = 0
    failures: list[str] = field(default_factory=list)

    def failed(self, what: str, exc: BaseException) -> None:
        """Note a failure."""
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(f"{what}: {type(exc).__name__}: {str(exc)[:TEXT_LENGTH]}")


class Different(Exception):
    """The destination gave something else."""


def seed() -> None:
    """Begin all generators anew that the suite makes its inputs with."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    numpy.random.seed(SEED)


def on_device(value: Any, device: str) -> Any:
    """A copy with the tensors, and the devices that are named, on a device."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _copy(value.detach(), device).requires_grad_(value.requires_grad)
        if isinstance(value, torch.device) or isinstance(value, str) and value in ("cpu", "cuda", "cuda:0"):
            return torch.device(device)
        return value

    return pytree.tree_map(move, value)


def _copy(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A copy on a device; of a part of a larger memory, with all of that."""
    if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() == tensor.nbytes or not tensor.numel():
        return tensor.to(device, copy=True)
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return memory.to(device, copy=True).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in it."""
    return [each for each in pytree.tree_leaves(value) if isinstance(each, torch.Tensor)]


def weights(like: torch.Tensor) -> torch.Tensor:
    """Weights of elements in the sum that is differentiated; not all alike, or softmax would have no gradient."""
    count = like.numel()
    weights = 1 + torch.arange(count).remainder(7).to(torch.float64).div(7)
    return weights.reshape(like.shape).to(like.dtype).to(like.device)


def compare(expected: Any, given: Any, device: str = "cuda", loose: float = 1, defined: bool = True) -> None:
    """Compare results.

    Args:
        device: where tensors have to be.
        loose: a factor on the tolerances.
        defined: elements have values; else only the kinds of tensors are compared.

    Raises:
        Different, AssertionError: they are not alike.
    """
    expected_leaves, given_leaves = pytree.tree_leaves(expected), pytree.tree_leaves(given)
    if len(expected_leaves) != len(given_leaves):
        raise Different(f"{len(given_leaves)} results, not {len(expected_leaves)}")
    for one, other in zip(expected_leaves, given_leaves, strict=True):
        if isinstance(one, torch.Tensor):
            _compare_tensors(one.detach(), other, device, loose, defined)
        elif isinstance(one, float | complex):
            if not (one == other or math.isclose(abs(one - other), 0, abs_tol=1e-5) or one != one and other != other):
                raise Different(f"{other!r}, not {one!r}")
        elif isinstance(one, torch.device):
            if not isinstance(other, torch.device):
                raise Different(f"{other!r}, not {one!r}")
        elif one != other:
            raise Different(f"{other!r}, not {one!r}")


def _compare_tensors(expected: torch.Tensor, given: Any, device: str, loose: float, defined: bool) -> None:
    if not isinstance(given, torch.Tensor):
        raise Different(f"{type(given).__name__}, not a tensor")
    if given.device.type != device:
        raise Different(f"a result on {given.device}")
    if (given.shape, given.dtype, given.layout) != (expected.shape, expected.dtype, expected.layout):
        raise Different(
            f"{tuple(given.shape)} {given.dtype} {given.layout}, "
            f"not {tuple(expected.shape)} {expected.dtype} {expected.layout}"
        )
    fetched = given.detach().cpu()
    if not defined:
        return
    rtol, atol = (loose * each for each in TOLERANCES.get(expected.dtype, (0.0, 0.0)))
    if expected.dtype.itemsize == 1 and expected.dtype.is_floating_point:
        fetched, expected = fetched.to(torch.float32), expected.to(torch.float32)
    torch.testing.assert_close(fetched, expected, rtol=rtol, atol=atol, equal_nan=True, check_stride=False)
