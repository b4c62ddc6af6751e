"""Storing, verifying and giving back models, in one process."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avec.errors import CacheUnavailable, ConfigurationError, InvalidArgument
from avec.modelcache import Manifest, ModelCache, Upload, locks, manifest_of_bytes
from avec.modelcache import store as store_module
from avec.modelcache.folder import CacheFolder
from avec.protocol.codec import CHUNK_NBYTES
from avec.tensor import Array

Store = Callable[[ModelCache, bytes], Manifest]


def chunk(data: bytes, index: int) -> bytes:
    return data[index * CHUNK_NBYTES : (index + 1) * CHUNK_NBYTES]


def lent(upload: Upload, data: bytes) -> Array:
    buffer = upload.buffer(len(data))
    buffer[:] = np.frombuffer(data, np.uint8)
    return buffer


def content(cache: ModelCache, digest: str) -> bytes:
    with cache.open(digest) as model:
        return model.path.read_bytes()


def is_held(cache: ModelCache, digest: str) -> bool:
    model = cache.pin(digest)
    if model is not None:
        model.close()
    return model is not None


def damage(path: Path, offset: int) -> None:
    """Flip one bit, and leave the file's size and time of writing as they were."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def model_file(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "cache" / "models" / digest


@pytest.mark.parametrize("nbytes", [0, 1, CHUNK_NBYTES, CHUNK_NBYTES + 1])
def test_a_stored_model_is_given_back(cache: ModelCache, store: Store, large: bytes, nbytes: int) -> None:
    manifest = store(cache, large[:nbytes])
    assert content(cache, manifest.digest) == large[:nbytes]


def test_chunks_may_come_in_any_order_and_overlap(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        for index in (2, 0, 1):
            upload.submit(index, lent(upload, chunk(large, index)))
        upload.finish()
    assert content(cache, manifest.digest) == large


def test_an_empty_model_needs_no_upload(cache: ModelCache) -> None:
    manifest = manifest_of_bytes(b"")
    assert cache.missing(manifest) == ()
    assert content(cache, manifest.digest) == b""


def test_missing_tells_the_chunks_that_are_not_there(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    assert cache.missing(manifest) == ((0, 3),)
    with cache.upload(manifest) as upload:
        upload.write(1, chunk(large, 1))
        assert upload.missing == ((0, 1), (2, 3))
    assert cache.missing(manifest) == ((0, 1), (2, 3))


def test_asking_what_is_missing_leaves_nothing_on_disk(cache: ModelCache, large: bytes, tmp_path: Path) -> None:
    cache.missing(manifest_of_bytes(large))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_upload_resumes_where_it_ended(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        upload.write(0, chunk(large, 0))
    with cache.upload(manifest) as upload:
        for start, stop in upload.missing:
            for index in range(start, stop):
                upload.write(index, chunk(large, index))
        upload.finish()
    assert content(cache, manifest.digest) == large
    assert cache.usage().partials == 0


def test_an_upload_of_a_model_that_is_there_has_nothing_to_do(cache: ModelCache, store: Store) -> None:
    manifest = store(cache, b"model")
    with cache.upload(manifest) as upload:
        assert upload.missing == ()
        upload.finish()
    assert cache.missing(manifest) == ()


def test_an_unfinished_model_is_not_to_be_seen(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        for index in range(3):
            upload.write(index, chunk(large, index))
        assert not is_held(cache, manifest.digest)


def test_finishing_without_all_chunks_is_refused(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        upload.write(0, chunk(large, 0))
        with pytest.raises(InvalidArgument, match=r"chunks \(\(1, 3\),\) of 3 never came"):
            upload.finish()
    assert not is_held(cache, manifest.digest)


def test_a_wrong_chunk_is_refused_and_nothing_of_it_kept(cache: ModelCache, large: bytes, tmp_path: Path) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        upload.write(0, chunk(large, 0))
        with pytest.raises(InvalidArgument, match="chunk 1 .* the file changed since"):
            upload.write(1, b"\xff" * CHUNK_NBYTES)
        assert upload.missing == ((1, 3),)
    (partial,) = (tmp_path / "cache" / "partials").iterdir()
    assert chunk(partial.read_bytes(), 1) == bytes(CHUNK_NBYTES)


def test_a_wrong_chunk_does_not_spoil_the_right_one(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        upload.write(0, chunk(large, 0))
        with pytest.raises(InvalidArgument):
            upload.write(0, b"\xff" * CHUNK_NBYTES)
        upload.write(1, chunk(large, 1))
        upload.write(2, chunk(large, 2))
        upload.finish()
    assert content(cache, manifest.digest) == large


def test_a_wrong_chunk_that_was_submitted_is_reported_by_finish(cache: ModelCache, large: bytes) -> None:
    with cache.upload(manifest_of_bytes(large)) as upload:
        upload.submit(0, lent(upload, b"\xff" * CHUNK_NBYTES))
        with pytest.raises(InvalidArgument, match="chunk 0"):
            upload.finish()


def test_a_wrong_chunk_that_was_submitted_ends_a_long_upload(cache: ModelCache, large: bytes) -> None:
    with cache.upload(manifest_of_bytes(large)) as upload, pytest.raises(InvalidArgument, match="chunk 0"):
        for _ in range(100):
            upload.submit(0, lent(upload, b"\xff" * CHUNK_NBYTES))


@pytest.mark.parametrize(("index", "nbytes"), [(-1, 12345), (3, 12345), (0, 12345), (2, 12344), (2, 0)])
def test_a_chunk_of_wrong_place_or_length_is_refused(cache: ModelCache, large: bytes, index: int, nbytes: int) -> None:
    with cache.upload(manifest_of_bytes(large)) as upload, pytest.raises(InvalidArgument, match="does not belong"):
        upload.write(index, bytes(nbytes))


@pytest.mark.parametrize("nbytes", [0, 6, CHUNK_NBYTES + 1])
def test_no_memory_is_lent_for_a_chunk_that_the_model_cannot_have(cache: ModelCache, nbytes: int) -> None:
    with cache.upload(manifest_of_bytes(b"model")) as upload, pytest.raises(InvalidArgument):
        upload.buffer(nbytes)


def test_memory_that_was_not_lent_is_refused(cache: ModelCache) -> None:
    with cache.upload(manifest_of_bytes(b"model")) as upload, pytest.raises(ValueError, match="lent"):
        upload.submit(0, np.frombuffer(b"model", np.uint8))


def test_a_manifest_that_contradicts_itself_reaches_no_file(cache: ModelCache, tmp_path: Path) -> None:
    honest = manifest_of_bytes(b"model")
    lie = Manifest("../" * 20 + "tmp", honest.nbytes, honest.chunks)
    with pytest.raises(InvalidArgument):
        cache.missing(lie)
    with pytest.raises(InvalidArgument):
        cache.upload(lie)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_offer_with_a_false_size_does_not_disturb_the_true_one(cache: ModelCache, store: Store) -> None:
    honest = manifest_of_bytes(b"model")
    with cache.upload(Manifest(honest.digest, honest.nbytes + 1, honest.chunks)):
        store(cache, b"model")
    assert content(cache, honest.digest) == b"model"


@pytest.mark.parametrize("digest", ["", "..", "../models/x", "A" * 64, "0" * 63])
def test_what_is_no_digest_opens_nothing(cache: ModelCache, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        cache.open(digest)


def test_a_model_that_is_not_there_asks_for_an_upload(cache: ModelCache) -> None:
    with pytest.raises(CacheUnavailable, match="upload it again"):
        cache.open("0" * 64)


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_flipped_bit_is_found_and_the_model_removed(
    cache: ModelCache, store: Store, large: bytes, tmp_path: Path, opened_before: bool
) -> None:
    manifest = store(cache, large)
    if opened_before:
        cache.open(manifest.digest).close()
    damage(model_file(tmp_path, manifest.digest), CHUNK_NBYTES + 77)
    with pytest.raises(CacheUnavailable, match="damaged"):
        cache.open(manifest.digest)
    assert cache.missing(manifest) == ((0, 3),)
    store(cache, large)
    assert content(cache, manifest.digest) == large


def test_a_truncated_model_is_found_and_removed(cache: ModelCache, store: Store, large: bytes, tmp_path: Path) -> None:
    manifest = store(cache, large)
    os.truncate(model_file(tmp_path, manifest.digest), len(large) - 1)
    with pytest.raises(CacheUnavailable, match="damaged"):
        cache.open(manifest.digest)
    assert not is_held(cache, manifest.digest)


def test_a_model_is_verified_once_in_a_process(
    cache: ModelCache, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store(cache, b"model")
    cache.open(manifest.digest).close()
    monkeypatch.setattr(store_module, "hash_file", lambda *_: pytest.fail("the model was hashed again"))
    cache.open(manifest.digest).close()


def test_files_are_for_their_owner_alone(cache: ModelCache, store: Store, large: bytes, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        opened = ModelCache(tmp_path / "another", 1 << 30)
        store(opened, b"model")
        with opened.upload(manifest_of_bytes(large)) as upload:
            upload.write(0, chunk(large, 0))
    finally:
        os.umask(umask)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (tmp_path / "another").rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
    assert (tmp_path / "another").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        ModelCache(tmp_path / "shared", 1000)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnavailable, match="opening the model cache"):
        ModelCache(tmp_path / "file" / "cache", 1000)


def test_a_folder_deleted_meanwhile_is_made_again(cache: ModelCache, store: Store, tmp_path: Path) -> None:
    store(cache, b"model")
    shutil.rmtree(tmp_path / "cache")
    manifest = manifest_of_bytes(b"model")
    assert cache.missing(manifest) == ((0, 1),)
    store(cache, b"model")
    assert content(cache, manifest.digest) == b"model"


def test_an_upload_without_a_chunk_leaves_nothing(cache: ModelCache, large: bytes) -> None:
    with cache.upload(manifest_of_bytes(large)):
        assert cache.usage().partials == 1
    assert cache.usage().partials == 0


def test_usage_counts_models_and_partial_uploads(cache: ModelCache, store: Store, large: bytes) -> None:
    store(cache, b"model")
    with cache.upload(manifest_of_bytes(large)) as upload:
        upload.write(2, chunk(large, 2))
    usage = cache.usage()
    assert (usage.models, usage.models_nbytes) == (1, 5)
    assert (usage.partials, usage.partials_nbytes) == (1, len(large))


def test_two_uploads_of_one_model_both_succeed_and_leave_one_copy(cache: ModelCache, large: bytes) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as first, cache.upload(manifest) as second:
        for index in range(3):
            first.write(index, chunk(large, index))
            second.write(2 - index, chunk(large, 2 - index))
        first.finish()
        second.finish()
    assert content(cache, manifest.digest) == large
    assert (cache.usage().models, cache.usage().partials) == (1, 0)


def test_a_late_upload_cannot_publish_a_newer_unfinished_one(
    cache: ModelCache, store: Store, large: bytes, tmp_path: Path
) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as late:
        store(cache, large)
        model_file(tmp_path, manifest.digest).unlink()
        with cache.upload(manifest) as newer:
            newer.write(0, chunk(large, 0))
            with pytest.raises(CacheUnavailable, match="removed"):
                late.finish()
            assert newer.missing == ((1, 3),)
    assert not is_held(cache, manifest.digest)


def test_an_upload_of_a_model_removed_meanwhile_does_not_claim_to_have_stored_it(
    cache: ModelCache, store: Store, tmp_path: Path
) -> None:
    manifest = store(cache, b"model")
    with cache.upload(manifest) as upload:
        model_file(tmp_path, manifest.digest).unlink()
        with pytest.raises(CacheUnavailable, match="upload it again"):
            upload.finish()


def test_marks_of_an_earlier_upload_say_nothing_about_a_new_one(
    cache: ModelCache, large: bytes, tmp_path: Path
) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as earlier:
        earlier.write(0, chunk(large, 0))
        (partial,) = (tmp_path / "cache" / "partials").iterdir()
        partial.unlink()  # as when a process dies after publishing, and the model goes
        with cache.upload(manifest) as newer:
            earlier.write(1, chunk(large, 1))
            assert newer.missing == ((0, 3),)


def test_a_new_model_is_not_removed_for_the_damage_of_the_old_one(
    cache: ModelCache, store: Store, tmp_path: Path
) -> None:
    manifest = store(cache, b"model")
    old = cache.pin(manifest.digest)
    assert old is not None
    with old:
        model_file(tmp_path, manifest.digest).unlink()
        store(cache, b"model")
        CacheFolder(tmp_path / "cache", 1000).discard_model(manifest.digest, old.fileno())
    assert content(cache, manifest.digest) == b"model"


def test_a_model_removed_between_opening_and_locking_is_not_there(
    cache: ModelCache, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store(cache, b"model")
    really = locks.fcntl.flock

    def remove_first(descriptor: int, operation: int) -> None:
        model_file(tmp_path, manifest.digest).unlink(missing_ok=True)
        really(descriptor, operation)

    monkeypatch.setattr(locks.fcntl, "flock", remove_first)
    assert cache.pin(manifest.digest) is None


def test_a_model_removed_while_being_verified_is_not_there(
    cache: ModelCache, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store(cache, b"model")
    really = store_module.hash_file

    def then_remove(path: Path, nbytes: int) -> Manifest:
        found = really(path, nbytes)
        path.unlink()
        return found

    monkeypatch.setattr(store_module, "hash_file", then_remove)
    with pytest.raises(CacheUnavailable, match="removed meanwhile"):
        cache.open(manifest.digest)


def test_changes_wait_for_one_another_and_reading_waits_for_none(
    cache: ModelCache, store: Store, tmp_path: Path
) -> None:
    digest = store(cache, b"model").digest
    changing = threading.Thread(target=store, args=(cache, b"another"))
    with locks.exclusive(tmp_path / "cache" / "lock"):
        changing.start()
        assert content(cache, digest) == b"model"
        changing.join(0.2)
        assert (cache.usage().models, cache.usage().partials) == (1, 0)
    changing.join()
    assert cache.usage().models == 2


def test_publishing_waits_for_other_changes(cache: ModelCache, tmp_path: Path) -> None:
    with cache.upload(manifest_of_bytes(b"model")) as upload:
        upload.write(0, b"model")
        publishing = threading.Thread(target=upload.finish)
        with locks.exclusive(tmp_path / "cache" / "lock"):
            publishing.start()
            publishing.join(0.2)
            assert cache.usage().models == 0
        publishing.join()
    assert cache.usage().models == 1
