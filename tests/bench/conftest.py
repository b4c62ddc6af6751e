"""No test here leaves a thread or a descriptor behind."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nothing_left_open(nothing_left_open: None) -> None:
    """Checked after each test."""
