"""What the tests of a destination's processes share."""

from __future__ import annotations

import pytest


@pytest.fixture
def tidy(nothing_left_open: None) -> None:
    """The test leaves no thread and no descriptor behind. (torch, for those that use it in-process, does.)"""
