"""What goes when the cache is full, and what never goes."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from avec.errors import CacheUnavailable
from avec.modelcache import Manifest, ModelCache, folder, manifest_of_bytes
from avec.protocol.codec import CHUNK_NBYTES

SIZE = 100_000
Store = Callable[[ModelCache, bytes], Manifest]
Make = Callable[[int, int], bytes]


@pytest.fixture
def small(tmp_path: Path) -> ModelCache:
    """A cache with room for three models of SIZE."""
    return ModelCache(tmp_path / "cache", 3 * SIZE + SIZE // 2)


@pytest.fixture
def models(make: Make) -> list[bytes]:
    return [make(SIZE, seed) for seed in range(5)]


def held(cache: ModelCache, models: list[bytes]) -> list[int]:
    """The numbers of the models that are whole; asking so does not count as use."""
    return [number for number, data in enumerate(models) if cache.missing(manifest_of_bytes(data)) == ()]


def test_what_was_not_used_for_longest_goes_first(small: ModelCache, store: Store, models: list[bytes]) -> None:
    digests = [store(small, data).digest for data in models[:3]]
    small.open(digests[0]).close()
    store(small, models[3])
    assert held(small, models) == [0, 2, 3]


def test_pinning_counts_as_use(small: ModelCache, store: Store, models: list[bytes]) -> None:
    digests = [store(small, data).digest for data in models[:3]]
    for digest in digests[:2]:
        pinned = small.pin(digest)
        assert pinned is not None
        pinned.close()
    store(small, models[3])
    assert held(small, models) == [0, 1, 3]


def test_a_model_in_use_stays(small: ModelCache, store: Store, models: list[bytes]) -> None:
    with small.open(store(small, models[0]).digest) as pinned:
        for data in models[1:]:
            store(small, data)
        assert held(small, models) == [0, 3, 4]
        assert pinned.path.read_bytes() == models[0]


def test_a_model_no_longer_in_use_may_go(small: ModelCache, store: Store, models: list[bytes]) -> None:
    with small.open(store(small, models[0]).digest):
        pass
    for data in models[1:]:
        store(small, data)
    assert held(small, models) == [2, 3, 4]


def test_the_second_user_of_a_model_keeps_it(small: ModelCache, store: Store, models: list[bytes]) -> None:
    digest = store(small, models[0]).digest
    first, second = small.open(digest), small.open(digest)
    first.close()
    for data in models[1:]:
        store(small, data)
    assert held(small, models) == [0, 3, 4]
    second.close()


def test_when_all_is_in_use_an_upload_is_refused_and_nothing_lost(
    small: ModelCache, store: Store, models: list[bytes]
) -> None:
    unused = store(small, models[0]).digest
    with small.open(store(small, models[1]).digest), small.open(store(small, models[2]).digest):
        with pytest.raises(
            CacheUnavailable, match=rf"needs {2 * SIZE:,} bytes .*the bound is {3 * SIZE + SIZE // 2:,}"
        ):
            small.upload(manifest_of_bytes(models[3] + models[4]))
        small.open(unused).close()
    assert small.usage().partials == 0


def test_a_model_larger_than_the_bound_is_refused_with_the_numbers(
    small: ModelCache, store: Store, make: Make, models: list[bytes]
) -> None:
    store(small, models[0])
    manifest = manifest_of_bytes(make(4 * SIZE, 9))
    for attempt in (small.missing, small.upload):
        with pytest.raises(CacheUnavailable, match=rf"has {4 * SIZE:,} bytes.* bounded to {3 * SIZE + SIZE // 2:,}"):
            attempt(manifest)
    assert held(small, models) == [0]


def test_an_upload_under_way_keeps_its_room(tmp_path: Path, store: Store, large: bytes, models: list[bytes]) -> None:
    cache = ModelCache(tmp_path / "cache", len(large) + 2 * SIZE)
    with cache.upload(manifest_of_bytes(large)) as upload:
        upload.write(0, large[:CHUNK_NBYTES])
        for data in models:
            store(cache, data)
        assert held(cache, models) == [3, 4]
        assert upload.missing == ((1, 3),)
        assert cache.usage().partials_nbytes + cache.usage().models_nbytes <= len(large) + 2 * SIZE


def test_an_upload_that_nobody_continues_goes_when_room_is_needed(
    tmp_path: Path, store: Store, large: bytes, models: list[bytes]
) -> None:
    cache = ModelCache(tmp_path / "cache", len(large) + SIZE)
    with cache.upload(manifest_of_bytes(large)) as upload:
        upload.write(0, large[:CHUNK_NBYTES])
    store(cache, models[0])
    assert cache.usage().partials == 1
    store(cache, models[1])
    assert held(cache, models) == [0, 1]
    assert cache.usage().partials == 0


def test_an_upload_that_nobody_continued_for_a_day_goes(
    cache: ModelCache, store: Store, large: bytes, tmp_path: Path
) -> None:
    with cache.upload(manifest_of_bytes(large)) as upload:
        upload.write(0, large[:CHUNK_NBYTES])
    (mark,) = (tmp_path / "cache" / "chunks").iterdir()
    written = mark.stat().st_mtime
    os.utime(mark, times=(written, written - folder.PARTIAL_LIFETIME_S + 60))
    store(cache, b"another")
    assert cache.usage().partials == 1
    os.utime(mark, times=(written, written - folder.PARTIAL_LIFETIME_S - 60))
    store(cache, b"yet another")
    assert cache.usage().partials == 0


def test_a_mark_left_beside_nothing_is_swept(cache: ModelCache, store: Store, tmp_path: Path) -> None:
    for name in ("used", "chunks"):
        (tmp_path / "cache" / name / ("0" * 64)).write_bytes(b"\1\1\1")
    store(cache, b"model")
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.name == "0" * 64] == []


@contextmanager
def files_limited_to(nbytes: int) -> Iterator[None]:
    """As on a full disk: the system refuses to write beyond `nbytes` of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_when_the_system_refuses_a_new_upload_nothing_is_left(cache: ModelCache, large: bytes) -> None:
    with files_limited_to(CHUNK_NBYTES), pytest.raises(CacheUnavailable, match="bytes are free there"):
        cache.upload(manifest_of_bytes(large))
    assert cache.usage().partials == 0


def test_when_the_system_refuses_a_chunk_the_upload_resumes_later(
    cache: ModelCache, store: Store, large: bytes
) -> None:
    manifest = manifest_of_bytes(large)
    with cache.upload(manifest) as upload:
        upload.write(0, large[:CHUNK_NBYTES])
        with files_limited_to(CHUNK_NBYTES + 1000), pytest.raises(CacheUnavailable, match="writing chunk 1"):
            upload.write(1, large[CHUNK_NBYTES : 2 * CHUNK_NBYTES])
    assert cache.missing(manifest) == ((1, 3),)
    store(cache, large)
    with cache.open(manifest.digest) as model:
        assert model.path.read_bytes() == large


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a disk of 1 MiB can be mounted by root alone")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_model_larger_than_the_disk_is_refused_with_the_numbers(small_disk: Path, make: Make, store: Store) -> None:
    cache = ModelCache(small_disk, 1 << 30)
    kept = store(cache, b"model")
    with pytest.raises(CacheUnavailable, match=r"needs 2,000,000 bytes .* are free on the disk"):
        cache.upload(manifest_of_bytes(make(2_000_000, 0)))
    cache.open(kept.digest).close()
    assert cache.usage().partials == 0


def test_unused_models_go_when_the_disk_is_full(small_disk: Path, store: Store, make: Make) -> None:
    cache = ModelCache(small_disk, 1 << 30)
    models = [make(300_000, seed) for seed in range(5)]
    for data in models:
        store(cache, data)
    assert held(cache, models) == [2, 3, 4]
