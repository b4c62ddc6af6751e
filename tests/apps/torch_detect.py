"""A one-stage detector: anchors, smooth L1 and focal losses, masks, top-k and non-maximum suppression."""

import torch
from torch import nn
from torch.nn import functional as F

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(6)


def scene():
    picture, boxes = torch.zeros(3, 32, 32), []
    for _ in range(int(torch.randint(1, 4, ()))):
        x, y = torch.randint(0, 22, (2,)).tolist()
        size = int(torch.randint(6, 10, ()))
        picture[:, y : y + size, x : x + size] = torch.rand(3, 1, 1) * 0.5 + 0.5
        boxes.append([x, y, x + size, y + size])
    return picture, torch.tensor(boxes, dtype=torch.float32)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()
        )
        self.scores, self.offsets = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 4, 1)
        steps = torch.arange(8) * 4.0 + 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("anchors", torch.stack([x - 4, y - 4, x + 4, y + 4], -1).reshape(-1, 4))

    def forward(self, x):
        features = self.body(x)
        offsets = self.offsets(features).flatten(2).transpose(1, 2)
        return self.scores(features).flatten(1), self.anchors + 4 * offsets


def overlap(a, b):
    top_left, bottom_right = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a, area_b = ((each[:, 2:] - each[:, :2]).prod(-1) for each in (a, b))
    return shared / (area_a[:, None] + area_b - shared)


def suppress(boxes, scores, limit=0.4):
    kept, order = [], scores.argsort(descending=True)
    while order.numel():
        kept.append(order[0])
        if order.numel() == 1:
            break
        order = order[1:][overlap(boxes[order[:1]], boxes[order[1:]])[0] <= limit]
    return torch.stack(kept)


model = Detector().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(25):
    scenes = [scene() for _ in range(4)]
    scores, boxes = model(torch.stack([picture for picture, _ in scenes]).to(device))
    loss = scores.new_zeros(())
    for one_scores, one_boxes, (_, truth) in zip(scores, boxes, scenes, strict=True):
        truth = truth.to(device)
        best, which = overlap(model.anchors, truth).max(1)
        positive = best > 0.35
        target = positive.float()
        error = F.binary_cross_entropy_with_logits(one_scores, target, reduction="none")
        loss = loss + (error * (1 - torch.exp(-error)) ** 2).sum()
        if positive.any():
            loss = loss + F.smooth_l1_loss(one_boxes[positive], truth[which[positive]])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 4:
        print(f"step {step} loss {loss.item():.4f}")
model.eval()
with torch.no_grad():
    picture, truth = scene()
    scores, boxes = model(picture[None].to(device))
    top = scores[0].sigmoid().topk(12)
    kept = suppress(boxes[0][top.indices], top.values)
    print(f"objects {len(truth)} boxes {len(kept)} best {top.values[0].item():.4f}")
