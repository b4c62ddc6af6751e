"""Locks on open files, which the kernel drops when a process dies, however it dies.

A lock belongs to the open file: two openings in one process exclude each other, and a forked child shares its
parent's. Linux and macOS have them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avec.errors import ConfigurationError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where only the host's half of the model cache runs
    _available = False
else:
    _available = True

# Never follow a link: every name in the cache is a file of its own. Windows lacks the flag, and all that uses it.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def require_locks() -> None:
    """Raise ConfigurationError where file locks are missing."""
    if not _available:
        raise ConfigurationError(
            f"a model cache needs flock, which {sys.platform} lacks; run `avec serve` on Linux or macOS"
        )


def open_shared(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """Open a file and share a lock on it, so that nobody removes it; None if there is no such file.

    The caller closes the descriptor, and so gives the lock back.
    """
    while True:
        try:
            descriptor = os.open(path, flags | _NO_LINK)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # removed between opening and locking


def create_shared(path: Path) -> int:
    """Create a file for reading and writing, with a shared lock on it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def is_at(path: Path, descriptor: int) -> bool:
    """Tell whether the open file is still the one at the path."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` alone, waiting for those who hold it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # A child forked meanwhile by another thread shares the lock, and closing alone would leave it held.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def if_unused(path: Path) -> Iterator[bool]:
    """Hold a file alone unless somebody shares it; gives whether it is held."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held = False
    else:
        held = True
    try:
        yield held
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
