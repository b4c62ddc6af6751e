"""The host's memory of digests, so that a warm start hashes nothing.

One small file for each model file, replaced atomically: processes may share the folder without a lock. Losing the
memo costs time and nothing else, so it never raises. Not here: the models' bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path

import msgspec

from avec.errors import InvalidArgument
from avec.modelcache.digests import Identity, Manifest, StrPath, identity_of, manifest_of_file

ENTRY_LIMIT = 256  # files of ~1 kB for each 200 MB of model
# Two writes within one tick of a file system's clock look alike (FAT's tick is 2 s), so younger files are not trusted.
SETTLED_NS = 2_000_000_000

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True):
    identity: Identity
    manifest: Manifest


class DigestMemo:
    """Remembers the manifests of files by path, size, times, inode and device. Safe between threads and processes."""

    def __init__(self, directory: Path, limit: int = ENTRY_LIMIT) -> None:
        self._directory = directory
        self._limit = limit
        self._decoder = msgspec.json.Decoder(_Entry)

    def manifest_of(self, path: StrPath) -> Manifest:
        """Give a file's manifest, from memory if it was not written since; else hash it (`manifest_of_file`).

        Raises:
            OSError: the file cannot be read.
            InvalidModel: the file changed meanwhile.
        """
        asked_ns = time.time_ns()
        identity = identity_of(os.stat(path))
        name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        entry = self._read(self._directory / f"{name}.json")
        if entry is not None and entry.identity == identity:
            return entry.manifest
        manifest = manifest_of_file(path)
        written_ns, changed_ns = identity[3:]
        if asked_ns - max(written_ns, changed_ns) >= SETTLED_NS:
            self._write(name, _Entry(identity, manifest))
        return manifest

    def _read(self, path: Path) -> _Entry | None:
        try:
            entry = self._decoder.decode(path.read_bytes())
            entry.manifest.check()
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, InvalidArgument) as exc:
            _log.debug("digest memo %s is not usable: %s", path, exc)
            return None
        return entry

    def _write(self, name: str, entry: _Entry) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._directory)
            try:
                with open(descriptor, "wb") as file:
                    file.write(msgspec.json.encode(entry))
                os.replace(temporary, self._directory / f"{name}.json")
            except OSError:
                os.unlink(temporary)
                raise
            self._forget_oldest()
        except OSError as exc:
            _log.debug("digest memo in %s cannot be written: %s", self._directory, exc)

    def _forget_oldest(self) -> None:
        with os.scandir(self._directory) as files:
            paths = [file.path for file in files]
        if len(paths) <= self._limit:
            return
        ages: list[tuple[int, str]] = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # another process forgot it first
                ages.append((os.stat(path).st_mtime_ns, path))
        for _, path in sorted(ages)[: -self._limit]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
