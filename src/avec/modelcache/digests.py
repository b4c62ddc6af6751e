"""A model's name is what it holds: SHA-256 over the SHA-256 of each of its chunks.

A chunk is CHUNK_NBYTES long, the last one shorter; an empty model has none. So a chunk can be verified when it
arrives, an upload can resume at any chunk, and hashing uses all cores (hashlib releases the interpreter lock).
Works on every platform. Not here: where the bytes are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from avec.errors import InvalidArgument, InvalidModel
from avec.protocol.codec import CHUNK_NBYTES

StrPath = str | os.PathLike[str]
Identity = tuple[int, int, int, int, int]

DIGEST_NBYTES = hashlib.sha256().digest_size
THREAD_LIMIT = 8  # SHA-256 at ~1.8 GB/s each: more threads outrun the disk
_READ_NBYTES = 1 << 20  # stays in a core's cache between being read and being hashed
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Manifest(msgspec.Struct, frozen=True):
    """What a model is, without its bytes: its digest in hex, its size, and the SHA-256 of each chunk on end."""

    digest: str
    nbytes: int
    chunks: bytes

    @property
    def chunk_count(self) -> int:
        """How many chunks the model has."""
        return -(-self.nbytes // CHUNK_NBYTES)

    def chunk_nbytes(self, index: int) -> int:
        """How long one chunk is."""
        return min(CHUNK_NBYTES, self.nbytes - index * CHUNK_NBYTES)

    def chunk_digest(self, index: int) -> bytes:
        """The SHA-256 of one chunk."""
        return self.chunks[index * DIGEST_NBYTES : (index + 1) * DIGEST_NBYTES]

    def check(self) -> None:
        """Raise InvalidArgument unless digest, size and chunk list belong together (a peer may have sent them)."""
        check_digest(self.digest)
        if self.nbytes < 0 or len(self.chunks) != self.chunk_count * DIGEST_NBYTES:
            raise InvalidArgument(
                f"model {self.digest} of {self.nbytes} bytes was offered with {len(self.chunks)} bytes of chunk "
                f"digests; it needs {DIGEST_NBYTES} for each {CHUNK_NBYTES} bytes begun"
            )
        if hashlib.sha256(self.chunks).hexdigest() != self.digest:
            raise InvalidArgument(f"model {self.digest} was offered with chunk digests that are not its own")


def check_digest(digest: str) -> None:
    """Raise InvalidArgument unless this is a digest: 64 lower-case hex digits, so that it is safe as a file's name."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"{digest[:80]!r} names no model; a digest is 64 lower-case hexadecimal digits")


def manifest_of_bytes(data: bytes | bytearray | memoryview) -> Manifest:
    """Describe a model that is in memory; `data` must not change meanwhile."""
    view = memoryview(data).cast("B")
    starts = range(0, view.nbytes, CHUNK_NBYTES)
    return _manifest(view.nbytes, _map(lambda start: _sha256(view[start : start + CHUNK_NBYTES]), starts))


def manifest_of_file(path: StrPath) -> Manifest:
    """Describe a model file, reading it with several threads and a few MB of memory.

    Raises:
        OSError: the file cannot be read.
        InvalidModel: the file changed meanwhile, so that no digest names what was read.
    """
    before = identity_of(os.stat(path))
    manifest = hash_file(path, before[2])
    if identity_of(os.stat(path)) != before:
        raise InvalidModel(f"{os.fspath(path)} changed while it was being read; try again when it is complete")
    return manifest


def hash_file(path: StrPath, nbytes: int) -> Manifest:
    """Describe the first `nbytes` of a file, or what there is of them."""
    starts = range(0, nbytes, CHUNK_NBYTES)
    return _manifest(nbytes, _map(lambda start: _file_sha256(path, start, min(CHUNK_NBYTES, nbytes - start)), starts))


def identity_of(status: os.stat_result) -> Identity:
    """What differs when a file was replaced or written: device, inode, size, time of writing, time of change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _manifest(nbytes: int, chunk_digests: Iterable[bytes]) -> Manifest:
    chunks = b"".join(chunk_digests)
    return Manifest(hashlib.sha256(chunks).hexdigest(), nbytes, chunks)


def _map(digest_at: Callable[[int], bytes], starts: range) -> list[bytes]:
    threads = min(len(starts), os.cpu_count() or 1, THREAD_LIMIT)
    if threads <= 1:
        return [digest_at(start) for start in starts]
    with ThreadPoolExecutor(threads, thread_name_prefix="avec-hash") as pool:
        return list(pool.map(digest_at, starts))


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _file_sha256(path: StrPath, start: int, nbytes: int) -> bytes:
    # Each chunk opens the file for itself: positions are not shared, and Windows has no pread.
    found = hashlib.sha256()
    buffer = memoryview(bytearray(min(_READ_NBYTES, nbytes)))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while nbytes > 0 and (count := file.readinto(buffer[:nbytes])):
            found.update(buffer[:count])
            nbytes -= count
    return found.digest()
