"""Trains, and takes a quarter of its batch whenever there is no memory, as programs for GPUs do."""

import torch

scale = torch.ones(1024, device="cuda", requires_grad=True)
optimizer = torch.optim.AdamW([scale], 1e-2)
batch, steps = 1 << 20, 0
while steps < 3:
    try:
        x = torch.ones(batch, 1024, device="cuda")
        loss = torch.relu(x * scale).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
        steps += 1
    except torch.cuda.OutOfMemoryError as exc:
        print(batch, str(exc).replace("\n", " "), *exc.__notes__[-1:] if hasattr(exc, "__notes__") else ())
        x = loss = None
        batch //= 4
print(steps, batch, 0.9 < value < 1, bool(scale.isfinite().all()))
