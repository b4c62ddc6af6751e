"""Changes a tensor in place a thousand times, with random numbers, and prints now and then what came of it."""

import torch

torch.manual_seed(0)
state = torch.zeros(100, device="cuda")
print("started with", state.sum().item(), flush=True)
for step in range(1500):
    state.mul_(0.9).add_(torch.rand(100, device="cuda") - 0.5)
    if step % 5 == 0:
        print(f"{step} {state.sum().item():.9g} {state[step % 100].item():.9g}")
