"""Two processes with a model each meet in torch.distributed; prints what each has. Written for GPUs and NCCL."""

from __future__ import annotations

import sys
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKEND = "nccl" if torch.cuda.is_available() else "gloo"


def collectives(rank: int) -> list[object]:
    """What comes of each collective operation."""
    x = torch.full((2,), rank + 1.0, device=DEVICE)
    dist.all_reduce(x)
    gathered = [torch.zeros(2, device=DEVICE) for _ in range(2)]
    dist.all_gather(gathered, x + rank)
    sent = torch.full((2,), float(rank), device=DEVICE)
    dist.broadcast(sent, 1)
    later = x.clone()
    dist.all_reduce(later, dist.ReduceOp.MAX, async_op=True).wait()
    scattered = torch.zeros(1, device=DEVICE)
    dist.scatter(scattered, list(x.split(1)) if rank == 0 else None)
    passed = torch.zeros(2, device=DEVICE) if rank else x * 7
    if rank:
        dist.recv(passed, 0)
    else:
        dist.send(passed, 1)
    dist.barrier()
    return [each.tolist() for each in (x, *gathered, sent, later, scattered, passed)]


def train(rank: int) -> list[float]:
    """Train with gradients that are averaged over both processes."""
    torch.manual_seed(rank)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(DEVICE)
    parallel = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        parallel(torch.full((2, 3), float(rank + step), device=DEVICE)).square().sum().backward()
        optimizer.step()
    return [round(parameter.sum().item(), 4) for parameter in net.parameters()]


def of_a_chosen_backend(rank: int, meeting: str) -> list[float]:
    """What comes of a sum where torch chooses the backend."""
    dist.init_process_group(init_method=f"file://{meeting}", rank=rank, world_size=2)
    x = torch.full((2,), rank + 1.0, device=DEVICE)
    dist.all_reduce(x, group=init_device_mesh(DEVICE, (2,)).get_group())
    dist.destroy_process_group()
    return x.tolist()


def main(rank: int, meeting: str, results: mp.SimpleQueue) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(BACKEND, init_method=f"file://{meeting}", rank=rank, world_size=2)
    made = collectives(rank), train(rank)
    dist.destroy_process_group()
    results.put((rank, *made, of_a_chosen_backend(rank, f"{meeting}_again")))


if __name__ == "__main__":
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=main, args=(rank, f"{folder}/meeting", results)) for rank in range(2)]
        for process in processes:
            process.start()
        for line in sorted(results.get() for _ in processes):
            print(*line)
        for process in processes:
            process.join()
    sys.exit(any(process.exitcode for process in processes))
