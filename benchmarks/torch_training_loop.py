"""Trains a network for some steps and prints its losses to the last bit, as JSON. A plain PyTorch program.

It runs on `cuda` where torch says that there is one (a GPU, or AVEC's), else on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch_models import GPT, ResNet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Step = Callable[[], torch.Tensor]


def deterministic() -> None:
    """Choose, where there is a choice, what gives the same bits each time."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(7)


def pictures(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    return torch.randn(batch, 3, size, size, generator=generator).to(DEVICE), labels.to(DEVICE)


def resnet50_sgd(small: bool) -> Step:
    network = ResNet(50, 10, 8 if small else 64).to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x, labels = pictures(4 if small else 8, 64 if small else 224)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def resnet18_amp(small: bool) -> Step:
    network = ResNet(18, 10, 8 if small else 64).to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(DEVICE)
    x, labels = pictures(4 if small else 32, 64 if small else 224)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, dtype=torch.float16):
            loss = functional.cross_entropy(network(x), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def gpt_adamw(small: bool, autocast: bool, dropout: float) -> Step:
    sizes = (200, 32, 2, 2, 32) if small else (50304, 768, 12, 12, 1024)
    network = GPT(*sizes, dropout=dropout).to(DEVICE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, sizes[0], (2 if small else 4, sizes[4] + 1), generator=generator).to(DEVICE)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
            logits = network(tokens[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


WORK: dict[str, Callable[[bool], Step]] = {
    "resnet50_sgd": resnet50_sgd,
    "resnet18_amp_gradscaler": resnet18_amp,
    "gpt_adamw_fused": lambda small: gpt_adamw(small, autocast=False, dropout=0.0),
    "gpt_adamw_fused_dropout": lambda small: gpt_adamw(small, autocast=False, dropout=0.1),
    "gpt_adamw_fused_bf16_dropout": lambda small: gpt_adamw(small, autocast=True, dropout=0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default=",".join(WORK), help="comma list")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch asks for deterministic algorithms
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    results = {}
    for name in arguments.work.split(","):
        deterministic()
        step = WORK[name](arguments.small)
        began = time.perf_counter()
        losses, seconds = [], []
        for _ in range(arguments.steps):
            losses.append(step().item())
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
        results[name] = {"losses": [float(loss).hex() for loss in losses], "step_s": seconds}
    print(json.dumps({"device": DEVICE, "work": results}))


if __name__ == "__main__":
    main()
