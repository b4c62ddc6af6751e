"""ResNet-18 and ResNet-50. Source: He et al. 2015, table 1 and figure 5."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A residual block, plain (ResNet-18) or with a bottleneck (ResNet-50)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        if not bottleneck:
            shapes = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, size, step, padding=size // 2, bias=False) for before, after, size, step in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after, _, _ in shapes)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual and shortcut, added."""
        kept = self.shortcut(x)
        last = len(self.norms) - 1
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x))
            if place < last:
                x = functional.relu(x, inplace=True)
        return functional.relu(x + kept, inplace=True)


class ResNet(nn.Module):
    """ResNet-18 or ResNet-50; `width` is that of the first blocks."""

    def __init__(self, depth: int, classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        counts, bottleneck = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}[depth]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, channels = [], width
        for stage, count in enumerate(counts):
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(Block(channels, width << stage, stride, bottleneck))
                channels = (width << stage) * (4 if bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of pictures [N, 3, H, W]."""
        logits: torch.Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits
