"""Many processes at one cache, and processes that die in the middle."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from avec.errors import CacheUnavailable
from avec.modelcache import Manifest, ModelCache, manifest_of_bytes
from avec.protocol.codec import CHUNK_NBYTES

Store = Callable[[ModelCache, bytes], Manifest]
SIZE = 100_000

PRELUDE = """
import os, random, signal, sys
from pathlib import Path
import numpy as np
from avec.errors import CacheUnavailable
from avec.modelcache import ModelCache, manifest_of_bytes
from avec.protocol.codec import CHUNK_NBYTES

cache = ModelCache(Path(sys.argv[1]), int(sys.argv[2]))

def data_of(seed, nbytes):
    return np.random.default_rng(seed).bytes(nbytes)

def upload_all(data, written=lambda: None):
    with cache.upload(manifest_of_bytes(data)) as upload:
        for start, stop in upload.missing:
            for index in range(start, stop):
                upload.write(index, data[index * CHUNK_NBYTES : (index + 1) * CHUNK_NBYTES])
                written()
        upload.finish()

def say(word):
    print(word, flush=True)
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first word, killed with -9 at the end."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def whole_models(path: Path) -> int:
    """Verify every model that is to be seen, with a memory of its own; count them."""
    cache = ModelCache(path, 1 << 40)
    digests = os.listdir(path / "models")
    for digest in digests:
        cache.open(digest).close()
    return len(digests)


PIN = "pinned = cache.pin(sys.argv[3]); say('ready'); signal.pause()"


def test_a_model_in_use_by_another_process_stays_until_that_is_killed(tmp_path: Path, store: Store) -> None:
    cache = ModelCache(tmp_path / "cache", SIZE)
    first, second = bytes(SIZE), b"\1" * SIZE
    digest = store(cache, first).digest
    with process(PIN, tmp_path / "cache", SIZE, digest):
        try:
            store(cache, second)
        except CacheUnavailable as exc:
            assert "wait for a session to end" in str(exc)
        else:
            raise AssertionError("a model in use was removed")
        assert cache.missing(manifest_of_bytes(first)) == ()
    store(cache, second)
    assert cache.missing(manifest_of_bytes(first)) == ((0, 1),)


UPLOAD_BUSY = "upload = cache.upload(manifest_of_bytes(data_of(0, 10 * 1000))); say('ready'); signal.pause()"


def test_an_upload_of_another_process_stays_until_that_is_killed(tmp_path: Path, store: Store) -> None:
    cache = ModelCache(tmp_path / "cache", 15_000)
    with process(UPLOAD_BUSY, tmp_path / "cache", 15_000):
        try:
            store(cache, bytes(10_000))
        except CacheUnavailable:
            assert cache.usage().partials == 1
        else:
            raise AssertionError("an upload under way was removed")
    store(cache, bytes(10_000))
    assert (cache.usage().models, cache.usage().partials) == (1, 0)


KILLED_AFTER_ONE_CHUNK = """
say('ready')
upload_all(data_of(7, 2 * CHUNK_NBYTES + 5), written=lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_an_upload_resumes_after_kill_9(tmp_path: Path, store: Store, make: Callable[[int, int], bytes]) -> None:
    cache = ModelCache(tmp_path / "cache", 1 << 30)
    data = make(2 * CHUNK_NBYTES + 5, 7)
    with process(KILLED_AFTER_ONE_CHUNK, tmp_path / "cache", 1 << 30) as uploading:
        assert uploading.wait(30) == -signal.SIGKILL
    assert cache.missing(manifest_of_bytes(data)) == ((1, 3),)
    digest = store(cache, data).digest
    with cache.open(digest) as model:
        assert model.path.read_bytes() == data


UPLOAD_FOREVER = """
say('ready')
for seed in range(int(sys.argv[3]), 1_000_000):
    upload_all(data_of(seed % 3, CHUNK_NBYTES + 5))
    upload_all(data_of(seed, 50_000))
"""


def test_kill_9_at_any_moment_leaves_only_whole_models(tmp_path: Path, store: Store, large: bytes) -> None:
    path, limit = tmp_path / "cache", 2 * CHUNK_NBYTES + 300_000
    moment = random.Random(20)
    seen = 0
    for round_ in range(8):
        with process(UPLOAD_FOREVER, path, limit, 1000 * round_):
            time.sleep(moment.uniform(0, 0.15))  # chooses the moment; nothing is waited for
        seen += whole_models(path)
        assert ModelCache(path, limit).usage().models_nbytes <= limit
    assert seen > 0
    cache = ModelCache(path, limit)
    with cache.open(store(cache, large[: CHUNK_NBYTES + 1]).digest) as model:
        assert model.path.read_bytes() == large[: CHUNK_NBYTES + 1]


CROWD = """
chance = random.Random(int(sys.argv[3]))
say('ready')
for step in range(40):
    data = data_of(chance.randrange(6), 100_000)
    digest = manifest_of_bytes(data).digest
    try:
        match chance.choice(('upload', 'open')):
            case 'upload':
                upload_all(data)
            case 'open':
                with cache.open(digest) as model:
                    assert model.path.read_bytes() == data
    except CacheUnavailable as exc:
        # What a crowd may see, and nothing else: no room, or a model that was never there or had to go.
        assert 'wait for a session' in str(exc) or 'is not in the model cache' in str(exc), str(exc)
    usage = cache.usage()
    assert usage.models_nbytes + usage.partials_nbytes <= usage.limit_nbytes, usage
say('done')
"""


def test_a_crowd_of_processes_reads_right_bytes_and_keeps_the_bound(tmp_path: Path) -> None:
    path, limit = tmp_path / "cache", 6 * SIZE
    command = [sys.executable, "-c", PRELUDE + CROWD, path, str(limit)]
    crowd = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in range(4)
    ]
    outputs = [member.communicate(timeout=60) for member in crowd]
    assert outputs == [("ready\ndone\n", "")] * 4
    assert whole_models(path) == ModelCache(path, limit).usage().models > 0


DERIVED = b"\2" * SIZE


def write_derived(file: BinaryIO) -> None:
    file.write(DERIVED)


DERIVING = """
def write(file):
    for _ in range(10):
        file.write(bytes([2]) * 10_000)
        file.flush()
upload_all(bytes(5))
digest = manifest_of_bytes(bytes(5)).digest
say('ready')
"""

DERIVE_FOREVER = """
while True:
    cache.discard_derived(cache.derive(digest, 100_000, write))
"""


def test_kill_9_at_any_moment_leaves_it_whole_or_not_at_all(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "cache"
    cache = ModelCache(path, 4 * SIZE)
    digest = store(cache, bytes(5)).digest
    moment = random.Random(5)
    for _ in range(8):
        with process(DERIVING + DERIVE_FOREVER, path, 4 * SIZE):
            time.sleep(moment.uniform(0, 0.05))  # chooses the moment; nothing is waited for
        derived = path / "derived" / digest
        assert not derived.exists() or derived.read_bytes() == DERIVED
        cache.derive(digest, SIZE, write_derived).close()
        store(cache, b"\1")
        assert os.listdir(path / "derived") == [digest]


KILLED_WHILE_WRITING = """
say('ready')
upload_all(bytes(5))
cache.derive(manifest_of_bytes(bytes(5)).digest, 100_000, lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_what_a_killed_process_was_making_is_removed(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "cache"
    with process(KILLED_WHILE_WRITING, path, 2 * SIZE) as making:
        assert making.wait(30) == -signal.SIGKILL
    assert len(os.listdir(path / "derived")) == 1
    cache = ModelCache(path, 2 * SIZE)
    store(cache, bytes(6))
    assert os.listdir(path / "derived") == []


DERIVING_CROWD = """
for step in range(60):
    made = cache.derive(digest, 100_000, write)
    assert os.pread(made.fileno(), 100_001, 0) == bytes([2]) * 100_000
    cache.discard_derived(made) if step % 7 == 0 else made.close()
say('done')
"""


def test_many_processes_at_once_see_it_whole(tmp_path: Path) -> None:
    with (
        process(DERIVING + DERIVING_CROWD, tmp_path / "cache", 1 << 30) as one,
        process(DERIVING + DERIVING_CROWD, tmp_path / "cache", 1 << 30) as other,
    ):
        for each in (one, other):
            assert each.stdout is not None
            assert (each.stdout.read(), each.wait(30)) == ("done\n", 0)
