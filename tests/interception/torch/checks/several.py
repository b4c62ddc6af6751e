"""What programs do with two accelerators; holds on a machine with two GPUs, too."""

from __future__ import annotations

import copy
import threading

import torch
import torch.cuda.comm
from surface import raised
from torch import nn


def check_the_current_device() -> None:
    assert torch.cuda.device_count() == 2
    torch.cuda.set_device(1)
    try:
        assert torch.zeros(2, device="cuda").device == torch.device("cuda:1")
        assert torch.zeros(2).cuda().device == torch.device("cuda:1")
        with torch.cuda.device(0):
            assert torch.cuda.current_device() == 0
            assert torch.zeros(2, device="cuda").device == torch.device("cuda:0")
        assert torch.cuda.current_device() == 1
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_device()))
        thread.start()
        thread.join()
        assert seen == [0]
    finally:
        torch.cuda.set_device(0)
    with torch.cuda.device_of(torch.zeros(1, device="cuda:1")):
        assert torch.cuda.current_device() == 1
    with torch.accelerator.device_index(1):
        assert torch.cuda.current_device() == 1


def check_copies_from_one_to_the_other() -> None:
    x = torch.arange(6.0, device="cuda:0").view(2, 3)
    y = x.to("cuda:1")
    assert y.device == torch.device("cuda:1")
    z = torch.empty(3, 2, device="cuda:0")
    z.copy_((y * 2).t(), non_blocking=True)
    assert z.tolist() == [[0, 6], [2, 8], [4, 10]]
    assert torch.cuda.can_device_access_peer(0, 1)


def check_devices_are_not_mixed() -> None:
    x, y = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
    text = raised(RuntimeError, lambda: x + y)
    assert "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:1" in text
    assert (x + torch.tensor(1.0)).tolist() == [2] * 3


def check_streams_belong_to_devices() -> None:
    stream = torch.cuda.Stream(device=1)
    assert stream.device == torch.device("cuda:1")
    with torch.cuda.stream(stream):
        assert torch.cuda.current_device() == 1
        assert torch.cuda.current_stream() == stream
        assert torch.cuda.current_stream(0) == torch.cuda.default_stream(0)
    assert torch.cuda.current_device() == 0
    event = torch.cuda.Event()
    event.record(stream)
    assert "does not match" in raised(RuntimeError, lambda: event.record(torch.cuda.current_stream(0)))
    torch.cuda.synchronize(1)


def check_memory_is_counted_for_each() -> None:
    before = [torch.cuda.memory_allocated(device) for device in (0, 1)]
    y = torch.empty(1 << 20, dtype=torch.uint8, device="cuda:1")
    after = [torch.cuda.memory_allocated(device) for device in (0, 1)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [0, y.nbytes]


def check_communication() -> None:
    comm = torch.cuda.comm
    x = torch.arange(6.0, device="cuda").view(3, 2)
    pieces = comm.scatter(x, [0, 1])
    assert [(piece.get_device(), piece.size(0)) for piece in pieces] == [(0, 2), (1, 1)]
    assert torch.equal(comm.gather(pieces, 0, "cpu"), x.cpu())
    assert torch.equal(comm.gather(pieces, 0, 1), x.to("cuda:1"))
    assert [piece.size(0) for piece in comm.scatter(x, [0, 1], [1, 2])] == [1, 2]
    copies = comm.broadcast(x, [0, 1])
    assert copies[0] is x
    assert torch.equal(comm.reduce_add(copies, 0), x * 2)
    coalesced = comm.broadcast_coalesced([x, x + 1], [0, 1])
    assert torch.equal(coalesced[1][1].cpu(), x.cpu() + 1)
    out = [torch.empty(3, 2, device=f"cuda:{index}") for index in range(2)]
    comm.broadcast(x, out=out)
    comm.scatter(torch.cat([x, x]), out=out)
    assert torch.equal(out[1].cpu(), x.cpu())
    assert comm.reduce_add_coalesced([[x], [x.to("cuda:1")]], 0)[0].tolist() == (x * 2).tolist()


def check_data_parallel() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).cuda().eval()
    twin = copy.deepcopy(net)
    parallel, x = nn.DataParallel(net), torch.arange(24.0, device="cuda").view(6, 4).sin()
    outputs = parallel(x)
    assert outputs.device == torch.device("cuda:0")
    assert torch.allclose(outputs, twin(x), atol=1e-6)
    outputs.sum().backward()
    twin(x).sum().backward()
    for mine, expected in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine.grad, expected.grad, atol=1e-5)


def check_a_backward_pass_over_both() -> None:
    first, second = nn.Linear(4, 4).to("cuda:0"), nn.Linear(4, 1).to("cuda:1")
    loss = second(first(torch.ones(2, 4, device="cuda:0")).to("cuda:1")).sum()
    loss.backward()
    assert first.weight.grad.device == torch.device("cuda:0")
    assert second.weight.grad.device == torch.device("cuda:1")
    expected = second.weight.sum(0).cpu().repeat(4, 1).t() * 2
    assert torch.allclose(first.weight.grad.cpu(), second.weight.detach().cpu().t() * 2 @ torch.ones(1, 4)), expected
