"""Predictions: AVEC's own are what torch gives, and none is asked for twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avec.interception.torch.predictors import PREDICTORS
from launching import AVEC, execute

PROGRAMS = Path(__file__).parent / "programs"
aten = torch.ops.aten
x = torch.randn(2, 4, 6, 6)
last = x.contiguous(memory_format=torch.channels_last)
w = torch.randn(8, 4, 3, 3)
b = torch.randn(4)
CONVOLUTION = ((1, 1), (1, 0), (1, 1), False, (0, 0), 1)

CALLS: dict[str, Callable[[], tuple[str, tuple[Any, ...], dict[str, Any]]]] = {
    "relu": lambda: ("relu", (x,), {}),
    "relu, permuted": lambda: ("relu", (x.permute(2, 0, 3, 1),), {}),
    "where": lambda: ("where.self", (x > 0, x, x * 2), {}),
    "where, a number": lambda: ("where.self", (x > 0, x, torch.tensor(0.0)), {}),
    "dropout": lambda: ("native_dropout", (x, 0.5, True), {}),
    "layer norm": lambda: ("native_layer_norm", (x, (6, 6), None, None, 1e-5), {}),
    "batch norm": lambda: ("native_batch_norm", (x, b, b, None, None, True, 0.1, 1e-5), {}),
    "group norm": lambda: ("native_group_norm", (x, b, b, 2, 4, 36, 2, 1e-5), {}),
    "convolution": lambda: ("convolution", (x, w, None, *CONVOLUTION), {}),
    "convolution, channels last": lambda: ("convolution", (last, w, None, *CONVOLUTION), {}),
    "convolution, transposed": lambda: (
        "convolution", (x, w.transpose(0, 1), None, (2, 2), (1, 1), (1, 1), True, (1, 1), 1), {}
    ),
    "convolution's gradients": lambda: (
        "convolution_backward", (torch.randn(2, 8, 6, 4), x, w, [8], *CONVOLUTION, [True, True, True]), {}
    ),
    "rows": lambda: ("index_select", (x, 1, torch.tensor([0, 2, 2])), {}),
    "range": lambda: ("arange", (7,), {}),
    "range of floats": lambda: ("arange.start_step", (0.5, 3, 0.3), {}),
    "range, backwards": lambda: ("arange.start_step", (5, 0, -2), {}),
    "full": lambda: ("full", ((2, 3), 1), {}),
    "full of floats": lambda: ("full", ((2, 3), 1.5), {}),
    "zeros": lambda: ("zeros", ((2, 3),), {"dtype": torch.int16}),
    "lists": lambda: ("_foreach_sqrt", ([x.abs(), last.abs()],), {}),
    "lists with lists": lambda: ("_foreach_add.List", ([x, last], [x, last]), {"alpha": 2}),
}  # fmt: skip


def on_meta(value: Any) -> Any:
    """An argument without its elements."""
    if isinstance(value, list | tuple):
        return type(value)(on_meta(each) for each in value)
    if isinstance(value, Tensor) and value.dim():
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def kinds(results: Any) -> list[tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]]:
    """What kinds of tensors results are."""
    several = results if isinstance(results, list | tuple) else [results]
    return [(each.dtype, tuple(each.shape), each.stride()) for each in several]


@pytest.mark.parametrize("name", CALLS)
def test_an_own_prediction_is_what_torch_gives(name: str) -> None:
    operator, args, kwargs = CALLS[name]()
    base, _, overload = operator.partition(".")
    given = getattr(getattr(aten, base), overload or "default")(*args, **kwargs)
    assert kinds(PREDICTORS[operator](*on_meta(args), **kwargs)) == kinds(given)


def test_log_sigmoid_is_predicted_as_cuda_gives_it() -> None:
    output, buffer = PREDICTORS["log_sigmoid_forward"](on_meta(last))
    assert kinds([output, buffer]) == [(x.dtype, tuple(x.shape), last.stride()), (x.dtype, (0,), (1,))]


def test_no_bias_of_an_attention_has_no_gradient() -> None:
    *gradients, of_bias = PREDICTORS["_efficient_attention_backward"](*map(on_meta, (x, x, x, x)), None)
    assert kinds(gradients) == [(x.dtype, tuple(x.shape), x.stride())] * 3
    assert of_bias is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 5), (0, 4)])
@pytest.mark.parametrize("full", [True, False])
def test_singular_vectors_are_laid_out_as_on_cuda(shape: tuple[int, ...], full: bool, dtype: torch.dtype) -> None:
    """By columns the left ones, by rows the right ones, where a CPU has both by columns."""
    a = torch.ones(shape, dtype=dtype)
    expected, predicted = torch.linalg.svd(a, full), PREDICTORS["_linalg_svd"](on_meta(a), full)
    assert [(each.shape, each.dtype) for each in predicted] == [(each.shape, each.dtype) for each in expected]
    assert predicted[0].mT.is_contiguous() and predicted[2].is_contiguous()


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        ("where.self", (torch.ones(3, dtype=torch.bool), torch.ones(3), torch.ones(3, dtype=torch.int64))),
        ("native_layer_norm", (x, (6,), b, None, 1e-5)),
        ("_foreach_sqrt", ([torch.ones(2, dtype=torch.int64)],)),
        ("arange.start_step", (0, 5, -1)),
        ("_efficient_attention_backward", (x, x, x, x, x)),
        ("_linalg_svd", (b,)),
    ],
)
def test_what_an_own_prediction_does_not_know_is_left_to_torch(operator: str, args: tuple[Any, ...]) -> None:
    assert PREDICTORS[operator](*on_meta(args)) is NotImplemented


def test_steps_that_repeat_are_not_described_again(destination: str) -> None:
    command = [*AVEC, "run", "--on", destination, str(PROGRAMS / "steady_state.py")]
    status, stdout, stderr = execute(*command)
    assert status == 0, stderr
    assert json.loads(stdout) == {}
