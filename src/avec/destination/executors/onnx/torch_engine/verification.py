"""Compares the torch engine's results with those of onnxruntime on the CPU, on inputs that fit the model's signature.

A model is computed by torch only where that has been done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from avec.destination.executors.onnx.torch_engine.program import Program
from avec.destination.executors.onnx.torch_engine.values import as_array, as_tensor
from avec.errors import AvecError, UnsupportedOperation
from avec.tensor import Array

Numbers = Callable[["np.dtype[Any]", Sequence[int], np.random.Generator], Array]

COMPARED = 2  # inputs of different sizes, where the model leaves sizes open
SIZES = (2, 24, 1, 64, 224)  # tried for dimensions that the model leaves open, beside a first one of 1
ELEMENTS_LIMIT = 1 << 24  # of one input that is made up
# What the results may differ by, relative to an output's largest element.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
TF32_TOLERANCE = 2e-2  # float32, where the session allows TF32


def verify(program: Program, reference: Any, fast: bool, options: Any = None) -> float:
    """Run both engines on the same inputs; give the largest relative difference.

    Args:
        options: RunOptions for the reference, whose refusals of inputs need not be in the log.

    Raises:
        UnsupportedOperation: the results differ, or no inputs were found that the model takes.
    """
    refused = "it has no inputs that could be made up"
    differences: list[float] = []
    for feeds in chain(_candidates(reference, _ordinary), _candidates(reference, _positive)):
        try:
            expected = reference.run(list(program.outputs), feeds, options)
        except Exception as exc:  # these shapes do not go together; others may
            refused = str(exc).strip().split("\n", 1)[0]
            continue
        differences.append(_compare(program, feeds, expected, fast))
        if len(differences) == COMPARED:
            break
    if not differences:
        raise UnsupportedOperation(f"the torch engine could not be compared with onnxruntime's results: {refused}")
    return max(differences)


def _compare(program: Program, feeds: dict[str, Array], expected: Sequence[Array], fast: bool) -> float:
    try:
        results = program.run({name: as_tensor(array) for name, array in feeds.items()}, program.outputs)
    except AvecError:
        raise
    except Exception as exc:  # a form of an operator that nobody has thought of
        raise UnsupportedOperation(f"the torch engine failed: {exc}") from exc
    worst = 0.0
    for name, result, wanted in zip(program.outputs, results, expected, strict=True):
        if tuple(result.shape) != wanted.shape:
            raise UnsupportedOperation(
                f"the torch engine gave {name!r} the shape {tuple(result.shape)}, onnxruntime {wanted.shape}"
            )
        if as_array(result).dtype != wanted.dtype:
            raise UnsupportedOperation(
                f"the torch engine gave {name!r} as {result.dtype}, onnxruntime as {wanted.dtype}"
            )
        difference = _difference(result.cpu(), wanted)
        bound = TOLERANCES.get(result.dtype, 0.0)
        if result.dtype == torch.float32 and fast:
            bound = TF32_TOLERANCE
        if not difference <= bound:
            raise UnsupportedOperation(
                f"the torch engine's {name!r} differed from onnxruntime's by {difference:.2g} of its largest element;"
                f" {bound:.2g} is allowed"
            )
        worst = max(worst, difference)
    return worst


def _difference(result: torch.Tensor, wanted: Array) -> float:
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind not in "fc":
        return 0.0 if np.array_equal(result.numpy(), wanted) else float("inf")
    given, right = result.to(torch.float64).numpy(), wanted.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(given[~finite], right[~finite], equal_nan=True) or not np.isfinite(given[finite]).all():
        return float("inf")
    largest = float(np.abs(right[finite]).max(initial=0.0))
    return float(np.abs(given[finite] - right[finite]).max(initial=0.0)) / max(largest, 1e-6)


def _candidates(reference: Any, make: Numbers) -> Iterator[dict[str, Array]]:
    """Inputs of various sizes, each combination of shapes once."""
    random = np.random.default_rng(0)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for size in SIZES:
        for first in dict.fromkeys((1, size)):
            sizes: dict[str, int] = {}
            feeds: dict[str, Array] = {}
            for each in reference.inputs_meta:
                shape = [_size(wanted, place, first, size, sizes) for place, wanted in enumerate(each.shape)]
                if int(np.prod(shape, dtype=np.int64)) > ELEMENTS_LIMIT:
                    break
                feeds[each.name] = make(_numpy_dtype(each.type), shape, random)
            else:
                shapes = tuple(array.shape for array in feeds.values())
                if shapes not in seen:
                    seen.add(shapes)
                    yield feeds


def _size(wanted: object, place: int, first: int, size: int, sizes: dict[str, int]) -> int:
    """A dimension; those of one name are equal."""
    if isinstance(wanted, int):
        return wanted
    chosen = first if place == 0 else size
    return sizes.setdefault(wanted, chosen) if isinstance(wanted, str) else chosen


def _numpy_dtype(kind: str) -> np.dtype[Any]:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


def _ordinary(dtype: np.dtype[Any], shape: Sequence[int], random: np.random.Generator) -> Array:
    """Normally distributed numbers; integers are 0 and 1, which are indices of nearly anything."""
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _positive(dtype: np.dtype[Any], shape: Sequence[int], random: np.random.Generator) -> Array:
    """Numbers about 1, which can be scales and sizes as well."""
    if dtype.kind == "f":
        return random.uniform(0.5, 1.5, shape).astype(dtype)
    return np.ones(shape, dtype)
