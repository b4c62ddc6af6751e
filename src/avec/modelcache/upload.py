"""Writing one model into the cache, chunk by chunk, each verified before it is kept.

Hashing and writing run on two threads while the next chunk arrives. Not here: where chunks come from.
"""

from __future__ import annotations

import hashlib
import os
import queue
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from avec.errors import InvalidArgument
from avec.modelcache.digests import Manifest
from avec.modelcache.folder import CacheFolder
from avec.protocol.codec import CHUNK_NBYTES
from avec.tensor import Array, bytes_view

WRITER_THREADS = 2
BUFFERS = WRITER_THREADS + 1  # one is received into while the others are hashed and written

Ranges = tuple[tuple[int, int], ...]


class Upload:
    """One host's upload of one model; several may write the same model at once. Used by one thread.

        with cache.upload(manifest) as upload:
            for each chunk in upload.missing:
                buffer = upload.buffer(nbytes)      # receive into it
                upload.submit(index, buffer)        # or, without overlap: upload.write(index, data)
            upload.finish()

    Closed without `finish`, it keeps the chunks that it has, for an upload that resumes.
    """

    def __init__(self, folder: CacheFolder, manifest: Manifest) -> None:
        manifest.check()
        self.manifest = manifest
        self._folder = folder
        with self._folder.storing(f"storing model {manifest.digest} of {manifest.nbytes:,} bytes"):
            self._data, self._marks = folder.open_upload(manifest)
        self._stored = self._marks is None
        self._closed = False
        self._pool = ThreadPoolExecutor(WRITER_THREADS, thread_name_prefix="avec-upload")
        self._pending: deque[Future[None]] = deque()
        nbytes = min(CHUNK_NBYTES, manifest.nbytes)
        self._buffers: list[Array] = [np.empty(nbytes, np.uint8) for _ in range(BUFFERS)]
        self._free: queue.SimpleQueue[Array] = queue.SimpleQueue()
        for buffer in self._buffers:
            self._free.put(buffer)

    @property
    def missing(self) -> Ranges:
        """The chunks that are not there, as [start, stop) ranges."""
        return absent(self._present())

    def buffer(self, nbytes: int) -> Array:
        """Lend memory for one chunk, waiting until some is free. Each one lent must be given to `submit`.

        Raises:
            InvalidArgument: no chunk of this model is so long, or an earlier chunk was wrong.
            CacheUnavailable: an earlier chunk could not be written.
        """
        self._raise_failure()
        if not 0 < nbytes <= self._buffers[0].nbytes:
            raise InvalidArgument(
                f"a chunk of {nbytes} bytes for model {self.manifest.digest}, whose longest has "
                f"{self._buffers[0].nbytes}"
            )
        return self._free.get()[:nbytes]

    def submit(self, index: int, chunk: Array) -> None:
        """Verify and write a chunk on another thread; `chunk` is what `buffer` lent. Errors as for `buffer`."""
        owner = next((buffer for buffer in self._buffers if buffer is chunk.base), None)
        if owner is None:
            raise ValueError("Upload.submit takes only memory that Upload.buffer lent; use Upload.write for other")
        self._raise_failure()
        self._pending.append(self._pool.submit(self._write_and_take_back, index, chunk, owner))

    def write(self, index: int, chunk: bytes | bytearray | memoryview) -> None:
        """Verify and write a chunk before returning.

        Raises:
            InvalidArgument: its index, length or SHA-256 is not what the manifest says; nothing of it is kept.
            CacheUnavailable: it could not be written.
        """
        with memoryview(chunk).cast("B") as view:
            self._check(index, view)
            if self._marks is None or os.pread(self._marks, 1, index) == b"\1":
                return
            with self._folder.storing(f"writing chunk {index} of model {self.manifest.digest}"):
                # Verified before it is written: another host may already have written this chunk rightly.
                _write_all(self._data, view, index * CHUNK_NBYTES)
                os.pwrite(self._marks, b"\1", index)

    def finish(self) -> None:
        """Wait for the chunks under way and publish the model; it is there for every process afterwards.

        Raises:
            InvalidArgument: a chunk was wrong, or some never came.
            CacheUnavailable: a chunk could not be written, or the model not be published.
        """
        while self._pending:
            self._pending.popleft().result()
        if missing := self.missing:
            raise InvalidArgument(
                f"model {self.manifest.digest} is not complete: chunks {missing} of {self.manifest.chunk_count} "
                "never came; send them before the end of the upload"
            )
        with self._folder.storing(f"publishing model {self.manifest.digest}"):
            self._folder.publish(self.manifest, self._data)
        self._stored = True

    def close(self) -> None:
        """Stop the threads and give the locks back; an upload without a single chunk is removed. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        empty = not self._stored and 1 not in self._present()
        os.close(self._data)
        if self._marks is not None:
            os.close(self._marks)
        if empty:
            with self._folder.storing(f"removing the empty upload of model {self.manifest.digest}"):
                self._folder.discard_partial(self.manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _present(self) -> bytes:
        if self._marks is None:
            return b"\1" * self.manifest.chunk_count
        return os.pread(self._marks, self.manifest.chunk_count, 0)

    def _check(self, index: int, view: memoryview) -> None:
        manifest = self.manifest
        if not 0 <= index < manifest.chunk_count or view.nbytes != manifest.chunk_nbytes(index):
            raise InvalidArgument(
                f"chunk {index} with {view.nbytes} bytes does not belong to model {manifest.digest}, which has "
                f"{manifest.chunk_count} chunks in {manifest.nbytes} bytes"
            )
        found = hashlib.sha256(view).digest()
        if found != manifest.chunk_digest(index):
            raise InvalidArgument(
                f"chunk {index} of model {manifest.digest} came with SHA-256 {found.hex()}, not the "
                f"{manifest.chunk_digest(index).hex()} that was offered: the file changed since, or the link damaged "
                "it; offer the model again"
            )

    def _write_and_take_back(self, index: int, chunk: Array, owner: Array) -> None:
        try:
            self.write(index, bytes_view(chunk))
        finally:
            self._free.put(owner)

    def _raise_failure(self) -> None:
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()


def absent(present: bytes) -> Ranges:
    """Turn chunk marks into the [start, stop) ranges of the chunks that are not there."""
    ranges: list[tuple[int, int]] = []
    for index, mark in enumerate(present):
        if mark:
            continue
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return tuple(ranges)


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
