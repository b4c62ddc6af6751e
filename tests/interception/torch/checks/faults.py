"""Checks: what fails raises what torch raises, tells where, and the program goes on."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import torch
from torch import nn

CYCLES_PER_S = 10**9  # of a destination without GPU
LONG_S = 1.5
SOON_S = 0.1
INTERRUPTS = 300


def raised(function: Callable[[], object], kind: type[BaseException], *texts: str) -> BaseException:
    """Call a function that has to raise just this kind, with these texts in its message or notes."""
    try:
        value = function()
    except kind as exc:
        told = "\n".join((str(exc), *getattr(exc, "__notes__", ())))
        assert all(text in told for text in texts), f"{texts} in {told}"
        return exc
    raise AssertionError(f"no {kind.__name__}, but {value!r}")


def goes_on() -> None:
    """The session computes."""
    assert torch.arange(4.0, device="cuda").mul(2).tolist() == [0.0, 2.0, 4.0, 6.0]


def check_what_can_never_fit_is_refused_at_once() -> None:
    for count in (1 << 38, 1 << 45):
        exc = raised(lambda count=count: torch.empty(count, device="cuda"), torch.cuda.OutOfMemoryError)
        assert str(exc).startswith("CUDA out of memory. Tried to allocate "), exc
    raised(lambda: torch.ones(4, device="cuda").repeat(1 << 40), torch.OutOfMemoryError, "CUDA out of memory")
    goes_on()


def check_a_shape_error_is_raised_at_once() -> None:
    left, right = torch.zeros(2, 3, device="cuda"), torch.zeros(2, 3, device="cuda")
    raised(lambda: left @ right, RuntimeError, "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)")
    raised(lambda: left + torch.zeros(2, 3), RuntimeError, "Expected all tensors to be on the same device")
    raised(lambda: nn.Linear(3, 1)(left), RuntimeError, "Expected all tensors to be on the same device")
    goes_on()


class WrongBackward(torch.autograd.Function):
    """Its backward multiplies what cannot be multiplied."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return grad @ torch.ones(7, 3, device="cuda")


def check_a_shape_error_in_the_middle_of_backward() -> None:
    weight = torch.ones(4, 5, device="cuda", requires_grad=True)
    loss = (WrongBackward.apply(weight * 3) * 2).sum()
    raised(loss.backward, RuntimeError, "mat1 and mat2 shapes cannot be multiplied (4x5 and 7x3)")
    assert weight.grad is None
    (weight * 3).sum().backward()
    assert weight.grad.sum().item() == 60


def check_an_index_out_of_range_names_the_operator_and_the_line() -> None:
    weight = torch.ones(10, 4, device="cuda", requires_grad=True)
    indices = torch.tensor([1, 11], device="cuda")
    line = sys._getframe().f_lineno + 1
    result = nn.functional.embedding(indices, weight)
    total = result.sum()
    total.backward()
    raised(total.item, RuntimeError, "aten::index_select", "out of range", f"{__file__}:{line}.")
    goes_on()
    raised(result.cpu, RuntimeError, "the operator that makes it failed before")
    goes_on()


def check_an_impossible_class_in_a_loss() -> None:
    line = sys._getframe().f_lineno + 1
    loss = nn.functional.cross_entropy(torch.zeros(2, 3, device="cuda"), torch.tensor([0, 7], device="cuda"))
    raised(loss.item, RuntimeError, "aten::nll_loss_forward", f"{__file__}:{line}.")
    goes_on()


def check_what_is_written_after_a_failure_is_not_written() -> None:
    weight = torch.zeros(3, device="cuda")
    weight.index_copy_(0, torch.tensor([5], device="cuda"), torch.ones(1, device="cuda"))
    weight += 1
    raised(torch.cuda.synchronize, RuntimeError, "aten::index_copy_")
    assert weight.tolist() == [0, 0, 0]
    weight += 1
    assert weight.tolist() == [1, 1, 1]


def check_a_failure_is_raised_once() -> None:
    torch.zeros(3, device="cuda")[torch.tensor([5], device="cuda")]
    raised(torch.cuda.synchronize, RuntimeError, "aten::index")
    torch.cuda.synchronize()


def check_a_singular_matrix_is_torchs_own_error() -> None:
    raised(lambda: torch.linalg.inv(torch.zeros(2, 2, device="cuda")), torch.linalg.LinAlgError, "singular")
    goes_on()


def check_an_operator_that_the_accelerator_does_not_have() -> None:
    matrix = torch.eye(64, device="cuda", dtype=torch.float16)

    def compress() -> None:
        torch._cslt_compress(matrix)
        torch.cuda.synchronize()

    raised(compress, NotImplementedError, "aten::_cslt_compress", "the destination's accelerator cannot do it")
    goes_on()


def check_an_operator_of_the_programs_own_without_a_kernel_for_cuda() -> None:
    library = torch.library.Library("faults", "DEF")
    library.define("own(Tensor x) -> Tensor")
    library.impl("own", lambda x: x + 1, "CPU")
    x = torch.ones(2, device="cuda")
    raised(lambda: torch.ops.faults.own(x), NotImplementedError, "faults::own", "CUDA")
    goes_on()


def check_a_dtype_that_cannot_live_at_a_destination() -> None:
    packed = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    raised(packed.cuda, NotImplementedError, "float4_e2m1fn_x2", "convert to one of")
    goes_on()


def check_an_accelerator_that_is_not_there() -> None:
    raised(lambda: torch.ones(2, device="cuda:7"), RuntimeError, "invalid device ordinal")
    goes_on()


def check_threads_that_issue_at_once_get_their_own_values() -> None:
    totals: dict[int, list[float]] = {each: [] for each in range(4)}

    def work(number: int) -> None:
        x = torch.full((10,), float(number), device="cuda", requires_grad=True)
        y = x
        for step in range(120):
            y = y * 1.0 + 1
            if step % 40 == 0:
                totals[number].append(y.sum().item())
        y.sum().backward()
        totals[number].append(x.grad.sum().item())

    threads = [threading.Thread(target=work, args=(number,)) for number in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == {number: [10.0 * (number + step) for step in (1, 41, 81)] + [10.0] for number in totals}


def check_a_failure_in_one_thread_leaves_the_others_usable() -> None:
    torch.zeros(3, device="cuda")[torch.tensor([5], device="cuda")]
    errors: list[BaseException] = []

    def wait() -> None:
        errors.append(raised(torch.cuda.synchronize, RuntimeError, "aten::index"))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert len(errors) == 1
    goes_on()


def interrupted(function: Callable[[], object], after_s: float) -> float:
    """Press Ctrl-C while a function runs; how long it took to end."""
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    began_s = time.monotonic()
    timer.start()
    raised(function, KeyboardInterrupt)
    timer.join()
    return time.monotonic() - began_s


def check_interrupts_in_a_loop_of_waits() -> None:
    x = torch.zeros(1, device="cuda")
    read = x.item()

    def count() -> None:
        nonlocal read
        while True:
            x.add_(1)
            read = x.item()

    for trial in range(20):
        interrupted(count, SOON_S / (1 + trial))
        # Interrupted before the addition, after it, or within the wait.
        assert x.item() in (read, read + 1)
        read = x.item()


class Interrupt(Exception):
    """Raised by a signal, where KeyboardInterrupt would be."""


def check_interrupts_at_any_place_leave_the_stream_whole() -> None:
    draw = random.Random(1)
    armed = False

    def interrupt(number: int, frame: object) -> None:
        if armed:
            raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    a = torch.zeros(4, device="cuda")
    for _ in range(INTERRUPTS):
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0003, 0.003))
            while True:
                a.mul_(0.25).add_(1.5)
                a.mul(0.75).new_full((3,), 1.25)
                torch.tensor([3.5, 1.0]).cuda()
        except Interrupt:
            armed = False
        # Each takes the very numbers, bytes and addresses that belong to it.
        first, second, third = draw.random(), draw.random(), draw.random()
        result = torch.full((2,), first, device="cuda").mul(second) + torch.tensor([third, 0.0]).cuda()
        expected = torch.full((2,), first).mul(second) + torch.tensor([third, 0.0])
        assert result.tolist() == expected.tolist()
    signal.signal(signal.SIGALRM, before)


def check_an_interrupt_in_a_long_wait() -> None:
    x = torch.ones(3, device="cuda")
    torch.cuda._sleep(int(LONG_S * CYCLES_PER_S))
    assert interrupted(lambda: x.sum().item(), SOON_S) < LONG_S
    assert x.sum().item() == 3


def check_a_forked_child_is_told_what_torch_tells() -> None:
    x = torch.ones(3, device="cuda")
    assert x.sum().item() == 3
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        text = "nothing"
        try:
            (x + 1).sum().item()
        except RuntimeError as exc:
            text = str(exc)
        os.write(writing, text.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 4096).decode().startswith("Cannot re-initialize CUDA in forked subprocess.")
    os.close(reading)
    os.close(writing)
    assert (x + 1).sum().item() == 6
