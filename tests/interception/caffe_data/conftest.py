"""What the tests of data sources share: files to read, layers from text, and a check that nothing stays open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from avec.formats.caffe.message import Message, message_class
from goldens.data_goldens import FILES


@pytest.fixture(autouse=True)
def _closed(nothing_left_open: None) -> None:
    """Every test closes what it opens."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the goldens' data files, which is the working directory."""
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def layer() -> Callable[[str], Message]:
    """Read a layer's prototxt."""

    def read(prototxt: str) -> Message:
        found: Message = message_class("NetParameter").from_text(prototxt, "case").layer[0]
        return found

    return read
