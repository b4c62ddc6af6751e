"""The ways in which the suite calls an operator: one case for each dtype, sample and variant of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from comparing import SEED, on_device, seed, tensors, weights
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

# By how much more the results may differ: products of narrow numbers are wider on CUDA than on a CPU.
LOOSE = {"nn.functional.linear_cross_entropy": 8}
# Which of CUDA's results mean the same on a CPU, where that is not so for all: the CPU saves other statistics.
FIRST_ONLY = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "native_layer_norm"}
)
# Whose elements are not defined: only what kind of tensor came out is compared.
UNDEFINED = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})


class Unmade(Exception):
    """The suite could not make samples of a dtype."""


class Computed(NamedTuple):
    """What came out: results, gradients if there are any, and the kind of device that results have to be on."""

    results: Any
    gradients: Any
    device: str


@dataclass(frozen=True)
class Case:
    """One call. `compute(device, backward)` makes it from inputs that are the same each time, and on each device."""

    what: str
    compute: Callable[[str, bool], Computed]
    variant: str = ""
    loose: float = 1  # a factor on the tolerances
    defined: bool = True
    first_only: bool = False


def name_of(op: OpInfo) -> str:
    """The name of an OpInfo and its variant, "var.unbiased"."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def operator_cases(op: OpInfo, device: str, samples: int) -> Iterator[Case]:
    """The cases of an operator: the first samples, or all (0), of each dtype that a kind of device has it for."""
    for dtype in sorted(op.supported_dtypes(device), key=str):
        differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes(device)
        seed()
        try:
            found = op.sample_inputs("cpu", dtype, requires_grad=differentiable)
            chosen = list(itertools.islice(found, samples or None))
        except Exception as exc:
            yield Case(f"{dtype}: making samples", _failing(exc))
            continue
        for number, sample in enumerate(chosen):
            for variant, function in _variants(op, sample, number):
                yield Case(
                    f"{dtype}, sample {number}{variant}", _computing(function, sample, not variant), variant.strip(),
                    LOOSE.get(op.name, 1), op.name not in UNDEFINED, op.name in FIRST_ONLY,
                )  # fmt: skip


def _failing(exc: Exception) -> Callable[[str, bool], Computed]:
    def compute(device: str, backward: bool) -> Computed:
        raise Unmade(f"{type(exc).__name__}: {exc}") from exc

    return compute


def _variants(op: OpInfo, sample: SampleInput, number: int) -> Iterator[tuple[str, Callable[[SampleInput], Any]]]:
    """The ways to call an operator: as a function always; with the first sample also in place, and with `out=`."""
    yield "", lambda each: op(each.input, *each.args, **each.kwargs)
    if number:
        return
    in_place = op.get_inplace()
    if in_place is not None and not sample.broadcasts_input:
        yield " in place", lambda each: in_place(_fresh(each.input), *each.args, **each.kwargs)
    if op.supports_out:
        yield " out=", lambda each: _into(op, each, lambda like: torch.empty_like(like))
        yield " out= of no elements", lambda each: _into(op, each, lambda like: like.new_empty(0))


def _fresh(value: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda each: each.detach().clone(), value)


def _into(op: OpInfo, sample: SampleInput, make: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    with torch.no_grad():
        like = op(sample.input, *sample.args, **sample.kwargs)
        out = pytree.tree_map_only(torch.Tensor, make, like)
        op(sample.input, *sample.args, **sample.kwargs, out=out)
        return out


def _computing(
    function: Callable[[SampleInput], Any], sample: SampleInput, differentiated: bool
) -> Callable[[str, bool], Computed]:
    def compute(device: str, backward: bool) -> Computed:
        placed = _placed(sample, device)
        results, gradients = _computed(function, placed, backward and differentiated)
        on_it = any(map(_is_placed, pytree.tree_leaves((placed.input, placed.args, placed.kwargs))))
        return Computed(results, gradients, "cuda" if on_it else "cpu")

    return compute


def _placed(sample: SampleInput, device: str) -> SampleInput:
    """A copy of a sample on a device."""
    moved = on_device((sample.input, sample.args, sample.kwargs), device)
    return SampleInput(moved[0], args=moved[1], kwargs=moved[2], output_process_fn_grad=sample.output_process_fn_grad)


def _is_placed(value: Any) -> bool:
    return isinstance(value, torch.device) or isinstance(value, torch.Tensor) and value.is_cuda


def _computed(function: Callable[[SampleInput], Any], sample: SampleInput, backward: bool) -> tuple[Any, Any]:
    """Results and, if any of them can be differentiated, the gradients of what the sample says is wanted."""
    torch.manual_seed(SEED)
    results = function(sample)
    wanted = [each for each in tensors((sample.input, sample.args, sample.kwargs)) if each.requires_grad]
    if not backward or not wanted:
        return results, None
    outputs = [each for each in tensors(sample.output_process_fn_grad(results)) if each.requires_grad]
    if not outputs:
        return results, None
    try:
        gradients = torch.autograd.grad(outputs, wanted, [weights(each) for each in outputs], allow_unused=True)
    except Exception:
        if not wanted[0].is_cuda:
            return results, None
        raise
    return results, gradients
