"""Prints what operators cost the host, as JSON. A plain CUDA program; run it under `avec run`.

Only the calls are timed, in bursts that the destination finishes before the next one begins: `cpu` is the processor
time of the thread that makes them, `wall` is what passes meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch_models import GPT, ResNet

BURST = 200


def cost(call: Callable[[], object], bursts: int, per_burst: int = BURST) -> dict[str, list[float]]:
    """Microseconds of each call, one figure for each burst."""
    found: dict[str, list[float]] = {"cpu_us": [], "wall_us": []}
    for _ in range(bursts):
        torch.cuda.synchronize()
        cpu, wall = time.thread_time(), time.perf_counter()
        for _ in range(per_burst):
            call()
        found["wall_us"].append(1e6 * (time.perf_counter() - wall) / per_burst)
        found["cpu_us"].append(1e6 * (time.thread_time() - cpu) / per_burst)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bursts", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y, matrix = torch.randn(1024).cuda(), torch.randn(1024).cuda(), torch.randn(64, 64).cuda()
    scalar = x.sum()
    sizes = iter(range(2, 1 << 20))
    large = torch.zeros(1 << 20, device="cuda")

    def miss() -> None:
        size = next(sizes)
        large[:size].add(1.5)  # a shape that was never seen

    results: dict[str, object] = {}
    with torch.inference_mode():
        for name, call in {
            "relu": lambda: torch.relu(x),
            "add": lambda: x + y,
            "multiply_by_float": lambda: x * 1.5,
            "mm": lambda: torch.mm(matrix, matrix),
            "view": lambda: x.view(32, 32),
        }.items():
            cost(call, 3)
            results[name] = cost(call, arguments.bursts)
        results["cache_miss"] = cost(miss, arguments.bursts, 20)
        results["item"] = cost(scalar.item, arguments.bursts, 50)
        network, picture = ResNet(50).eval().cuda(), torch.randn(1, 3, 64, 64).cuda()
        for _ in range(3):
            network(picture)
        results["resnet50_forward"] = cost(lambda: network(picture), arguments.bursts, 1)
        gpt, tokens = GPT(1000, 64, 12, 4, 128).eval().cuda(), torch.zeros(1, 128, dtype=torch.int64).cuda()
        for _ in range(3):
            gpt(tokens)
        results["gpt_12_layers_forward"] = cost(lambda: gpt(tokens), arguments.bursts, 1)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
