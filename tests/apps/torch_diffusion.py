"""A diffusion model: a small U-Net with attention, trained and sampled with DDPM's schedule."""

import math

import torch
from torch import nn
from torch.nn import functional as F

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(8)
STEPS = 20


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm, self.first = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time, self.second = nn.Linear(32, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, t):
        h = self.first(F.silu(self.norm(x))) + self.time(t)[:, :, None, None]
        return self.second(F.silu(h)) + self.skip(x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inward, self.down, self.middle, self.up = (
            nn.Conv2d(1, 16, 3, padding=1),
            Block(16, 32),
            Block(32, 32),
            Block(64, 16),
        )
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.outward = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x, steps):
        frequencies = torch.exp(-math.log(1000.0) * torch.arange(16, device=x.device) / 16)
        angles = steps.float()[:, None] * frequencies
        t = torch.cat([angles.sin(), angles.cos()], 1)
        high = self.down(self.inward(x), t)
        low = self.middle(F.avg_pool2d(high, 2), t)
        b, c, height, width = low.shape
        flat = low.flatten(2).transpose(1, 2)
        low = low + self.attention(flat, flat, flat, need_weights=False)[0].transpose(1, 2).reshape(b, c, height, width)
        h = torch.cat([F.interpolate(low, scale_factor=2, mode="nearest"), high], 1)
        return self.outward(self.up(h, t))


betas = torch.linspace(1e-3, 0.2, STEPS, device=device)
kept = torch.cumprod(1 - betas, 0)
model = UNet().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
pictures = torch.zeros(8, 1, 8, 8)
for number, picture in enumerate(pictures):
    picture[0, number % 6 : number % 6 + 3, 2:6] = 1
for step in range(15):
    times, noise = torch.randint(0, STEPS, (8,)).to(device), torch.randn(8, 1, 8, 8).to(device)
    share = kept[times][:, None, None, None]
    loss = F.mse_loss(model(share.sqrt() * pictures.to(device) + (1 - share).sqrt() * noise, times), noise)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if step % 5 == 4:
        print(f"step {step} loss {loss.item():.5f}")
model.eval()
x = torch.randn(2, 1, 8, 8).to(device)
with torch.inference_mode():
    for step in reversed(range(STEPS)):
        predicted = model(x, torch.full((2,), step, device=device))
        x = (x - betas[step] / (1 - kept[step]).sqrt() * predicted) / (1 - betas[step]).sqrt()
        if step:
            x = x + betas[step].sqrt() * torch.randn(2, 1, 8, 8).to(device)
print(f"sample mean {x.mean().item():.4f} deviation {x.std().item():.4f}")
