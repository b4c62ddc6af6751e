"""What the tests of a destination's processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def tidy(nothing_left_open: None) -> None:
    """The test leaves no thread and no descriptor behind. (torch, for those that use it in-process, does.)"""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small nets gain nothing from more, and where cores are busy each operator waits for the slowest thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
