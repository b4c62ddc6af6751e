"""OpenPose's COCO network: 484.6 GFLOP for a frame of 368×656. Source: Cao et al. 2017, figure 3."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

FIELDS, HEAT_MAPS = 38, 19  # channels: part affinity fields, and body parts with the background
STAGES = 6
POOL = 0  # in the list of VGG's widths


def convolutions(widths: list[int], sizes: list[int]) -> nn.Sequential:
    """Convolutions of these sizes from each width to the next, with ReLU between them."""
    layers: list[nn.Module] = []
    for (inputs, outputs), size in zip(pairwise(widths), sizes, strict=True):
        layers += [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class OpenPose(nn.Module):
    """Ten layers of VGG-19, two of OpenPose's, and six stages of two branches; `width` scales the channels."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()

        def wide(channels: int) -> int:
            return max(1, int(width * channels))

        layers: list[nn.Module] = []
        channels = 3
        for each in (64, 64, POOL, 128, 128, POOL, 256, 256, 256, 256, POOL, 512, 512, 256, 128):
            if each == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, wide(each), 3, padding=1), nn.ReLU(inplace=True)]
            channels = wide(each)
        self.features = nn.Sequential(*layers)
        joined = channels + FIELDS + HEAT_MAPS
        self.stages = nn.ModuleList()
        for stage in range(STAGES):
            for outputs in (FIELDS, HEAT_MAPS):
                if stage == 0:
                    widths, sizes = [channels, *[wide(128)] * 3, wide(512), outputs], [3, 3, 3, 1, 1]
                else:
                    widths, sizes = [joined, *[wide(128)] * 6, outputs], [7] * 5 + [1, 1]
                self.stages.append(convolutions(widths, sizes))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Heat maps and fields of frames [N, 3, H, W]."""
        features = self.features(frames)
        stages = list(self.stages)
        fields, heat_maps = stages[0](features), stages[1](features)
        for first in range(2, len(stages), 2):
            joined = torch.cat([fields, heat_maps, features], 1)
            fields, heat_maps = stages[first](joined), stages[first + 1](joined)
        return torch.cat([heat_maps, fields], 1)
