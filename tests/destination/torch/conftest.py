"""What the tests of the torch executor share: a new stream each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from destination.torch.stream import Stream, open_model


@pytest.fixture
def stream() -> Iterator[Stream]:
    """A stream on one CPU."""
    model, _ = open_model()
    yield Stream(model)
    model.close()
