"""A host process of the operators' suite: checks one operator after the other, as `__main__` asks on stdin.

A sample of PyTorch's OpInfo database is computed twice in this process, by torch's own CPU kernels and with the same
tensors on `cuda`, and what came out is compared: values, shapes, dtypes, devices, gradients. The program says nothing
of AVEC, but for the control run, which changes what is fetched from the destination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
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
# By how much more: products of narrow numbers are wider on CUDA than on a CPU.
LOOSE = {"nn.functional.linear_cross_entropy": 8}
# Which of CUDA's results mean the same on a CPU, where that is not so for all: the CPU saves other statistics.
FIRST_ONLY = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "native_layer_norm"}
)
# Whose elements are not defined: only what kind of tensor came out is compared.
UNDEFINED = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})


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


def name_of(op: OpInfo) -> str:
    """The name of an OpInfo and its variant, "var.unbiased"."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def check(op: OpInfo, samples: int) -> Outcome:
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
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
        _compare(op, expected, given, device)
        if gradients is not None:
            _compare(op, gradients, given_gradients, device)
        outcome.passed += 1
    except Exception as exc:
        outcome.failed(what, exc)


def _placed(sample: SampleInput, device: str) -> SampleInput:
    """A copy of a sample with its tensors, and the devices that it names, on a device."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _copy(value.detach(), device).requires_grad_(value.requires_grad)
        if isinstance(value, torch.device) or isinstance(value, str) and value in ("cpu", "cuda", "cuda:0"):
            return torch.device(device)
        return value

    moved = pytree.tree_map(move, (sample.input, sample.args, sample.kwargs))
    return SampleInput(moved[0], args=moved[1], kwargs=moved[2], output_process_fn_grad=sample.output_process_fn_grad)


def _is_placed(value: Any) -> bool:
    return isinstance(value, torch.device) or isinstance(value, torch.Tensor) and value.is_cuda


def _copy(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A copy on a device; of a part of a larger memory, with all of that."""
    if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() == tensor.nbytes or not tensor.numel():
        return tensor.to(device, copy=True)
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return memory.to(device, copy=True).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _computed(function: Callable[[SampleInput], Any], sample: SampleInput, backward: bool) -> tuple[Any, Any]:
    """Results and, if any of them can be differentiated, the gradients of what the sample says is wanted."""
    torch.manual_seed(SEED)
    results = function(sample)
    wanted = [each for each in _tensors((sample.input, sample.args, sample.kwargs)) if each.requires_grad]
    if not backward or not wanted:
        return results, None
    outputs = [each for each in _tensors(sample.output_process_fn_grad(results)) if each.requires_grad]
    if not outputs:
        return results, None
    try:
        weights = [_weights(each) for each in outputs]
        gradients = torch.autograd.grad(outputs, wanted, weights, allow_unused=True)
    except Exception:
        if not wanted[0].is_cuda:
            return results, None
        raise
    return results, gradients


def _weights(like: torch.Tensor) -> torch.Tensor:
    """Weights of elements in the sum that is differentiated; not all alike, or softmax would have no gradient."""
    count = like.numel()
    weights = 1 + torch.arange(count).remainder(7).to(torch.float64).div(7)
    return weights.reshape(like.shape).to(like.dtype).to(like.device)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [each for each in pytree.tree_leaves(value) if isinstance(each, torch.Tensor)]


def _compare(op: OpInfo, expected: Any, given: Any, device: str) -> None:
    expected_leaves, given_leaves = pytree.tree_leaves(expected), pytree.tree_leaves(given)
    if len(expected_leaves) != len(given_leaves):
        raise Different(f"{len(given_leaves)} results, not {len(expected_leaves)}")
    if op.name in FIRST_ONLY:
        expected_leaves, given_leaves = expected_leaves[:1], given_leaves[:1]
    for one, other in zip(expected_leaves, given_leaves, strict=True):
        if isinstance(one, torch.Tensor):
            _compare_tensors(op, one.detach(), other, device)
        elif isinstance(one, float | complex):
            if not (one == other or math.isclose(abs(one - other), 0, abs_tol=1e-5) or one != one and other != other):
                raise Different(f"{other!r}, not {one!r}")
        elif isinstance(one, torch.device):
            if not isinstance(other, torch.device):
                raise Different(f"{other!r}, not {one!r}")
        elif one != other:
            raise Different(f"{other!r}, not {one!r}")


def _compare_tensors(op: OpInfo, expected: torch.Tensor, given: Any, device: str) -> None:
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
    if op.name in UNDEFINED:
        return
    rtol, atol = (LOOSE.get(op.name, 1) * each for each in TOLERANCES.get(expected.dtype, (0.0, 0.0)))
    if expected.dtype.itemsize == 1 and expected.dtype.is_floating_point:
        fetched, expected = fetched.to(torch.float32), expected.to(torch.float32)
    torch.testing.assert_close(fetched, expected, rtol=rtol, atol=atol, equal_nan=True, check_stride=False)


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


def main() -> None:
    """Check the operators whose names come on stdin; answer each with a line of JSON on the given descriptor."""
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
    operators = {name_of(op): op for op in op_db}
    with os.fdopen(options.answers, "w", buffering=1) as answers:
        print(json.dumps(sorted(operators)), file=answers)
        for line in sys.stdin:
            outcome = check(operators[line.strip()], options.samples)
            print(json.dumps(asdict(outcome)), file=answers)


if __name__ == "__main__":
    main()
