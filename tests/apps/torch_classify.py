"""Trains a small convolutional network to tell drawn shapes apart, with a DataLoader, a schedule and a checkpoint."""

import io

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)


def shapes(count):
    pictures, labels = torch.zeros(count, 1, 16, 16), torch.randint(0, 3, (count,))
    for picture, label in zip(pictures[:, 0], labels, strict=True):
        x, y = torch.randint(2, 8, (2,)).tolist()
        if label == 0:
            picture[y : y + 6, x : x + 6] = 1
        elif label == 1:
            picture[y : y + 6, x + 2] = 1
        else:
            picture[y + 2, x : x + 6] = 1
    return pictures + 0.05 * torch.randn_like(pictures), labels


model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    nn.Linear(64, 3),
).to(device)  # fmt: skip
loader = DataLoader(TensorDataset(*shapes(128)), batch_size=32, pin_memory=device.type == "cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
for epoch in range(4):
    total = torch.zeros((), device=device)
    for pictures, labels in loader:
        pictures, labels = pictures.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        total += loss.detach()
    schedule.step()
    print(f"epoch {epoch} loss {total.item() / len(loader):.5f}")

file = io.BytesIO()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
file.seek(0)
model.load_state_dict(torch.load(file, map_location=device, weights_only=True)["model"])
model.eval()
pictures, labels = shapes(64)
with torch.no_grad():
    correct = (model(pictures.to(device)).argmax(1).cpu() == labels).sum().item()
print(f"correct {correct} of {len(labels)}")
