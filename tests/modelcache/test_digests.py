"""What names a model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from avec.errors import InvalidArgument, InvalidModel
from avec.modelcache import Manifest, digests, manifest_of_bytes, manifest_of_file
from avec.protocol.codec import CHUNK_NBYTES

SIZES = [0, 1, CHUNK_NBYTES - 1, CHUNK_NBYTES, CHUNK_NBYTES + 1, 3 * CHUNK_NBYTES]


@pytest.mark.parametrize("nbytes", SIZES)
def test_digest_is_sha256_over_the_sha256_of_each_chunk(make: Callable[..., bytes], nbytes: int) -> None:
    data = make(nbytes)
    chunks = b"".join(
        hashlib.sha256(data[start : start + CHUNK_NBYTES]).digest() for start in range(0, nbytes, CHUNK_NBYTES)
    )
    assert manifest_of_bytes(data) == Manifest(hashlib.sha256(chunks).hexdigest(), nbytes, chunks)


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_file_and_its_bytes_have_the_same_manifest(tmp_path: Path, make: Callable[..., bytes], nbytes: int) -> None:
    path = tmp_path / "model"
    path.write_bytes(make(nbytes))
    assert manifest_of_file(path) == manifest_of_bytes(make(nbytes))


def test_the_digest_of_known_bytes_never_changes() -> None:
    assert manifest_of_bytes(b"").digest == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert manifest_of_bytes(b"abc").digest == "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358"


def test_chunks_have_the_sizes_that_make_up_the_model(large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    sizes = [manifest.chunk_nbytes(index) for index in range(manifest.chunk_count)]
    assert sizes == [CHUNK_NBYTES, CHUNK_NBYTES, 12345]


def test_a_manifest_of_a_real_file_passes_its_own_check(large: bytes) -> None:
    manifest_of_bytes(large).check()


GOOD = manifest_of_bytes(b"some model")


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest("../../../../etc/passwd", GOOD.nbytes, GOOD.chunks),
        Manifest(GOOD.digest.upper(), GOOD.nbytes, GOOD.chunks),
        Manifest(GOOD.digest + "\n", GOOD.nbytes, GOOD.chunks),
        Manifest(GOOD.digest[:-1], GOOD.nbytes, GOOD.chunks),
        Manifest("", GOOD.nbytes, GOOD.chunks),
        Manifest(GOOD.digest, -1, b""),
        Manifest(GOOD.digest, 0, GOOD.chunks),
        Manifest(GOOD.digest, CHUNK_NBYTES + 1, GOOD.chunks),
        Manifest(GOOD.digest, GOOD.nbytes, GOOD.chunks[:-1]),
        Manifest(GOOD.digest, GOOD.nbytes, bytes(32)),
        Manifest("0" * 64, GOOD.nbytes, GOOD.chunks),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument):
        manifest.check()


def test_a_file_that_is_written_while_being_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"first half")
    read = digests.hash_file

    def read_while_another_writes(path: digests.StrPath, nbytes: int) -> Manifest:
        manifest = read(path, nbytes)
        with open(path, "ab") as file:
            file.write(b"second half")
        return manifest

    monkeypatch.setattr(digests, "hash_file", read_while_another_writes)
    with pytest.raises(InvalidModel, match="changed while it was being read"):
        manifest_of_file(path)


def test_a_missing_file_is_the_operating_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        manifest_of_file(tmp_path / "none")


WITHOUT_FILE_LOCKS = """
import sys
sys.modules["fcntl"] = None  # what importing it finds on Windows
from pathlib import Path
from avec.errors import ConfigurationError
from avec.modelcache import DigestMemo, ModelCache, manifest_of_bytes
folder = Path(sys.argv[1])
(folder / "model").write_bytes(b"abc")
assert DigestMemo(folder / "memo").manifest_of(folder / "model") == manifest_of_bytes(b"abc")
try:
    ModelCache(folder / "cache", 1000)
except ConfigurationError as exc:
    print(exc)
"""


def test_without_file_locks_digests_work_and_a_destination_is_refused(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_FILE_LOCKS, os.fspath(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "needs flock" in ran.stdout
