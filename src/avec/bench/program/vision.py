"""W1 OpenPose's frame, W2 ResNet-50's forward pass, W4 a step of training a ResNet-18: pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import zoo
from .measurement import Measurement
from .place import Place

BACK_TO_BACK = 50
STEPS_PER_READ = 10


def pictures(seed: int, *shape: int) -> torch.Tensor:
    """Random pictures [N, 3, H, W] in the host's memory."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def frame(place: Place) -> Iterator[Measurement]:
    """W1: a frame goes in, heat maps come out."""
    network, _ = zoo.openpose(place.small)
    network = network.eval().to(place.device)
    frame = pictures(0, 1, 3, *((64, 64) if place.small else (368, 656))) - 0.5
    with torch.inference_mode():
        yield Measurement("W1.frame", lambda: network(frame.to(place.device)).cpu())


def forward(place: Place) -> Iterator[Measurement]:
    """W2: a picture goes in, logits come out; and many passes over one that is there, with one read at the end."""
    network, place.libraries["resnet50"] = zoo.resnet(50, place.small)
    network = network.eval().to(place.device)
    size = 64 if place.small else 224
    picture = pictures(1, 1, 3, size, size)
    resident = picture.to(place.device)
    count = 5 if place.small else BACK_TO_BACK

    def back_to_back() -> torch.Tensor:
        for _ in range(count):
            logits = network(resident)
        found: torch.Tensor = logits.cpu()
        return found

    with torch.inference_mode():
        yield Measurement("W2.latency", lambda: network(picture.to(place.device)).cpu())
        yield Measurement("W2.back_to_back", back_to_back, per=count, compared=2, warm=2)


def step(place: Place) -> Iterator[Measurement]:
    """W4: SGD with momentum; its loss is read after each step, after each tenth, or with a new batch for each."""
    initial, place.libraries["resnet18"] = zoo.resnet(18, place.small)
    batch, size = (4, 64) if place.small else (32, 224)
    x = pictures(3, batch, 3, size, size)
    labels = torch.from_numpy(np.random.default_rng(3).integers(0, 10, batch))
    here = x.to(place.device), labels.to(place.device)

    one = trainer(initial, place.device)
    yield Measurement("W4.step", lambda: one(*here).item(), training=True)
    some = trainer(initial, place.device)

    def block() -> float:
        for _ in range(STEPS_PER_READ):
            loss = some(*here)
        return loss.item()

    yield Measurement("W4.step_read_every_10", block, per=STEPS_PER_READ, training=True, compared=1, warm=1)
    new = trainer(initial, place.device)

    def fed() -> float:
        return new(x.to(place.device), labels.to(place.device)).item()

    yield Measurement("W4.step_host_batch", fed, training=True)


def trainer(initial: nn.Module, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Steps of training a copy of a network; each gives its loss."""
    network = copy.deepcopy(initial).train().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step
