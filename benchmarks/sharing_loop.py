"""Runs a ResNet on one input again and again, when told to. A plain PyTorch program.

It says `ready` when it has warmed up; each line that it then reads is a number of seconds to compute for, which it
answers with JSON: when it saw each result (of the machine's monotonic clock) and how long that took, in seconds. A
result is that of `--runs` runs in a row, since a program that looks at each one does not always want the accelerator.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from torch_models import ResNet

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, default=50)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--runs", type=int, default=4)
parser.add_argument("--warm", type=int, default=5)
options = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(7)
network = ResNet(options.depth, 1000, options.width).to(device).eval()
x = torch.randn(options.batch, 3, options.size, options.size).to(device)


def compute(seconds: float, most: int) -> dict[str, list[float]]:
    """Compute for some seconds, or a number of results."""
    found: dict[str, list[float]] = {"ended_s": [], "took_s": []}
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and len(found["ended_s"]) < most:
        began_s = time.monotonic()
        sum(network(x).sum() for _ in range(options.runs)).item()
        now_s = time.monotonic()
        found["ended_s"].append(now_s)
        found["took_s"].append(now_s - began_s)
    return found


with torch.inference_mode():
    compute(60.0, options.warm)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(compute(float(line), sys.maxsize)), flush=True)
