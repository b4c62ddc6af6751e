"""Files that hold secrets: written whole, readable by their owner alone, and refused when others could read them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from avec.errors import ConfigurationError

SIZE_LIMIT = 4 << 20  # bytes: ten thousand users


def read(path: Path) -> bytes | None:
    """The file's content; None when there is no such file.

    Raises:
        ConfigurationError: others could read or replace it, it is a link, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        why = "it is a symbolic link; put the file itself there" if exc.errno == errno.ELOOP else exc.strerror
        raise ConfigurationError(f"cannot read {path}: {why}") from exc
    with open(descriptor, "rb") as file:
        _require_private(path, os.fstat(descriptor))
        content = file.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise ConfigurationError(f"cannot use {path}: it has more than {SIZE_LIMIT:,} bytes")
    return content


def write(path: Path, content: bytes) -> None:
    """Put a file in the place of what was there, at once and readable by its owner alone.

    Raises:
        ConfigurationError: it cannot be written, or others may write its folder.
    """
    try:
        _make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Let only one process at a time read a file and write it anew.

    Raises:
        ConfigurationError: its folder cannot be used.
    """
    try:
        _make_folder(path.parent)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"cannot lock {path}: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"others could replace the secrets in {folder} (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}); own it and `chmod 700` it, or choose another with AVEC_SECRETS_DIR"
        )


def _require_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"cannot use {path}: it is no file")
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"others can read the secrets in {path} (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}), "
            f"so they are not used; own it and `chmod 600 {path}`, and if others may have read it, make new ones"
        )
