"""Models to store, and a cache to store them in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from avec.modelcache import Manifest, ModelCache, manifest_of_bytes
from avec.protocol.codec import CHUNK_NBYTES

Store = Callable[[ModelCache, bytes], Manifest]


def random_bytes(nbytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(nbytes)


@pytest.fixture(scope="session")
def large() -> bytes:
    """A model of three chunks, the last one short."""
    return random_bytes(2 * CHUNK_NBYTES + 12345)


@pytest.fixture
def make() -> Callable[[int, int], bytes]:
    """Random bytes by size and seed."""
    return random_bytes


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def store() -> Store:
    """Upload a whole model."""

    def upload_all(cache: ModelCache, data: bytes) -> Manifest:
        manifest = manifest_of_bytes(data)
        with cache.upload(manifest) as upload:
            for start, stop in upload.missing:
                for index in range(start, stop):
                    upload.write(index, data[index * CHUNK_NBYTES : (index + 1) * CHUNK_NBYTES])
            upload.finish()
        return manifest

    return upload_all


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """No test leaves a thread or a descriptor behind."""
    threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
    yield
    assert threading.active_count() == threads
    assert len(os.listdir("/dev/fd")) == descriptors
