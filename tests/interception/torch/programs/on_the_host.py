"""A program that computes on the CPU alone: training, checkpoints, data loading, files, random numbers."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(net.parameters())
    x = torch.randn(8, 4)
    for reentrant in (True, False):
        checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
    optimizer.step()
    with torch.random.fork_rng(devices=[]):
        torch.rand(1)
    for (rows,) in DataLoader(TensorDataset(x), 2, shuffle=True, num_workers=2):
        print(rows)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    print(torch.load(file), copy.deepcopy(net), pickle.loads(pickle.dumps(x)))
    print(torch.randperm(5, generator=torch.Generator().manual_seed(3)), torch.rand(2))
    print(x.numpy().shape, torch.from_dlpack(x).sum(), x.untyped_storage().tolist()[:4])
