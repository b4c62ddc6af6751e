"""The model cache as a destination's processes use it: ask, upload, pin, open.

Digests are SHA-256 over chunk digests (`digests`); the files and their locks are in `folder`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from avec.errors import CacheUnavailable
from avec.modelcache.digests import Identity, Manifest, hash_file, identity_of
from avec.modelcache.folder import CacheFolder, Usage, touch
from avec.modelcache.locks import is_at, open_shared
from avec.modelcache.upload import Ranges, Upload, absent

ATTEMPTS = 3  # to open what was just made of a model, which others may remove to make room


class PinnedModel:
    """A model that stays in the cache until this is closed, or until the process ends, however it ends."""

    def __init__(self, digest: str, path: Path, descriptor: int) -> None:
        self.digest = digest
        self.path = path
        self._descriptor = descriptor

    @property
    def nbytes(self) -> int:
        """The model's size."""
        return os.fstat(self._descriptor).st_size

    @property
    def identity(self) -> Identity:
        """What changes when the file is written."""
        return identity_of(os.fstat(self._descriptor))

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Let the model be removed again. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ModelCache:
    """Models by digest in one folder, bounded, shared by any number of threads and processes. Keeps nothing open."""

    def __init__(self, directory: Path, limit_nbytes: int, owner: int | None = None) -> None:
        """Use a folder as model cache, made if needed.

        Args:
            owner: the user ID whose the folder may be, beside this process's own.

        Raises:
            ConfigurationError: others may write the folder, or the platform has no file locks.
            CacheUnavailable: the folder cannot be used.
        """
        self._folder = CacheFolder(directory, limit_nbytes, owner)
        self._verified: dict[str, Identity] = {}

    def missing(self, manifest: Manifest) -> Ranges:
        """Tell which chunks a host would have to send, as [start, stop) ranges; none when the model is there.

        Raises:
            InvalidArgument: the manifest contradicts itself.
            CacheUnavailable: the model is larger than the cache's bound.
        """
        manifest.check()
        self._folder.check_fits(manifest)
        partial = self._folder.partial(manifest)
        with self._folder.storing(f"looking for model {manifest.digest}"):
            if self._folder.model(manifest.digest).data.exists():
                return ()
            marks = partial.mark.read_bytes() if partial.data.exists() and partial.mark.exists() else b""
        if not manifest.nbytes:  # no chunk will ever come
            with self.upload(manifest) as upload:
                upload.finish()
        return absent(marks.ljust(manifest.chunk_count, b"\0"))

    def upload(self, manifest: Manifest) -> Upload:
        """Begin or resume an upload; room is made by removing what was not used for longest and is not in use.

        Raises:
            InvalidArgument: the manifest contradicts itself.
            CacheUnavailable: there is no room, with the numbers, or the disk refuses.
        """
        return Upload(self._folder, manifest)

    def pin(self, digest: str) -> PinnedModel | None:
        """Keep a model from being removed, without reading it; None when it is not there."""
        entry = self._folder.model(digest)
        with self._folder.storing(f"opening model {digest}"):
            descriptor = open_shared(entry.data)
        if descriptor is None:
            return None
        with contextlib.suppress(OSError):  # a confined worker may only read: then the order of use is less exact
            touch(entry.mark)
        return PinnedModel(digest, entry.data, descriptor)

    def open(self, digest: str) -> PinnedModel:
        """Pin a model whose bytes were verified: hashed now, or by this process since the file was last written.

        Raises:
            CacheUnavailable: the model is not there, or was damaged and is removed now; upload it again.
        """
        model = self.pin(digest)
        if model is None:
            raise CacheUnavailable(f"model {digest} is not in the model cache {self._folder.path}; upload it again")
        try:
            self._verify(model)
        except BaseException:
            model.close()
            raise
        return model

    def derive(self, digest: str, nbytes: int, write: Callable[[BinaryIO], None]) -> PinnedModel:
        """Pin what was made of a model for processes to map, made now if it is not there.

        It appears whole or not at all, and counts and goes as a model does. Nothing vouches for what it holds: the
        caller compares it with the model.

        Args:
            digest: of the model, which the caller has pinned.
            nbytes: of what is made.
            write: writes it into a file of that size.

        Raises:
            CacheUnavailable: there is no room for it, or the disk refuses.
        """
        with self._folder.storing(f"keeping what is made of model {digest}"):
            entry = self._folder.derived(digest)
            for _ in range(ATTEMPTS):
                descriptor = open_shared(entry.data)
                if descriptor is not None:
                    made = PinnedModel(digest, entry.data, descriptor)
                    if made.nbytes == nbytes:
                        with contextlib.suppress(OSError):
                            touch(entry.mark)
                        return made
                    self.discard_derived(made)
                self._make(digest, nbytes, write)
        raise CacheUnavailable(
            f"what was made of model {digest} in {self._folder.path} was removed {ATTEMPTS} times before it was opened"
        )

    def discard_derived(self, made: PinnedModel) -> None:
        """Close and remove what `derive` gave and is not what it should be."""
        with made, self._folder.storing(f"removing what was made of model {made.digest}"):
            self._folder.discard_derived(made.digest, made.fileno())

    def usage(self) -> Usage:
        """Count models, partial uploads and their bytes."""
        with self._folder.storing("counting the models"):
            return self._folder.usage()

    def _make(self, digest: str, nbytes: int, write: Callable[[BinaryIO], None]) -> None:
        path, descriptor = self._folder.create_derived(digest, nbytes)
        with open(descriptor, "wb") as file:  # with the lock, which keeps it from being removed
            write(file)
            file.flush()
            self._folder.publish_derived(digest, path)

    def _verify(self, model: PinnedModel) -> None:
        identity = model.identity  # before reading: a write meanwhile makes the next opening read again
        if self._verified.get(model.digest) == identity:
            return
        try:
            found = hash_file(model.path, model.nbytes).digest
        except OSError as exc:
            found = f"unreadable ({exc.strerror})"
        if found != model.digest or not is_at(model.path, model.fileno()):
            with self._folder.storing(f"removing the damaged model {model.digest}"):
                self._folder.discard_model(model.digest, model.fileno())
            raise CacheUnavailable(
                f"model {model.digest} in {self._folder.path} was damaged (its bytes are {found}) or removed "
                "meanwhile, and is not there now; upload it again"
            )
        self._verified[model.digest] = identity
