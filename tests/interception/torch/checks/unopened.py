"""What holds before there is a session; to be run first."""

from __future__ import annotations

import torch
import torch.multiprocessing

from avec.interception import active


def check_seeds_open_no_session() -> None:
    torch.manual_seed(5)
    torch.cuda.manual_seed_all(6)
    torch.cuda.manual_seed(7)
    assert torch.cuda.initial_seed() == 7
    assert torch.Generator().device.type == "cpu"
    assert torch.ones(2).sum() == 2
    assert active.opened() is None


def check_a_child_that_was_forked_before_opens_a_session_of_its_own() -> None:
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(torch.rand(2, device="cuda").tolist()))
    child.start()
    assert queue.get(timeout=60) == torch.rand(2, generator=torch.Generator().manual_seed(7)).tolist()
    child.join()
    assert child.exitcode == 0
    assert active.opened() is None


def check_seeds_are_kept_for_the_session() -> None:
    expected = torch.rand(2, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.rand(2, device="cuda").cpu(), expected)
    assert active.opened() is not None
