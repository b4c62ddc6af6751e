"""A real destination for the tests that need an answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launching import serving


@pytest.fixture(scope="session")
def destination() -> Iterator[str]:
    """The URL of a destination that serves while the tests run."""
    with serving() as url:
        yield url
