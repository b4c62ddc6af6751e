"""How programs get data to an accelerator and back: pinned memory, DataLoader, copies that do not block, processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

kept = torch.arange(10.0).cuda()  # used before workers are forked


class Numbers(Dataset[tuple[torch.Tensor, int]]):
    """Rows that hold their own number."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((4,), float(index)), index


def check_pinned_memory() -> None:
    made, plain = torch.empty(3, pin_memory=True), torch.ones(4)
    pinned = plain.pin_memory()
    assert [each.is_pinned() for each in (made, pinned, pinned[1:], plain)] == [True, True, True, False]
    assert pinned.pin_memory() is pinned
    assert pinned.cuda(non_blocking=True).tolist() == [1, 1, 1, 1]
    assert not pinned.cuda().is_pinned()
    assert torch.zeros_like(plain, pin_memory=True).is_pinned()
    try:
        kept.pin_memory()
    except RuntimeError as exc:
        assert "only dense CPU tensors can be pinned" in str(exc)
    else:
        raise AssertionError("pinned")


def check_copies_that_do_not_block() -> None:
    source = torch.arange(100_000.0).pin_memory()
    there = source.to("cuda", non_blocking=True)
    back = (there * 2).to("cpu", non_blocking=True)
    into = torch.empty(100_000, pin_memory=True)
    into.copy_(there, non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(back, source * 2)
    assert torch.equal(into, source)
    assert back.is_pinned()


def check_prefetching() -> None:
    stream = torch.cuda.Stream()
    total, following = 0.0, None
    for row in [torch.full((1000,), float(index)).pin_memory() for index in range(6)] + [None]:
        current, following = following, None
        if row is not None:
            with torch.cuda.stream(stream):
                following = row.cuda(non_blocking=True)
        if current is not None:
            torch.cuda.current_stream().wait_stream(stream)
            current.record_stream(torch.cuda.current_stream())
            total += current.sum().item()
    assert total == 15000


def check_staging_memory_that_is_used_again() -> None:
    staging, done = torch.empty(1000, pin_memory=True), torch.cuda.Event()
    sums = []
    for index in range(5):
        staging.fill_(index)
        there = staging.to("cuda", non_blocking=True)
        done.record()
        sums.append(there.sum())
        done.synchronize()
    assert [each.item() for each in sums] == [0, 1000, 2000, 3000, 4000]


def _load(**options: object) -> None:
    loader = DataLoader(Numbers(), 4, pin_memory=True, **options)
    for _ in range(2):
        total = 0.0
        for rows, numbers in loader:
            assert rows.is_pinned()
            total += rows.cuda(non_blocking=True).sum().item() + numbers.cuda(non_blocking=True).sum().item()
        assert total == 120 * 5
    assert kept.sum() == 45  # nothing that died in a worker died here


def check_loading_without_workers() -> None:
    _load(num_workers=0)


def check_loading_with_forked_workers() -> None:
    _load(num_workers=2)
    _load(num_workers=1, persistent_workers=True, prefetch_factor=2)


def check_loading_with_spawned_workers() -> None:
    dataset = TensorDataset(torch.arange(8.0))
    loader = DataLoader(dataset, 4, num_workers=1, multiprocessing_context="spawn", pin_memory=True)
    assert [rows.cuda().sum().item() for (rows,) in loader] == [6, 22]


def check_a_forked_child_is_refused() -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        texts = [_text(lambda: kept.sum().item()), _text(lambda: torch.ones(2, device="cuda").sum().item())]
        torch.manual_seed(1)
        os.write(write, f"{texts} {torch.rand(1).item() >= 0}".encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    text = os.read(read, 9999).decode()
    for end in (read, write):
        os.close(end)
    assert text.endswith("True")
    assert "Cannot re-initialize CUDA in forked subprocess" in text
    assert kept.sum() == 45


def _text(call: Callable[[], object]) -> str:
    try:
        return f"{call()!r}, no error"
    except RuntimeError as exc:
        return str(exc)


def _work_in_a_child(queue: torch.multiprocessing.Queue[list[float]], rows: torch.Tensor) -> None:
    queue.put((rows.cuda() * 2).tolist())


def check_a_spawned_child_works_by_itself() -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_work_in_a_child, args=(queue, torch.arange(3.0)))
    child.start()
    assert queue.get(timeout=60) == [0, 2, 4]
    child.join()
    assert child.exitcode == 0


def check_threads() -> None:
    results: dict[int, tuple[float, list[float], float]] = {}

    def work(number: int) -> None:
        y = torch.zeros(4, 4, device="cuda") + number
        for step in range(100):
            y = y + 1
            if step % 20 == 7:
                y.sum().item()
                row = torch.arange(6.0, device="cuda") + number
                assert row[row > number + 2].tolist() == [number + 3.0, number + 4.0, number + 5.0]
        z = torch.ones(3, device="cuda", requires_grad=True)
        (z * number).sum().backward()
        drawn = torch.rand(1, device="cuda", generator=torch.Generator("cuda").manual_seed(5))
        results[number] = (y[0, 0].item(), z.grad.tolist(), drawn.item())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    drawn = torch.rand(1, device="cuda", generator=torch.Generator("cuda").manual_seed(5)).item()
    assert results == {number: (100.0 + number, [float(number)] * 3, drawn) for number in range(6)}


def check_threads_that_share_a_tensor() -> None:
    shared = torch.zeros(1000, device="cuda")
    lock = threading.Lock()

    def work() -> None:
        for _ in range(50):
            with lock:
                shared.add_(torch.ones(1000, device="cuda"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert shared.sum() == 200_000
