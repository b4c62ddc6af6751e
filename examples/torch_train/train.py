"""Train a small residual network on an NVIDIA GPU to name drawn shapes, with a checkpoint to go on from.

    python train.py [--amp] [--epochs N] [--checkpoint FILE] [--resume FILE]

The pictures are drawn when the program starts: filled and open circles and squares, crosses and stripes, with noise.
A plain PyTorch program.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SHAPES = ("disc", "ring", "square", "frame", "cross", "stripes")
SIZE = 32


def draw(count, generator):
    """Pictures (count, 3, SIZE, SIZE) in random colours, and which shape each shows."""
    labels = torch.randint(len(SHAPES), (count,), generator=generator)
    centre = torch.rand(count, 2, 1, 1, generator=generator) * 12 + 10
    radius = torch.rand(count, 1, 1, generator=generator) * 4 + 5
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    dy, dx = (y - centre[:, 0]).abs(), (x - centre[:, 1]).abs()
    round_, edged, near = (dx**2 + dy**2).sqrt(), torch.maximum(dx, dy), torch.minimum(dx, dy)
    masks = torch.stack([
        round_ < radius,
        (round_ < radius) & (round_ > radius - 2.5),
        edged < radius,
        (edged < radius) & (edged > radius - 2.5),
        (edged < radius) & (near < 1.5),
        (edged < radius) & (y % 4 < 2),
    ])  # fmt: skip
    mask = masks[labels, torch.arange(count)].float()[:, None]
    colour, ground = torch.rand(2, count, 3, 1, 1, generator=generator)
    pictures = mask * (0.5 + 0.5 * colour) + (1 - mask) * 0.4 * ground
    return pictures + 0.1 * torch.randn(pictures.shape, generator=generator), labels


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.around = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.around(x))


def evaluate(model, loader, device):
    """The share of pictures whose shape is named."""
    model.eval()
    correct = torch.zeros((), dtype=torch.long, device=device)
    with torch.no_grad():
        for pictures, labels in loader:
            correct += (model(pictures.to(device)).argmax(1) == labels.to(device)).sum()
    return correct.item() / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--amp", action="store_true", help="compute in float16 where that is good enough")
    parser.add_argument("--checkpoint", help="write the model and the optimizer here after each epoch")
    parser.add_argument("--resume", help="go on from a checkpoint")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("training on", torch.cuda.get_device_name() if device.type == "cuda" else "the CPU")
    torch.manual_seed(0)
    drawn = torch.Generator().manual_seed(1)
    training = DataLoader(TensorDataset(*draw(options.pictures, drawn)), options.batch, shuffle=True,
                          pin_memory=device.type == "cuda", drop_last=True)  # fmt: skip
    held_out = DataLoader(TensorDataset(*draw(options.pictures // 4, drawn)), options.batch)

    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(SHAPES)),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp)
    first = 0
    if options.resume:
        state = torch.load(options.resume, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        scaler.load_state_dict(state["scaler"])
        first = state["epoch"] + 1

    for epoch in range(first, options.epochs):
        began = time.perf_counter()
        model.train()
        total = torch.zeros((), device=device)
        for pictures, labels in training:
            pictures, labels = pictures.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.float16, enabled=options.amp):
                loss = F.cross_entropy(model(pictures), labels, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach()
        schedule.step()
        accuracy = evaluate(model, held_out, device)
        print(
            f"epoch {epoch} loss {total.item() / len(training):.4f} accuracy {accuracy:.3f}"
            f" in {time.perf_counter() - began:.1f} s",
            flush=True,
        )
        if options.checkpoint:
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "scaler": scaler.state_dict(),
                    "epoch": epoch,
                },
                options.checkpoint,
            )


if __name__ == "__main__":
    main()
