"""A host process of the operators' suite: checks one operator after the other, as `__main__` asks on stdin.

A sample of PyTorch's OpInfo database is computed twice in this process, by torch's own CPU kernels and with the same
tensors on `cuda`, and what came out is compared: values, shapes, dtypes, devices, gradients. The program says nothing
of AVEC, but for the control run, which changes what is fetched from the destination.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from comparing import SEED, Outcome, compare, on_device, tensors, weights
from modules import check_module, check_optimizer
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db
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


def name_of(op: OpInfo) -> str:
    """The name of an OpInfo and its variant, "var.unbiased"."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def check_operator(op: OpInfo, samples: int) -> Outcome:
    """Check an operator with the first samples of each dtype, or all (0)."""
    outcome = Outcome(name_of(op))
    for dtype in sorted(op.dtypes, key=str):
        differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        torch.manual_seed(SEED)
        try:
            found = op.sample_inputs("cpu", dtype, requires_grad=differentiable)
            chosen = list(itertools.islice(found, samples or None))
        except Exception as exc:
            outcome.checks += 1
            outcome.failed(f"{dtype}: making samples", exc)
            continue
        for number, sample in enumerate(chosen):
            for variant, function in _variants(op, sample, number):
                _check_one(op, function, sample, outcome, f"{dtype}, sample {number}{variant}", not variant)
    return outcome


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


def _check_one(
    op: OpInfo, function: Callable[[SampleInput], Any], sample: SampleInput, outcome: Outcome, what: str, backward: bool
) -> None:
    try:
        expected, gradients = _computed(function, _placed(sample, "cpu"), backward)
    except Exception:
        return  # not for a CPU
    outcome.checks += 1
    try:
        placed = _placed(sample, "cuda")
        given, given_gradients = _computed(function, placed, gradients is not None)
        device = (
            "cuda" if any(map(_is_placed, pytree.tree_leaves((placed.input, placed.args, placed.kwargs)))) else "cpu"
        )
        if op.name in FIRST_ONLY:
            expected, given = expected[0], given[0]
        loose = LOOSE.get(op.name, 1)
        compare(expected, given, device, loose, op.name not in UNDEFINED)
        if gradients is not None:
            compare(gradients, given_gradients, device, loose)
        outcome.passed += 1
    except Exception as exc:
        outcome.failed(what, exc)


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


def _corrupt_reads() -> None:
    """Change all that is fetched from the destination: the control run, in which operators have to fail."""
    from avec.interception.torch.recording import Recording

    read = Recording.read

    def corrupted(self: Recording, asked: Any, into: Any) -> None:
        read(self, asked, into)
        values = torch.from_numpy(into).view(getattr(torch, asked.meta.dtype))
        if values.dtype == torch.bool:
            values.logical_not_()
        elif values.dtype.itemsize == 1 or not (values.is_floating_point() or values.is_complex()):
            torch.from_numpy(into).bitwise_xor_(1)
        else:
            values.copy_(torch.where(values.isfinite(), values * 2 + 1, torch.zeros_like(values)))

    Recording.read = corrupted  # type: ignore[method-assign]


def checks() -> dict[str, Callable[[int], Outcome]]:
    """All that can be checked, by name."""
    found: dict[str, Callable[[int], Outcome]] = {name_of(op): functools.partial(check_operator, op) for op in op_db}
    found |= {f"module {info.name}": functools.partial(check_module, info) for info in module_db}
    for info in optim_db:
        found[f"optimizer {info.optim_cls.__name__}"] = functools.partial(check_optimizer, info)
    return found


def main() -> None:
    """Check what is named on stdin; answer each with a line of JSON on the given descriptor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, required=True, help="descriptor to write to")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--corrupt", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if torch.cuda.get_device_capability()[0] == 0:
        # CPUs have a flash kernel of their own, which CUDA's way to attention does not lead to.
        torch.backends.cuda.enable_flash_sdp(False)
    if options.corrupt:
        _corrupt_reads()
    found = checks()
    with os.fdopen(options.answers, "w", buffering=1) as answers:
        print(json.dumps(list(found)), file=answers)
        for line in sys.stdin:
            outcome = found[line.strip()](options.samples)
            print(json.dumps(asdict(outcome)), file=answers)


if __name__ == "__main__":
    main()
