"""Whom workers run as where root has started the destination: a user to whom nothing on the machine belongs.

Root without capabilities still owns the machine's files, can give them to everybody by chmod, and stop its processes.
So a process of root's becomes another user's, and the folders that it writes are handed to that user before.
Not here: what else a worker gives up (`confinement`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from avec.errors import ConfigurationError

_SET_DEATH_SIGNAL, _GET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_KEEP_CAPABILITIES = 1, 2, 4, 8  # Source: linux/prctl.h
ROOT = 0
GPUS = ("nvidia*", "nvhost-gpu", "nvgpu", "dxg", "kfd")  # below /dev
SEARCH = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """A user and his groups, as the system knows them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def worker_user(name: str | None) -> WorkerUser | None:
    """Look a user up; None where this process is not root's, and can become nobody else's (or not on Linux).

    Where no name is given it is nobody; beside a GPU root, until its libraries were tried under another user.

    Raises:
        ConfigurationError: there is no such user.
    """
    if sys.platform != "linux" or os.geteuid() != ROOT:
        return None
    return _user(name)


@functools.cache  # the server asks for each connection, and a directory of users may be far away
def _user(name: str | None) -> WorkerUser:
    if name is None:
        name = "root" if any(each for gpu in GPUS for each in Path("/dev").glob(gpu)) else "nobody"
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(
            f"root's workers run as the user {name!r}, whom this machine does not know; name another with "
            "AVEC_WORKER_USER"
        ) from None
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return WorkerUser(found.pw_name, found.pw_uid, found.pw_gid, tuple(groups))


def become(user: WorkerUser, keeps_capabilities: bool = False) -> None:
    """Make this process, which has one thread, the user's for good.

    Args:
        keeps_capabilities: those that it may have stay; the caller drops them.

    Raises:
        OSError: the kernel does not let it.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_KEEP_CAPABILITIES, keeps_capabilities, 0, 0, 0)
    with _death_signal_kept(libc):
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)


def own_proc() -> None:
    """Let a process that has become another user's write what is its own in /proc, as CUDA does."""
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 1, 0, 0, 0)


def out_of_reach(user: WorkerUser, reading: Iterable[Path], passing: Path) -> Path | None:
    """What the user cannot use of files and folders that he has to read, and of one that he has to pass through.

    Raises:
        OSError: this process cannot become another user's.
    """
    wanted = [(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK) for path in reading if path.exists()]
    wanted.append((passing, os.X_OK))
    groups = os.getgroups()
    with _death_signal_kept(ctypes.CDLL(None)):
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            return next((path for path, how in wanted if not os.access(path, how, effective_ids=True)), None)
        finally:
            os.seteuid(ROOT)
            os.setegid(ROOT)
            os.setgroups(groups)


@contextlib.contextmanager
def _death_signal_kept(libc: ctypes.CDLL) -> Iterator[None]:
    """When a process changes its user, the kernel forgets that it shall end with its parent. Source: prctl(2)."""
    death_signal = ctypes.c_int()
    libc.prctl(_GET_DEATH_SIGNAL, ctypes.byref(death_signal), 0, 0, 0)
    yield
    libc.prctl(_SET_DEATH_SIGNAL, death_signal.value, 0, 0, 0)


def hand_over(folders: Iterable[Path], within: Path, uid: int, gid: int) -> None:
    """Make folders below one, and all that is in them, a user's, who may then also pass through what is above them."""
    for folder in folders:
        for above in [each for each in folder.parents if each == within or within in each.parents]:
            found = above.stat()
            if found.st_uid == os.geteuid() and found.st_mode & SEARCH != SEARCH:
                above.chmod(stat.S_IMODE(found.st_mode) | SEARCH)
        # All was handed over when the folder was, apart from what another process of root's has made in it since.
        for each in (folder, *folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # other workers of the user remove files meanwhile
                if each.lstat().st_uid != uid:
                    _give(each, uid, gid)


def _give(path: Path, uid: int, gid: int) -> None:
    """Change the owner of a file or a tree; links are not followed, whoever else may put some there meanwhile."""
    if path.is_dir() and not path.is_symlink():
        for _, folders, files, descriptor in os.fwalk(path):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(path, uid, gid, follow_symlinks=False)
