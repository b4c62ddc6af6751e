"""What programs ask torch.cuda for beside tensors; holds on a machine with a GPU, too."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable

import torch
import torch.utils.collect_env
from torch import nn


def raised(kind: type[Exception], call: Callable[[], object]) -> str:
    """The text of the exception that a call has to raise."""
    try:
        call()
    except kind as exc:
        return str(exc)
    raise AssertionError(f"no {kind.__name__}")


def check_a_queued_call_is_made_with_the_first_use() -> None:
    assert not torch.cuda.is_initialized()
    called: list[bool] = []
    torch.cuda._lazy_call(lambda: called.append(True))
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() >= 1
    assert not torch.cuda.is_initialized()
    assert not called
    torch.zeros(1, device="cuda")
    assert torch.cuda.is_initialized()
    assert called == [True]
    torch.cuda._lazy_call(lambda: called.append(False))
    assert called == [True, False]


def check_a_fork_may_compute_on_the_cpu() -> None:
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writes, sys.stderr.fileno())
        x = torch.ones(2, requires_grad=True)
        (x * 2).sum().backward()  # autograd asks for all devices
        os.write(writes, repr(x.grad.tolist()).encode())
        os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    assert os.read(reads, 4096).decode() == "[2.0, 2.0]"


def check_properties() -> None:
    properties = torch.cuda.get_device_properties("cuda")
    text = repr(properties)
    assert text.startswith(f"_CudaDeviceProperties(name='{properties.name}', major={properties.major}, minor=")
    assert f"total_memory={properties.total_memory // 2**20}MB, multi_processor_count=" in text
    assert f"L2_cache_size={properties.L2_cache_size // 2**20}MB)" in text
    assert properties.warp_size >= 1
    assert len(str(properties.uuid)) == 36
    assert isinstance(properties, torch.cuda._CudaDeviceProperties)
    assert "Invalid device id" in raised(AssertionError, lambda: torch.cuda.get_device_properties(99))
    raised(AttributeError, lambda: setattr(properties, "major", 1))


def check_versions() -> None:
    assert torch.version.cuda is None or torch.version.cuda[0].isdigit()
    assert torch.backends.cudnn.is_available() == (torch.backends.cudnn.version() is not None)
    assert torch.backends.cuda.is_built()
    assert isinstance(torch.cuda.get_arch_list(), list)
    assert isinstance(torch.cuda.get_gencode_flags(), str)
    assert torch.cuda.is_bf16_supported()
    assert "CUDA" in torch.utils.collect_env.get_pretty_env_info()


def check_an_unknown_device_is_refused_at_once() -> None:
    for call in (
        lambda: torch.cuda.set_device(99),
        lambda: torch.zeros(1, device="cuda:99"),
        lambda: torch.zeros(1).to("cuda:99"),
    ):
        assert "invalid device ordinal" in raised(torch.AcceleratorError, call)
    assert torch.cuda.current_device() == 0


def check_each_thread_has_a_stream() -> None:
    stream, seen = torch.cuda.Stream(), []
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_stream()))
        thread.start()
        thread.join()
    assert seen == [torch.cuda.default_stream()]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def check_streams() -> None:
    stream = torch.cuda.Stream(priority=-1)
    least, greatest = torch.cuda.Stream.priority_range()
    assert greatest <= stream.priority <= least
    assert isinstance(stream, torch.Stream)
    assert stream != torch.cuda.Stream()
    assert stream == torch.cuda.Stream(
        stream_id=stream.stream_id, device_index=stream.device_index, device_type=stream.device_type
    )
    assert {stream: 1}[stream] == 1
    assert stream.device == torch.device("cuda:0")
    assert repr(stream) == f"<torch.cuda.Stream device=cuda:0 cuda_stream={stream.cuda_stream:#x}>"
    with stream:
        assert torch.cuda.current_stream() == stream
        y = torch.ones(8, device="cuda") + 1
    y.record_stream(stream)
    stream.wait_stream(torch.cuda.current_stream())
    stream.synchronize()
    while not stream.query():
        pass
    assert y.tolist() == [2] * 8


def check_events_tell_the_time() -> None:
    begun, ended, plain = (
        torch.cuda.Event(enable_timing=True),
        torch.cuda.Event(enable_timing=True),
        torch.cuda.Event(),
    )
    assert isinstance(begun, torch.Event)
    assert repr(begun) == "<torch.cuda.Event uninitialized>"
    assert begun.query()
    begun.synchronize()
    text = "Both events must be recorded before calculating elapsed time."
    assert raised(ValueError, lambda: begun.elapsed_time(ended)) == text
    begun.record()
    torch.cuda._sleep(50_000_000)
    torch.cuda.current_stream().record_event(ended)
    ended.synchronize()
    assert ended.query()
    assert 15 < begun.elapsed_time(ended) < 500
    plain.record()
    text = "Both events must be created with argument 'enable_timing=True'."
    assert raised(ValueError, lambda: begun.elapsed_time(plain)) == text


def check_an_event_happens_in_its_time() -> None:
    event = torch.cuda.Event()
    torch.cuda._sleep(200_000_000)
    event.record()
    assert not event.query()
    event.synchronize()
    assert event.query()


def check_nothing_is_left_to_do_after_a_wait() -> None:
    stream, event = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    for wait in (stream.synchronize, torch.cuda.synchronize):
        event.record()
        torch.ones(2, device="cuda").add_(1)
        wait()
        assert event.query()
        assert stream.query()
        assert event.elapsed_time(event) == 0
        assert stream.query()


def check_streams_and_events_of_any_accelerator() -> None:
    stream, begun, ended = (
        torch.Stream("cuda"),
        torch.Event("cuda", enable_timing=True),
        torch.Event("cuda", enable_timing=True),
    )
    with stream:
        assert torch.accelerator.current_stream() == stream
        begun.record(stream)
        y = torch.ones(4, device="cuda") + 1
        ended.record(stream)
    stream.wait_event(ended)
    stream.synchronize()
    assert begun.elapsed_time(ended) >= 0
    assert stream.record_event().query() in (True, False)
    assert y.tolist() == [2] * 4
    assert torch.Stream("cpu").device.type == "cpu"


def check_memory_figures() -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()
    y = [torch.empty(1 << 20, dtype=torch.uint8, device="cuda") for _ in range(3)]
    during = torch.cuda.memory_stats()
    assert during["allocated_bytes.all.current"] - before["allocated_bytes.all.current"] == 3 << 20
    assert during["allocation.all.allocated"] - before["allocation.all.allocated"] == 3
    del y
    assert torch.cuda.memory_allocated() == before["allocated_bytes.all.current"]
    assert torch.cuda.max_memory_allocated() == during["allocated_bytes.all.peak"]
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.reset_accumulated_memory_stats()
    assert torch.cuda.max_memory_allocated() == torch.cuda.memory_allocated()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == 0
    assert torch.cuda.memory_reserved() >= torch.cuda.memory_allocated()
    assert "Allocated memory" in torch.cuda.memory_summary()
    assert torch.cuda.device_memory_used() > 0
    assert torch.cuda.get_allocator_backend() == "native"
    assert isinstance(torch.cuda.host_memory_stats(), dict)
    torch.cuda.set_per_process_memory_fraction(0.9)
    assert torch.cuda.get_per_process_memory_fraction() == 0.9
    with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
        assert torch.ones(2, device="cuda").tolist() == [1, 1]


def check_the_accelerator_of_this_machine() -> None:
    accelerator = torch.accelerator
    assert accelerator.is_available()
    assert accelerator.current_accelerator() == torch.device("cuda")
    assert accelerator.device_count() == torch.cuda.device_count()
    assert accelerator.current_device_index() == 0
    with accelerator.device_index(0):
        pass
    accelerator.synchronize()
    accelerator.memory.reset_peak_memory_stats()
    assert accelerator.memory_allocated() == torch.cuda.memory_allocated()
    assert accelerator.max_memory_allocated() >= accelerator.memory_allocated()
    assert accelerator.get_memory_info()[1] == torch.cuda.mem_get_info()[1]
    accelerator.empty_cache()
    try:
        accelerator.set_stream(torch.cuda.Stream())
        assert torch.cuda.current_stream().stream_id == accelerator.current_stream().stream_id != 0
    finally:
        torch.cuda.set_stream(torch.cuda.default_stream())


def check_waits_can_be_found() -> None:
    y = torch.ones(3, device="cuda")
    try:
        torch.cuda.set_sync_debug_mode("error")
        assert torch.cuda.get_sync_debug_mode() == 2
        assert "called a synchronizing CUDA operation" in raised(RuntimeError, y.sum().item)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            y.sum().item()
        assert any("called a synchronizing CUDA operation" in str(each.message) for each in caught)
        assert {each.filename for each in caught} == {__file__}
    finally:
        torch.cuda.set_sync_debug_mode(0)


def check_default_device() -> None:
    try:
        torch.set_default_device("cuda")
        assert torch.zeros(2).is_cuda
        assert nn.Linear(2, 2).weight.is_cuda
    finally:
        torch.set_default_device(None)
    with torch.device("cuda"):
        assert torch.arange(3).is_cuda
    assert not torch.zeros(2).is_cuda


def check_types_of_old() -> None:
    y = torch.cuda.FloatTensor([1, 2])
    assert y.is_cuda
    assert y.tolist() == [1, 2]
    assert torch.cuda.LongTensor(2, 3).shape == (2, 3)
    assert isinstance(y, torch.cuda.FloatTensor)
    assert not isinstance(y, torch.cuda.HalfTensor)
    assert not isinstance(y.cpu(), torch.cuda.FloatTensor)
    assert y.type() == "torch.cuda.FloatTensor"
    assert y.type("torch.cuda.HalfTensor").dtype == torch.half
    assert torch.ones(2).type(torch.cuda.DoubleTensor).type() == "torch.cuda.DoubleTensor"
    assert y.type(torch.FloatTensor).device.type == "cpu"


def check_a_default_type() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.set_default_tensor_type("torch.cuda.DoubleTensor")
            assert torch.zeros(2).type() == "torch.cuda.DoubleTensor", torch.zeros(2).type()
        finally:
            torch.set_default_tensor_type("torch.FloatTensor")
    assert torch.zeros(2).type() == "torch.FloatTensor"


def check_a_default_dtype() -> None:
    torch.zeros(2, device="cuda")
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.zeros(2, device="cuda").tolist() == [0, 0]
        assert torch.zeros(2, device="cuda").dtype == torch.float64
        third = torch.arange(3, device="cuda") / 3
        assert third.dtype == torch.float64
        assert third.tolist() == [0, 1 / 3, 2 / 3]
        assert torch.full((2,), 1.5, device="cuda").dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.zeros(2, device="cuda").dtype == torch.float32
    assert (torch.arange(3, device="cuda") / 3).tolist() == (torch.arange(3) / 3).tolist()


def check_mixed_precision() -> None:
    net = nn.Linear(4, 4).cuda()
    optimizer, scaler = torch.optim.AdamW(net.parameters()), torch.amp.GradScaler(init_scale=1024.0)
    inputs = torch.ones(2, 4, device="cuda")
    with torch.autocast("cuda"):
        outputs = net(inputs)
    assert outputs.dtype == torch.half
    scaler.scale(outputs.float().square().mean()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1024
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert net(inputs).dtype == torch.bfloat16
    net.weight.grad = torch.full_like(net.weight, torch.inf)
    scaler.scale(net(inputs).sum())
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512


def check_profilers() -> None:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.relu(torch.ones(3, device="cuda"))
    assert any("relu" in each.key for each in profile.key_averages())
    assert "relu" in profile.key_averages().table(sort_by="cuda_time_total")
    with torch.autograd.profiler.emit_nvtx(), torch.cuda.profiler.profile():
        torch.relu(torch.ones(3, device="cuda"))
    with torch.cuda.nvtx.range("of {}", 1):
        assert torch.cuda.nvtx.range_push("inner") == 1
        assert torch.cuda.nvtx.range_pop() == 1
    torch.cuda.nvtx.range_end(torch.cuda.nvtx.range_start("a"))


def check_deterministic_algorithms_reach_the_accelerator() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    try:
        torch.use_deterministic_algorithms(True)
        assert torch.empty(5, device="cuda").isnan().all()
        torch.utils.deterministic.fill_uninitialized_memory = False
        zeros = torch.zeros(5, device="cuda")
        assert "does not have a deterministic implementation" in raised(
            RuntimeError, lambda: zeros.put_(torch.zeros(1, dtype=torch.long, device="cuda"), zeros[:1]).tolist()
        )
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def check_settings() -> None:
    backends = torch.backends
    with backends.cudnn.flags(enabled=False, benchmark=True, deterministic=True):
        assert not backends.cudnn.enabled
        assert backends.cudnn.deterministic
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        assert not backends.cuda.flash_sdp_enabled()
    assert backends.cuda.flash_sdp_enabled()
    backends.cudnn.benchmark_limit = 5
    assert backends.cudnn.benchmark_limit == 5
    backends.cudnn.benchmark_limit = 10
    backends.cuda.matmul.allow_tf32 = True
    assert torch.get_float32_matmul_precision() == "high"
    backends.cuda.matmul.allow_tf32 = False
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.cudnn.conv.fp32_precision = "tf32"
    torch.cuda.synchronize()


def check_a_fork_cannot_use_what_its_parent_does() -> None:
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            counted = torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.is_initialized()
            texts = [raised(RuntimeError, call) for call in (lambda: torch.ones(2).cuda(), torch.cuda.current_device)]
            os.write(writes, repr((counted, [text.partition(".")[0] for text in texts])).encode())
        finally:
            os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    counted = True, torch.cuda.device_count(), False
    text = "Cannot re-initialize CUDA in forked subprocess"
    said = os.read(reads, 4096).decode()
    assert said == repr((counted, [text, text])), said
    assert torch.ones(2).cuda().tolist() == [1, 1]
