"""Folders in which a model finds its side files under the names that it knows them by.

The names come from a host that nobody trusts: they can only name files within the folder. Files are hard links to
those of the model cache where the file system allows it, so that nothing is copied and ONNX Runtime, which refuses
side files outside the model's folder, finds no link to follow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path, PurePosixPath

from avec.errors import CacheUnavailable, InvalidArgument

PREFIX = ".onnx-"
LIFETIME_S = 24 * 3600  # of a folder whose worker was killed
NAME_NBYTES = 1024  # of a side file's name with its folders
LEVELS = 16  # folders within one another


class ModelFolder:
    """Owns one folder; removed by `close`. What an engine has mapped stays mapped."""

    def __init__(self, beside: Path) -> None:
        """Make a folder on the file system of a cached file, so that hard links can be made.

        Raises:
            CacheUnavailable: no folder can be made, there or among the temporary ones.
        """
        self.contents: dict[str, tuple[int, int]] = {}  # name → device and inode: what makes two folders equal
        try:
            self.path = _make(beside.parent.parent)  # not among the cache's own files
        except OSError as exc:
            raise CacheUnavailable(f"cannot make a folder for a model's files: {exc}") from exc

    def add(self, name: str, file: Path) -> Path:
        """Put a cached file under a name.

        Raises:
            InvalidArgument: the name leads out of the folder, or is taken.
            CacheUnavailable: the disk refuses.
        """
        target = self.path.joinpath(*_checked(name).parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)
        except FileExistsError as exc:
            raise InvalidArgument(f"two side files of a model are called {name!r}") from exc
        except OSError as exc:
            raise CacheUnavailable(f"cannot provide the side file {name!r}: {exc}") from exc
        status = target.stat()
        self.contents[name] = (status.st_dev, status.st_ino)
        return target

    def close(self) -> None:
        """Remove the folder; twice is harmless."""
        shutil.rmtree(self.path, ignore_errors=True)


def _make(folder: Path) -> Path:
    try:
        for left in folder.glob(f"{PREFIX}*"):
            if time.time() - left.stat().st_mtime > LIFETIME_S:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    except OSError:  # a confined worker may only read the cache: then files are copied
        return Path(tempfile.mkdtemp(prefix="avec-onnx-"))


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        if target.exists():
            raise FileExistsError(target) from None
        shutil.copyfile(file, target)


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or not path.parts
    if outside or "\0" in name or "\\" in name or len(name.encode("utf-8", "replace")) > NAME_NBYTES:
        raise InvalidArgument(f"{name[:80]!r} is no name of a side file within a model's folder")
    if len(path.parts) > LEVELS:
        raise InvalidArgument(f"{name[:80]!r} is more than {LEVELS} folders deep")
    return path
