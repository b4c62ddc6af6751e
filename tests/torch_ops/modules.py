"""Checks of PyTorch's modules and optimizers, from the databases of its own tests, in a host process (`checking`)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from comparing import SEED, Outcome, compare, on_device, tensors, weights
from torch.testing._internal.common_modules import ModuleInfo
from torch.testing._internal.common_optimizers import OptimizerInfo

STEPS = 3  # of an optimizer
# By how much more the results may differ: products of narrow numbers are wider on CUDA than on a CPU.
LOOSE = {"nn.LinearCrossEntropyLoss": 8}


def check_module(info: ModuleInfo, samples: int) -> Outcome:
    """Check a module with all of its inputs: results, and gradients of inputs and parameters."""
    outcome = Outcome(f"module {info.name}")
    for dtype in sorted(info.dtypes, key=str):
        for training in (True, False) if info.train_and_eval_differ else (True,):
            torch.manual_seed(SEED)
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=dtype, requires_grad=dtype.is_floating_point, training=training
            )
            for number, given in enumerate(inputs[: samples or None]):
                what = f"{dtype}, {'training' if training else 'evaluation'}, input {number}"
                _check_module_once(info, given, dtype, training, outcome, what)
    return outcome


def _check_module_once(
    info: ModuleInfo, given: Any, dtype: torch.dtype, training: bool, outcome: Outcome, what: str
) -> None:
    try:
        torch.manual_seed(SEED)
        module = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs)
        module.to(dtype).train(training)
        expected = _run_module(copy.deepcopy(module), given, "cpu")
    except Exception:
        return  # not for a CPU
    outcome.checks += 1
    try:
        compare(expected, _run_module(module.to("cuda"), given, "cuda"), loose=LOOSE.get(info.name, 1))
        outcome.passed += 1
    except Exception as exc:
        outcome.failed(what, exc)


def _run_module(module: torch.nn.Module, given: Any, device: str) -> Any:
    args, kwargs = on_device((given.forward_input.args, given.forward_input.kwargs), device)
    torch.manual_seed(SEED)
    results = module(*args, **kwargs)
    wanted = [*module.parameters(), *(each for each in tensors((args, kwargs)) if each.requires_grad)]
    outputs = [each for each in tensors(results) if each.requires_grad]
    if not wanted or not outputs:
        return results
    return results, torch.autograd.grad(outputs, wanted, [weights(each) for each in outputs], allow_unused=True)


def check_optimizer(info: OptimizerInfo, samples: int) -> Outcome:
    """Check an optimizer in all its implementations with all of its settings, by the parameters after some steps."""
    outcome = Outcome(f"optimizer {info.optim_cls.__name__}")
    for given in info.optim_inputs_func(device="cpu"):
        for implementation in info.supported_impls or ("the only one",):
            settings = dict(given.kwargs)
            for choice in {"foreach", "fused"} & set(info.supported_impls):
                settings[choice] = choice == implementation
            what = f"{given.desc}, {implementation}"
            try:
                expected = _optimized(info, settings, "cpu")
            except Exception:
                continue  # not for a CPU
            outcome.checks += 1
            try:
                compare(expected, _optimized(info, settings, "cuda"))
                outcome.passed += 1
            except Exception as exc:
                outcome.failed(what, exc)
    return outcome


def _optimized(info: OptimizerInfo, settings: dict[str, Any], device: str) -> list[torch.Tensor]:
    torch.manual_seed(SEED)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    data, target = torch.randn(6, 4), torch.randn(6, 3)
    if info.only_supports_sparse_grads:
        net, data = torch.nn.Sequential(torch.nn.Embedding(6, 3, sparse=True)), torch.tensor([0, 2, 2, 3, 5, 1])
    net, data, target = net.to(device), data.to(device), target.to(device)
    matrices = [each for each in net.parameters() if each.dim() == 2]
    parameters = matrices if info.optim_cls.__name__ == "Muon" else list(net.parameters())
    optimizer = info.optim_cls(parameters, **on_device(settings, device))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(data), target)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    return [each.detach() for each in net.parameters()]
