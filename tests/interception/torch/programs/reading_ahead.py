"""Steps that end with values which were computed some time before; prints them.

First just that; then some of them are written to in between, in some of the steps; then a copy to page-locked memory
comes before.
"""

from __future__ import annotations

import torch

STEPS = 40  # of each kind

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
net.cuda()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x, y = torch.randn(8, 16).cuda(), torch.randint(4, (8,)).cuda()
total = torch.zeros((), device="cuda")
pinned = torch.empty(8, 4).pin_memory()

for step in range(3 * STEPS):
    kind = ("metrics", "written", "pinned")[step // STEPS]
    optimizer.zero_grad()
    out = net(x)
    loss = torch.nn.functional.cross_entropy(out, y)
    hits = (out.argmax(1) == y).sum()
    total += loss.detach()
    loss.backward()
    optimizer.step()
    said: list[object] = []
    if kind == "pinned":
        pinned.copy_(out.detach(), non_blocking=True)
    if kind == "written" and step % 7 == 3:
        total.mul_(0.5)
    copies = [loss.detach().cpu(), hits.cpu(), total.cpu()]
    if kind == "metrics":
        torch.cuda.synchronize()  # nothing that comes later goes into them
    said += [copy.item() for copy in copies]
    if kind == "pinned":
        said += pinned.tolist()
    if kind == "written":
        if step % 5 == 4:
            net[1].running_mean.zero_()
        said += net[1].running_mean.tolist()
        net[1].running_mean[step % 4] += 1.0
        said += net[1].running_mean[:4].tolist()
    print(step, *said)

# The same done to a smaller tensor: what was read of the larger one is not there.
for x in [torch.zeros(8, device="cuda")] * 6 + [torch.zeros(4, device="cuda")]:
    x[:4].add_(1.0)
    torch.cuda.current_stream().query()  # sends what is recorded
    print(x.tolist())

# What was lent for an upload may be changed after any wait.
lent, x, w = torch.zeros(1 << 21).pin_memory(), torch.zeros(1 << 21, device="cuda"), torch.ones(16, 16, device="cuda")
for step in range(20):
    total = (w @ w).sum()
    y = w
    for _ in range(40):
        y = y * 1.0 + 0.5
    lent.fill_(float(step))
    x.copy_(lent, non_blocking=True)
    total.item()
    lent.fill_(-1.0)
    print(x.min().item())
