"""Trains a network, stops, and goes on from a checkpoint file as if it had not stopped: random numbers included."""

import random
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Waves(Dataset):
    """Noisy sine waves and their frequencies; workers make them."""

    def __len__(self):
        return 48

    def __getitem__(self, index):
        frequency = 1 + index % 4
        wave = torch.sin(torch.linspace(0, 6.28 * frequency, 32))
        return wave, frequency - 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.into = nn.Linear(32, 64)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.2)) for _ in range(3)
        )
        self.out = nn.utils.parametrizations.weight_norm(nn.Linear(64, 4))

    def forward(self, x):
        x = self.into(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.out(x)


def states(noise):
    return {
        "python": random.getstate(),
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
        "noise": noise.get_state(),
    }


def train(net, optimizer, noise, epochs):
    loader = DataLoader(
        Waves(), 16, shuffle=True, num_workers=2, pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(random.randrange(1 << 30)),
    )  # fmt: skip
    for _ in range(epochs):
        losses = []
        for waves, labels in loader:
            waves, labels = waves.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            waves = waves + 0.1 * torch.randn(waves.shape, generator=noise, device=device)
            loss = nn.functional.cross_entropy(net(waves), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().to("cpu", non_blocking=True))
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield torch.stack(losses).mean().item()


def main():
    random.seed(1)
    torch.manual_seed(2)
    net, noise = Net().to(device), torch.Generator(device).manual_seed(3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    first, _ = train(net, optimizer, noise, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "random": states(noise)}, path)
        went_on = list(train(net, optimizer, noise, 2))
        saved = torch.load(path, map_location="cpu", weights_only=False)
    resumed, noise = Net().to(device), torch.Generator(device)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=3e-3)
    resumed.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    random.setstate(saved["random"]["python"])
    torch.set_rng_state(saved["random"]["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])
    noise.set_state(saved["random"]["noise"])
    again = list(train(resumed, optimizer, noise, 2))
    # Not the losses: on a GPU dropout has random numbers of its own, and on a CPU it shares them.
    print(f"as without a stop: {again == went_on}; it learns: {again[1] < first / 4}")


if __name__ == "__main__":
    main()
