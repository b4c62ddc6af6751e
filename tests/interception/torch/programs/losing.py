"""Trains until the destination is gone; `losing.py catch` says what it sees then, else nothing catches that."""

import sys

import torch

weight = torch.zeros(64, 64, device="cuda", requires_grad=True)


def train(steps: int) -> None:
    for step in range(steps):
        loss = (torch.ones(16, 64, device="cuda") @ weight - 1).square().mean()
        loss.backward()
        with torch.no_grad():
            weight.sub_(0.01 * weight.grad)
        weight.grad = None
        if step % 10 == 0:
            loss.item()


def outcome(function) -> str:
    try:
        return repr(function())
    except ConnectionError as exc:
        return f"{type(exc).__name__}: {exc}"


train(20)
print("trained", flush=True)
if "catch" not in sys.argv:
    train(10**6)
print(outcome(lambda: train(10**6)))
for _ in range(2):
    print(outcome(lambda: weight.sum().item()))
print(outcome(lambda: weight.detach().cpu()))
print(outcome(lambda: torch.ones(2, device="cuda").tolist()))
print(outcome(torch.cuda.synchronize))
print((torch.ones(2) + 1).tolist())
