"""Trains a network with dropout and AdamW, reading each loss; prints a digest of what it saw.

`torch_state.py STEPS`
"""

from __future__ import annotations

import hashlib
import sys

import torch
from torch import nn


def main(steps: int) -> None:
    """Train, and look at all that was trained at the end."""
    torch.manual_seed(3)
    device = torch.device("cuda")
    first = [nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3)]
    model = nn.Sequential(*first, nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 4)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    own = torch.Generator("cuda").manual_seed(9)
    event = torch.cuda.Event(enable_timing=True)
    seen = hashlib.sha256()
    average: torch.Tensor | None = None
    for step in range(steps):
        if step % 10 == 0:
            print("at", step, flush=True)
        x = torch.randn(32, 16, device=device, generator=own)
        y = (x.sum(1) > 0).long() + 2 * torch.randint(0, 2, (32,)).to(device)  # from the host too
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        average = loss.detach() if average is None else 0.9 * average + 0.1 * loss.detach()
        if step % 3 == 0:
            seen.update(loss.item().hex().encode())
        if step % 17 == 0:  # a result whose shape depends on values
            seen.update(x[y > 1].cpu().numpy().tobytes())
            event.record()
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                seen.update(model(x).argmax(1).cpu().numpy().tobytes())
            model.train()
    for parameter in [*model.state_dict().values(), average]:
        seen.update(parameter.cpu().numpy().tobytes())
    seen.update(torch.cuda.get_rng_state().numpy().tobytes())
    print(seen.hexdigest())


main(int(sys.argv[1]))
