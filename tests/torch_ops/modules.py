"""The cases of PyTorch's modules and optimizers, from the databases of its own tests (`cases`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from cases import Case, Computed
from comparing import SEED, on_device, seed, tensors, weights
from torch.testing._internal.common_modules import ModuleInfo
from torch.testing._internal.common_optimizers import OptimizerInfo

STEPS = 3  # of an optimizer
# By how much more the results may differ: products of narrow numbers are wider on CUDA than on a CPU.
LOOSE = {"nn.LinearCrossEntropyLoss": 8}


def module_cases(info: ModuleInfo, device: str, samples: int) -> Iterator[Case]:
    """The cases of a module with all of its inputs, or the first: results, gradients of inputs and parameters."""
    for dtype in sorted(info.supported_dtypes(device), key=str):
        for training in (True, False) if info.train_and_eval_differ else (True,):
            seed()
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=dtype, requires_grad=dtype.is_floating_point, training=training
            )
            for number, given in enumerate(inputs[: samples or None]):
                what = f"{dtype}, {'training' if training else 'evaluation'}, input {number}"
                compute = functools.partial(_run_module, info, given, dtype, training)
                yield Case(what, compute, loose=LOOSE.get(info.name, 1))


def _run_module(
    info: ModuleInfo, given: Any, dtype: torch.dtype, training: bool, device: str, backward: bool
) -> Computed:
    torch.manual_seed(SEED)
    module = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs)
    module.to(dtype).train(training).to(device)
    args, kwargs = on_device((given.forward_input.args, given.forward_input.kwargs), device)
    torch.manual_seed(SEED)
    results = module(*args, **kwargs)
    wanted = [*module.parameters(), *(each for each in tensors((args, kwargs)) if each.requires_grad)]
    outputs = [each for each in tensors(results) if each.requires_grad]
    if not backward or not wanted or not outputs:
        return Computed(results, None, device)
    seeds = [weights(each) for each in outputs]
    return Computed(results, torch.autograd.grad(outputs, wanted, seeds, allow_unused=True), device)


def optimizer_cases(info: OptimizerInfo, device: str, samples: int) -> Iterator[Case]:
    """The cases of an optimizer in all its implementations with all of its settings: parameters after some steps."""
    for number, given in enumerate(info.optim_inputs_func(device=device)):
        for implementation in info.supported_impls or ("the only one",):
            settings = dict(given.kwargs)
            for choice in {"foreach", "fused"} & set(info.supported_impls):
                settings[choice] = choice == implementation
            yield Case(f"{number}, {given.desc}, {implementation}", functools.partial(_optimized, info, settings))


def _optimized(info: OptimizerInfo, settings: dict[str, Any], device: str, backward: bool) -> Computed:
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
    return Computed([each.detach() for each in net.parameters()], None, device)
