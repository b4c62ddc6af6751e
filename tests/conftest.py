"""What all tests share: one destination, started as a user starts it, and settings of a host."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avec.config import Settings
from avec.host.session import Session
from destinations import Destination, await_true, host_settings, running


@pytest.fixture(scope="session")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination for the whole run; the run fails if it dies or leaves a process behind."""
    with running(tmp_path_factory.mktemp("destination")) as destination:
        yield destination
        assert destination.process.poll() is None, f"the destination died; its log:\n{destination.log_text()}"
        await_true(lambda: not destination.workers(), "no worker outlives its host")
        assert destination.stop() == 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A host's settings, with a folder of its own."""
    return host_settings(tmp_path / "host")


@pytest.fixture
def open_session(destination: Destination, settings: Settings) -> Iterator[Callable[..., Session]]:
    """Open sessions that are closed after the test: `open_session(url=…, settings=…)`."""
    opened: list[Session] = []

    def open_one(url: str = destination.url, settings: Settings = settings) -> Session:
        opened.append(Session(url, settings, "test"))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """No test leaves a thread or a descriptor behind. Folders ask for it in their conftest.py."""
    threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
    yield
    assert [thread.name for thread in threading.enumerate()][threads:] == []
    assert len(os.listdir("/dev/fd")) == descriptors
