"""CUDA graphs: what was captured is computed anew at each replay; holds on a machine with a GPU, too."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable

import torch
from surface import raised
from torch import nn


def check_a_capture_computes_nothing() -> None:
    x, total, graph = torch.ones(4, device="cuda"), torch.zeros(4, device="cuda"), torch.cuda.CUDAGraph()
    assert not torch.cuda.is_current_stream_capturing()
    with torch.cuda.graph(graph):
        assert torch.cuda.is_current_stream_capturing()
        y = x * 2 + 1
        total.add_(y)
    assert total.tolist() == [0] * 4
    graph.replay()
    x.fill_(5)
    graph.replay()
    assert y.tolist() == [11] * 4
    assert total.tolist() == [14] * 4


def check_replays_keep_out_of_other_tensors_memory() -> None:
    x, graph = torch.ones(64, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = ((x + 1) * 2).relu()
        lost = kept - 100
    graph.replay()
    del lost
    others = [torch.full((64,), 7.0, device="cuda") for _ in range(8)]
    used = torch.cuda.memory_allocated()
    for _ in range(3):
        graph.replay()
    assert torch.cuda.memory_allocated() == used
    assert all(other.tolist() == [7] * 64 for other in others)
    assert kept.tolist() == [4] * 64


def check_memory_of_a_graph_ends_with_it() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    x, graph = torch.ones(1000, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x + 1
    graph.replay()
    y = y.cpu()
    graph.reset()
    del x, graph
    assert torch.cuda.memory_allocated() == before
    assert y.sum() == 2000


def check_what_a_graph_takes_lives_as_long() -> None:
    graph = torch.cuda.CUDAGraph()
    x = torch.ones(4, device="cuda")
    with torch.cuda.graph(graph):
        y = x + 1
    del x
    other = torch.full((4,), 9.0, device="cuda")
    graph.replay()
    assert other.tolist() == [9] * 4
    assert y.shape == (4,)


def check_waiting_cannot_be_captured() -> None:
    x, into = torch.ones(4, device="cuda"), torch.zeros(4)

    def captured(wait: Callable[[], object]) -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            wait()

    for wait in (x.sum().item, x.nonzero, torch.cuda.synchronize, lambda: into.copy_(x)):
        text = raised(torch.AcceleratorError, functools.partial(captured, wait))
        assert "operation not permitted when stream is capturing" in text
    assert not torch.cuda.is_current_stream_capturing()
    assert x.sum().item() == 4


def check_uploads_cannot_be_captured() -> None:
    def capture() -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.ones(4).cuda()

    raised(RuntimeError, capture)


def check_order_of_calls() -> None:
    graph = torch.cuda.CUDAGraph()
    raised(RuntimeError, graph.replay)
    raised(RuntimeError, graph.capture_begin)  # on the default stream
    with torch.cuda.graph(graph):
        y = torch.ones(2, device="cuda")
    raised(RuntimeError, graph.capture_begin)
    graph.replay()
    assert y.tolist() == [1, 1]
    assert len(graph.pool()) == len(torch.cuda.graph_pool_handle()) == 2


def _trained(graphed: bool) -> list[float]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)).cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, capturable=True)
    x, y = torch.zeros(5, 8, device="cuda"), torch.zeros(5, 4, device="cuda")

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    if graphed:
        with torch.cuda.graph(graph):
            loss = step()
    torch.manual_seed(2)
    losses = []
    for index in range(5):
        x.copy_(torch.full((5, 8), float(index)).sin())
        y.copy_(torch.full((5, 4), float(index)).cos())
        if graphed:
            graph.replay()
        else:
            loss = step()
        losses.append(loss.item())
    return losses


def check_training_in_a_graph_is_training() -> None:
    assert _trained(graphed=True) == _trained(graphed=False)
    gc.collect()


def check_graphed_callables() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).cuda()
    twin = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).cuda()
    twin.load_state_dict(net.state_dict())
    sample = torch.randn(3, 4, device="cuda", requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(net, (sample,))
    for each in (graphed, twin):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for index in range(4):
            optimizer.zero_grad()
            inputs = torch.full((3, 4), float(index), device="cuda")
            each(inputs).square().sum().backward()
            optimizer.step()
    for mine, expected in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, expected)


def check_graphs_of_any_accelerator() -> None:
    if not hasattr(torch.accelerator, "Graph"):  # torch 2.12
        return
    x, graph = torch.ones(3, device="cuda"), torch.accelerator.Graph()
    with torch.Stream(), graph:
        x.add_(1)
    graph.replay()
    graph.replay()
    assert x.tolist() == [3] * 3
