"""Moves a model and some data to the accelerator; prints what the model gives."""

import torch

torch.manual_seed(0)
model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(4)))
data = torch.randn(8, 512)
model.cuda()
print(f"{model(data.cuda()).sum().item():.6f}")
again = torch.randn(256, 1024)
sums = []
for number in range(4):
    if number == 2:
        again.numpy()[0, 0] = 1000.0  # which torch does not notice
    sums.append(again.cuda().double().sum().item())
print([f"{each:.3f}" for each in sums])
