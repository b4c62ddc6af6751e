"""The folder of a model cache: what lies where, who may change it, and what goes when room is needed.

    lock                              held alone while anything is created, published or removed
    models/<digest>                   a whole model; read under a shared lock, which keeps it from being removed
    used/<digest>                     empty; its time says when the model was last asked for
    derived/<digest>                  what was made of a model for processes to map; read under a shared lock too
    partials/<digest>-<nbytes>        an upload on its way, of full size; uploaders share a lock on it
    chunks/<digest>-<nbytes>          one byte for each of its chunks: 1 when the chunk is written

A chunk's byte is written after the chunk, and a model appears by one rename, so a process may die anywhere. What is
derived appears so too: until then it lies beside, under a name that is no model's. Nothing is synced to the disk: what
a power cut damages is found when the model is read, because reading verifies, or when what is derived is compared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from avec.errors import AvecError, CacheUnavailable, ConfigurationError
from avec.modelcache.digests import Manifest, check_digest
from avec.modelcache.locks import create_shared, exclusive, if_unused, is_at, open_shared, require_locks

PARTIAL_LIFETIME_S = 24 * 3600  # an upload that nobody resumed for a day is given up
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, what was derived from it, or a partial upload: its bytes, and the file whose time tells its last use."""

    data: Path
    mark: Path

    def remove(self) -> None:
        """Delete both files; the lock of the folder must be held."""
        self.data.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much a model cache holds; what was derived counts with the models, a partial upload with its full size."""

    models: int
    models_nbytes: int
    partials: int
    partials_nbytes: int
    limit_nbytes: int


@dataclass(frozen=True, slots=True)
class _Held:
    entry: Entry
    nbytes: int
    used_ns: int


class CacheFolder:
    """One model cache on disk, shared by any number of processes. It keeps nothing open."""

    def __init__(self, path: Path, limit_nbytes: int, owner: int | None = None) -> None:
        require_locks()
        self.path = path
        self._owners = {os.geteuid(), owner}
        self.limit_nbytes = limit_nbytes
        self._lock = path / "lock"
        self._models, self._used = path / "models", path / "used"
        self._partials, self._chunks = path / "partials", path / "chunks"
        self._derived = path / "derived"
        with self.storing("opening the model cache"):
            self._prepare()

    def model(self, digest: str) -> Entry:
        """Say where a whole model lies, or would."""
        check_digest(digest)
        return Entry(self._models / digest, self._used / digest)

    def partial(self, manifest: Manifest) -> Entry:
        """Say where an upload lies, or would. The size is in the name since a digest does not vouch for it."""
        check_digest(manifest.digest)
        name = f"{manifest.digest}-{manifest.nbytes}"
        return Entry(self._partials / name, self._chunks / name)

    def derived(self, digest: str) -> Entry:
        """Say where what was made of a model lies, or would; its own time says when it was last used."""
        check_digest(digest)
        return Entry(self._derived / digest, self._derived / digest)

    def check_fits(self, manifest: Manifest) -> None:
        """Raise CacheUnavailable if the model is larger than the whole cache may be."""
        if manifest.nbytes > self.limit_nbytes:
            raise CacheUnavailable(
                f"model {manifest.digest} has {manifest.nbytes:,} bytes, and the model cache in {self.path} is bounded "
                f"to {self.limit_nbytes:,}; raise the destination's --cache-limit"
            )

    def open_upload(self, manifest: Manifest) -> tuple[int, int | None]:
        """Open a model for uploading, with a shared lock: descriptors of its bytes and of its chunk marks.

        There are no chunk marks if the model is already whole.
        """
        self.check_fits(manifest)
        partial = self.partial(manifest)
        self._prepare()
        with exclusive(self._lock):
            whole = open_shared(self.model(manifest.digest).data)
            if whole is not None:
                return whole, None
            self._sweep()  # also of old marks for this model, which say nothing about new bytes
            data = open_shared(partial.data, os.O_RDWR)
            if data is None:
                self._make_room(f"model {manifest.digest}", manifest.nbytes)
                data = _create(partial, manifest.nbytes)
            try:
                marks = os.open(partial.mark, os.O_RDWR | os.O_CREAT, 0o600)
                os.ftruncate(marks, manifest.chunk_count)
            except OSError:
                os.close(data)
                raise
        return data, marks

    def publish(self, manifest: Manifest, data: int) -> None:
        """Make a complete upload the model, at once for every process; nothing to do when the model is there.

        Args:
            manifest: what was uploaded.
            data: the open descriptor of its bytes.

        Raises:
            CacheUnavailable: neither the model nor this upload is there any longer.
        """
        model, partial = self.model(manifest.digest), self.partial(manifest)
        with exclusive(self._lock):
            if not model.data.exists():  # else another host uploaded the same model, and was first
                if not is_at(partial.data, data):
                    raise CacheUnavailable(
                        f"the upload of model {manifest.digest} was removed from {self.path}; upload it again"
                    )
                os.rename(partial.data, model.data)
                touch(model.mark)
            partial.remove()

    def create_derived(self, digest: str, nbytes: int) -> tuple[Path, int]:
        """Begin to make something of a model: a new file for it, and its descriptor, with a shared lock."""
        name = f"{self.derived(digest).data.name}.{secrets.token_hex(8)}"
        entry = Entry(self._derived / name, self._derived / name)
        self._prepare()
        with exclusive(self._lock):
            self._sweep()
            self._make_room(f"what is made of model {digest}", nbytes)
            return entry.data, _create(entry, nbytes)

    def publish_derived(self, digest: str, made: Path) -> None:
        """Have a file of `create_derived` be what was made of a model, unless another process was first."""
        derived = self.derived(digest).data
        with exclusive(self._lock):
            if derived.exists():
                made.unlink()
            else:
                os.rename(made, derived)

    def discard_derived(self, digest: str, data: int) -> None:
        """Remove what was made of a model, unless it was made anew since `data` was opened."""
        derived = self.derived(digest)
        with exclusive(self._lock):
            if is_at(derived.data, data):
                derived.remove()

    def discard_model(self, digest: str, data: int) -> None:
        """Remove a damaged model, unless a new one has taken its place since `data` was opened."""
        model = self.model(digest)
        with exclusive(self._lock):
            if is_at(model.data, data):
                model.remove()

    def discard_partial(self, manifest: Manifest) -> None:
        """Remove an upload, unless another process is busy with it."""
        partial = self.partial(manifest)
        with exclusive(self._lock), if_unused(partial.data) as unused:
            if unused:
                partial.remove()

    def usage(self) -> Usage:
        """Count what is held."""
        self._prepare()
        models = self._held(self._models, self._used)
        derived = self._held(self._derived, self._derived)
        partials = self._held(self._partials, self._chunks)
        return Usage(
            len(models),
            sum(held.nbytes for held in (*models, *derived)),
            len(partials),
            sum(held.nbytes for held in partials),
            self.limit_nbytes,
        )

    @contextmanager
    def storing(self, attempt: str) -> Iterator[None]:
        """Turn the operating system's errors into CacheUnavailable, which says what was attempted and what to do."""
        try:
            yield
        except AvecError:
            raise
        except OSError as exc:
            advice = "see the folder's permissions and the disk"
            if exc.errno in _FULL:
                advice = f"{_free_nbytes(self.path):,} bytes are free there; free more or choose another --cache-dir"
            raise CacheUnavailable(f"{attempt} in {self.path} failed: {exc.strerror}; {advice}") from exc

    def _prepare(self) -> None:
        # At each upload, for somebody may have deleted the whole folder while the destination runs.
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(self.path, self._owners)
        for folder in (self._models, self._used, self._derived, self._partials, self._chunks):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _make_room(self, what: str, nbytes: int) -> None:
        folders = ((self._models, self._used), (self._derived, self._derived), (self._partials, self._chunks))
        held = [one for data, marks in folders for one in self._held(data, marks)]
        free = _free_nbytes(self.path)
        over = sum(one.nbytes for one in held) + nbytes - self.limit_nbytes
        shortage = max(over, nbytes - free)
        if shortage <= 0:
            return
        with ExitStack() as locks:
            chosen: list[_Held] = []
            for one in sorted(held, key=lambda one: one.used_ns):
                if shortage > 0 and locks.enter_context(if_unused(one.entry.data)):
                    chosen.append(one)
                    shortage -= one.nbytes
            if shortage > 0:  # nothing is removed in vain
                raise CacheUnavailable(
                    f"{what} needs {nbytes:,} bytes in {self.path}, and {shortage:,} of them are lacking even "
                    f"without the models that nobody uses (the bound is {self.limit_nbytes:,}, "
                    f"{free:,} are free on the disk); raise --cache-limit, free disk or wait for a session to end"
                )
            for one in chosen:
                one.entry.remove()

    def _sweep(self) -> None:
        """Remove uploads that were given up, and what a killed process left beside nothing."""
        oldest_ns = time.time_ns() - PARTIAL_LIFETIME_S * 1_000_000_000
        for held in self._held(self._partials, self._chunks):
            if held.used_ns < oldest_ns:
                with if_unused(held.entry.data) as unused:
                    if unused:
                        held.entry.remove()
        for name in set(os.listdir(self._derived)) - set(os.listdir(self._models)):
            with if_unused(self._derived / name) as unused:  # else it is being made, or used
                if unused:
                    (self._derived / name).unlink()
        for data, marks in ((self._models, self._used), (self._partials, self._chunks)):
            for name in set(os.listdir(marks)) - set(os.listdir(data)):
                (marks / name).unlink(missing_ok=True)

    def _held(self, data: Path, marks: Path) -> list[_Held]:
        found: list[_Held] = []
        for name in os.listdir(data):
            entry = Entry(data / name, marks / name)
            with contextlib.suppress(FileNotFoundError):  # removed by another process meanwhile
                status = entry.data.stat()
                found.append(_Held(entry, status.st_size, _used_ns(entry, status)))
        return found


def touch(mark: Path) -> None:
    """Note that an entry is used now. The clock of `utime` itself is too coarse to order uses."""
    now = time.time_ns()
    os.close(os.open(mark, os.O_WRONLY | os.O_CREAT, 0o600))
    os.utime(mark, ns=(now, now))


def _used_ns(entry: Entry, status: os.stat_result) -> int:
    try:
        return entry.mark.stat().st_mtime_ns
    except FileNotFoundError:  # a process died between publishing and marking
        return status.st_mtime_ns


def _free_nbytes(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def _create(partial: Entry, nbytes: int) -> int:
    data = create_shared(partial.data)
    try:
        os.ftruncate(data, nbytes)
        _preallocate(data, nbytes)
    except OSError:
        partial.remove()
        os.close(data)
        raise
    return data


def _preallocate(data: int, nbytes: int) -> None:
    if sys.platform != "linux" or nbytes == 0:
        return
    try:
        os.posix_fallocate(data, 0, nbytes)
    except OSError as exc:
        if exc.errno not in _NO_PREALLOCATION:
            raise


def _require_private(path: Path, owners: Collection[int | None]) -> None:
    found = path.stat()
    if found.st_uid not in owners or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"others could replace models in the cache folder {path} (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}); own it and `chmod 700` it, or choose another --cache-dir"
        )
