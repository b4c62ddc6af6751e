"""What holds under AVEC alone: what is refused and how, how often the host waits, numbers equal to the host's own."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable

import numpy as np
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from avec.interception import active
from avec.interception import torch as front_end
from avec.interception.torch import known_templates

x = torch.arange(4.0).cuda()


def text_of(kind: type[Exception], call: Callable[[], object]) -> str:
    """What the exception says that a call has to raise."""
    try:
        result = call()
    except kind as exc:
        return str(exc)
    raise AssertionError(f"{result!r}, not {kind.__name__}")


def waits(call: Callable[[], object]) -> int:
    """How many calls to the destination something takes."""
    session = active.opened()
    assert session is not None
    torch.cuda.synchronize()
    before = session.issued
    call()
    return session.issued - before


def check_memory_is_not_given_to_others() -> None:
    assert not hasattr(x, "__cuda_array_interface__")
    for kind, call in (
        (AttributeError, lambda: x.__cuda_array_interface__),
        (BufferError, lambda: np.from_dlpack(x)),
        (BufferError, lambda: torch.utils.dlpack.to_dlpack(x)),
        (NotImplementedError, lambda: torch.multiprocessing.SimpleQueue().put(x)),
    ):
        text = text_of(kind, call)
        assert "the memory of a CUDA tensor is at AVEC's destination" in text
        assert "tensor.cpu()" in text
    assert np.from_dlpack(x, device="cpu").tolist() == x.tolist()
    assert torch.from_dlpack(x, device="cpu").device.type == "cpu"


def check_addresses_tell_storages_apart() -> None:
    assert x.data_ptr() != torch.arange(4.0).cuda().data_ptr()
    assert x[1:].data_ptr() - x.data_ptr() == 4
    assert x.data_ptr() % 256 == 0


def check_printing_waits_once() -> None:
    for y in (x, torch.zeros(50, 60, 70, device="cuda"), torch.zeros(3000, dtype=torch.complex64, device="cuda")):
        assert waits(lambda y=y: repr(y)) == 1, y.shape


def check_values_wait_once() -> None:
    storage = torch.UntypedStorage(50, device="cuda").fill_(1)
    for call in (x.tolist, storage.tolist, lambda: list(storage), lambda: repr(storage), x.sum().item):
        assert waits(call) == 1


def check_seeding_waits_for_nothing() -> None:
    ours = torch.Generator("cuda")
    torch.cuda.synchronize()

    def seed() -> None:
        torch.manual_seed(3)
        ours.manual_seed(4)
        assert ours.initial_seed() == 4
        assert torch.cuda.initial_seed() == 3

    assert waits(seed) == 0


def check_checkpoints_wait_for_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).cuda()
    for reentrant in (False, True):
        checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()

        def step(reentrant: bool = reentrant) -> None:
            checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()

        assert waits(step) <= 1  # a batch may have become full, but nobody reads a value


def check_random_numbers_are_those_of_the_destination() -> None:
    """A destination without GPU draws as this machine's CPU does."""
    ones = torch.ones(50)
    for draw in (
        lambda device, g: torch.randn(7, device=device, generator=g),
        lambda device, g: torch.rand(7, 2, device=device, generator=g, dtype=torch.float64),
        lambda device, g: torch.randperm(10, device=device, generator=g),
        lambda device, g: torch.randint(0, 90, (4,), device=device, generator=g),
        lambda device, g: torch.empty(4, device=device).normal_(1, 2, generator=g),
        lambda device, g: torch.empty(4, device=device).exponential_(generator=g),
        lambda device, g: torch.multinomial(ones.to(device), 3, generator=g),
        lambda device, g: torch.bernoulli(ones.to(device) / 2, generator=g),
    ):
        ours, hosts = torch.Generator("cuda").manual_seed(9), torch.Generator().manual_seed(9)
        for _ in range(2):
            assert torch.equal(draw("cuda", ours).cpu(), draw("cpu", hosts))
        torch.manual_seed(-4)
        on_accelerator = draw("cuda", None).cpu()
        torch.manual_seed(-4)
        assert torch.equal(on_accelerator, draw("cpu", None))
    torch.manual_seed(1)
    dropped = F.dropout(ones.cuda()).cpu()
    torch.manual_seed(1)
    assert torch.equal(dropped, F.dropout(ones))


def check_what_cannot_live_there_is_refused() -> None:
    text = text_of(NotImplementedError, lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8))
    assert "cpu" in text


def check_copies_that_do_not_block_wait_for_nothing() -> None:
    large = torch.arange(100_000.0).cuda()
    targets = [torch.zeros(100_000).pin_memory() for _ in range(5)]
    torch.cuda.synchronize()
    began = [each.clone() for each in targets]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index, each in enumerate(targets):
            each.copy_(large * index, non_blocking=True)
        assert text_of(RuntimeError, large.cpu) == "called a synchronizing CUDA operation"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert began[0].sum() == 0
    for index, each in enumerate(targets):
        assert torch.equal(each, torch.arange(100_000.0) * index)
    many = [(x + index).to("cpu", non_blocking=True) for index in range(200)]
    assert x.sum().item() == 6  # what is read later is waited for, too
    assert [each[0].item() for each in many] == list(range(200))


def check_files_are_offered_before_they_are_sent() -> None:
    from safetensors.torch import load_file, save_file

    session = active.opened()
    assert session is not None
    with tempfile.TemporaryDirectory() as folder:
        torch.seed()  # numbers that the destination has not seen in another run
        torch.save({"a": torch.rand(200_000)}, f"{folder}/a.pt")
        save_file({"a": torch.rand(200_000)}, f"{folder}/a.safetensors")
        save_file({"a": torch.rand(200_000)}, f"{folder}/b.safetensors")
        for load in (
            lambda: torch.load(f"{folder}/a.pt", map_location="cuda"),
            lambda: load_file(f"{folder}/a.safetensors", device="cuda"),
            lambda: {"a": load_file(f"{folder}/b.safetensors")["a"].cuda()},
        ):
            sent = []
            for _ in range(2):
                load()["a"].sum().item()
                sent.append(session.recorder.transfers[-1].uploaded_nbytes)
            assert sent == [800_000, 0]


def check_a_graph_outlives_the_numbers_of_its_templates() -> None:
    inputs, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = (inputs * 2 + 1).relu()
    limit, known_templates.LIMIT = known_templates.LIMIT, 10
    try:
        shaped = [torch.ones(size, device="cuda") * size for size in range(1, 20)]
        inputs.fill_(4)
        graph.replay()
        assert outputs.tolist() == [9] * 3
    finally:
        known_templates.LIMIT = limit
    graph.replay()
    assert outputs.tolist() == [9] * 3
    assert shaped[4].tolist() == [5] * 5


def check_saving_reads_ahead() -> None:
    recording = front_end._activations[0].recording
    tensors = {index: torch.full((50 + index % 3,), float(index), device="cuda") for index in range(80)}
    tensors |= {"view": tensors[1][2:], "none": torch.empty(0, device="cuda"), "host": torch.ones(3)}
    file, waited, read = io.BytesIO(), [], recording.read
    recording.read = lambda *args: (waited.append(args), read(*args))
    try:
        torch.save(tensors, file)
    finally:
        del recording.read
    file.seek(0)
    for name, tensor in torch.load(file, map_location="cpu").items():
        assert torch.equal(tensor, tensors[name].cpu()), name
    assert waited == []
