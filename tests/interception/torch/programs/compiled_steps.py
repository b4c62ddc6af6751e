"""Trains a small net twice, compiled and as it is, and prints the losses of both as JSON."""

from __future__ import annotations

import copy
import json

import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.25), nn.Linear(16, 1)).cuda()
x = torch.randn(32, 8, device="cuda")
y = x.square().sum(1, keepdim=True)


def losses(net: nn.Module, compiled: bool) -> list[float]:
    torch.manual_seed(1)
    # What is dropped is then drawn as in eager mode.
    forward = torch.compile(net, options={"fallback_random": True}) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    found = []
    for _ in range(5):
        loss = (forward(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


if __name__ == "__main__":
    print(json.dumps({"eager": losses(copy.deepcopy(net), False), "compiled": losses(copy.deepcopy(net), True)}))
