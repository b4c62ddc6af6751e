"""What is made of a model for processes to map: whole or not at all, and bounded and removed with the models."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from avec.errors import CacheUnavailable
from avec.modelcache import Manifest, ModelCache

Store = Callable[[ModelCache, bytes], Manifest]
SIZE = 100_000
MADE = b"\2" * SIZE


def write_made(file: BinaryIO) -> None:
    file.write(MADE)


def refuse(file: BinaryIO) -> None:
    raise AssertionError("it was there already")


def test_it_is_made_once(cache: ModelCache, store: Store) -> None:
    digest = store(cache, bytes(SIZE)).digest
    cache.derive(digest, SIZE, write_made).close()
    with cache.derive(digest, SIZE, refuse) as made:
        assert made.path.read_bytes() == MADE


def test_it_counts_with_the_models(cache: ModelCache, store: Store) -> None:
    cache.derive(store(cache, bytes(5)).digest, SIZE, write_made).close()
    usage = cache.usage()
    assert (usage.models, usage.models_nbytes) == (1, SIZE + 5)


def test_one_of_another_size_is_made_anew(cache: ModelCache, store: Store) -> None:
    digest = store(cache, bytes(5)).digest
    with cache.derive(digest, SIZE, write_made) as made:
        os.truncate(made.path, 7)
    with cache.derive(digest, SIZE, write_made) as made:
        assert made.path.read_bytes() == MADE


def test_one_that_is_discarded_is_made_anew(cache: ModelCache, store: Store) -> None:
    digest = store(cache, bytes(5)).digest
    cache.discard_derived(cache.derive(digest, 3, lambda file: None))
    with cache.derive(digest, 3, lambda file: None if file.write(b"abc") else None) as made:
        assert made.path.read_bytes() == b"abc"


def test_what_is_mapped_stays_and_what_nobody_uses_goes(tmp_path: Path, store: Store) -> None:
    cache = ModelCache(tmp_path / "cache", 3 * SIZE)
    digest = store(cache, bytes(SIZE)).digest
    with cache.derive(digest, SIZE, write_made) as made:
        mapping = mmap.mmap(made.fileno(), SIZE, access=mmap.ACCESS_COPY)
    with pytest.raises(CacheUnavailable, match="wait for a session to end"):
        store(cache, b"\1" * (2 * SIZE + 1))
    mapping.close()
    store(cache, b"\1" * (2 * SIZE + 1))
    assert cache.usage().models_nbytes == 2 * SIZE + 1


def test_it_goes_when_its_model_is_gone(tmp_path: Path, store: Store) -> None:
    cache = ModelCache(tmp_path / "cache", 3 * SIZE)
    with cache.derive(store(cache, bytes(SIZE)).digest, SIZE, write_made) as made:
        store(cache, b"\1" * (SIZE + 1))
        path = made.path
        assert path.exists()
    store(cache, b"\2")
    assert not path.exists()


def test_without_room_there_is_none_and_its_model_stays(tmp_path: Path, store: Store) -> None:
    cache = ModelCache(tmp_path / "cache", 2 * SIZE - 1)
    with cache.open(store(cache, bytes(SIZE)).digest) as model:
        with pytest.raises(CacheUnavailable, match=f"what is made of model {model.digest} needs 100,000 bytes"):
            cache.derive(model.digest, SIZE, write_made)
        assert os.listdir(tmp_path / "cache" / "derived") == []
