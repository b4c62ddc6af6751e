"""Changes state in place, with random numbers that the destination draws, and prints what it reads of it: three values
a step, to the bit. A call that was lost, doubled or swapped shows in its line and in all that follow.

`torch_calls.py STEPS`
"""

from __future__ import annotations

import sys

import torch
from torch import nn


def main(steps: int) -> None:
    """Compute, and print each value when it is there."""
    torch.manual_seed(3)
    device = torch.device("cuda")
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    own = torch.Generator("cuda").manual_seed(9)
    state = torch.zeros(64, device=device)
    for step in range(steps):
        given = torch.full((64,), step % 7 / 7)
        state.mul_(0.75).add_(torch.rand(64, device=device, generator=own)).add_(given.to(device))
        held = state[step % 64].item()
        optimizer.zero_grad()
        loss = (model(state.view(16, 4)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        seen = loss.item()
        weight = model[2].weight.sum().item()
        print(step, held.hex(), seen.hex(), weight.hex(), flush=True)


main(int(sys.argv[1]))
