"""A GAN that learns a ring of points: two optimizers, detach, random numbers made on the host, a moving average."""

import copy
import math

import torch
from torch import nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(3)


def network(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, outputs)
    )


generator, critic = network(4, 2).to(device), network(2, 1).to(device)
average = copy.deepcopy(generator)
optimizers = [torch.optim.Adam(each.parameters(), lr=2e-3, betas=(0.5, 0.9)) for each in (generator, critic)]
criterion = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(32, 1, device=device), torch.zeros(32, 1, device=device)
for step in range(40):
    angles = 2 * math.pi * torch.rand(32)
    real = torch.stack([angles.cos(), angles.sin()], 1).to(device)
    noise = torch.randn(32, 4).to(device)
    made = generator(noise)

    critic.zero_grad()
    critic_loss = criterion(critic(real), ones) + criterion(critic(made.detach()), zeros)
    critic_loss.backward()
    optimizers[1].step()

    generator.zero_grad()
    generator_loss = criterion(critic(made), ones)
    generator_loss.backward()
    optimizers[0].step()
    with torch.no_grad():
        for kept, new in zip(average.parameters(), generator.parameters(), strict=True):
            kept.lerp_(new, 0.05)
    if step % 10 == 9:
        print(f"step {step} critic {critic_loss.item():.4f} generator {generator_loss.item():.4f}")
with torch.no_grad():
    radius = average(torch.randn(64, 4).to(device)).norm(dim=1)
print(f"radius {radius.mean().item():.4f} to {radius.max().item():.4f}")
