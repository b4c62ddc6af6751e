"""What programs ask torch.cuda for; holds on a machine with a GPU, too."""

from __future__ import annotations

import torch
from torch import nn

x = torch.arange(16.0).view(4, 4).sin().cuda()


def check_there_is_an_accelerator() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() >= 1
    assert torch.cuda.current_device() == 0
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert torch.accelerator.device_count() == torch.cuda.device_count()
    assert torch.get_device_module("cuda") is torch.cuda


def check_properties() -> None:
    properties = torch.cuda.get_device_properties(0)
    assert torch.cuda.get_device_name(0) == properties.name
    assert torch.cuda.get_device_capability() == (properties.major, properties.minor)
    assert properties.total_memory > 0


def check_memory() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = torch.empty(1 << 20, device="cuda")
    assert torch.cuda.memory_allocated() - before >= 1 << 22
    del y
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before >= 1 << 22
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total
    assert isinstance(torch.cuda.memory_summary(), str)


def check_current_device() -> None:
    with torch.cuda.device(0):
        assert torch.zeros(1, device="cuda").device.index == 0
    torch.cuda.set_device(0)
    with torch.cuda.device_of(x):
        assert torch.cuda.current_device() == 0


def check_streams_and_events() -> None:
    stream, begun, ended = torch.cuda.Stream(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        y = x + 1
    torch.cuda.current_stream().wait_stream(stream)
    ended.record()
    ended.synchronize()
    torch.cuda.synchronize()
    assert ended.query()
    assert begun.elapsed_time(ended) >= 0
    assert torch.equal(y, x + 1)


def check_graphs() -> None:
    inputs, graph = torch.zeros(4, device="cuda"), torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        outputs = inputs * 2 + 1
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        outputs = inputs * 2 + 1
    for value in (1.0, 5.0):
        inputs.fill_(value)
        graph.replay()
        assert outputs.tolist() == [2 * value + 1] * 4


def check_ranges_are_marked() -> None:
    torch.cuda.nvtx.range_push("a")
    torch.cuda.nvtx.range_pop()
    torch.cuda.nvtx.mark("b")
    with torch.cuda.nvtx.range("c"):
        pass


def check_profiler() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.relu(x)
    assert any("relu" in each.key for each in profile.key_averages())


def check_compile() -> None:
    net = nn.Linear(4, 4).cuda()
    for backend in ("inductor", "eager", "aot_eager"):
        torch.compiler.reset()
        assert torch.allclose(torch.compile(net, backend=backend)(x), net(x), atol=1e-5)
