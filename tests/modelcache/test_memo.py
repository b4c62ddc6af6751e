"""The host's memory of digests: right always, fast when nothing changed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from avec.modelcache import DigestMemo, Manifest, manifest_of_bytes, memo


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(b"version 1")
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the test were written long ago by the memo's clock."""
    now = time.time_ns
    monkeypatch.setattr(memo.time, "time_ns", lambda: now() + memo.SETTLED_NS)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed."""
    paths: list[str] = []
    really = memo.manifest_of_file

    def recorded(path: str | os.PathLike[str]) -> Manifest:
        paths.append(os.path.basename(path))
        return really(path)

    monkeypatch.setattr(memo, "manifest_of_file", recorded)
    return paths


@pytest.mark.usefixtures("later")
def test_a_warm_start_hashes_nothing(tmp_path: Path, path: Path, hashed: list[str]) -> None:
    cold = DigestMemo(tmp_path / "memo").manifest_of(path)
    warm = DigestMemo(tmp_path / "memo").manifest_of(os.path.relpath(path))
    assert cold == warm == manifest_of_bytes(b"version 1")
    assert hashed == ["model"]


@pytest.mark.usefixtures("later")
def test_a_changed_file_of_the_same_size_and_time_is_hashed_again(tmp_path: Path, path: Path) -> None:
    DigestMemo(tmp_path / "memo").manifest_of(path)
    before = path.stat()
    path.write_bytes(b"version 2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert DigestMemo(tmp_path / "memo").manifest_of(path) == manifest_of_bytes(b"version 2")


@pytest.mark.usefixtures("later")
def test_a_replaced_file_of_the_same_size_and_time_is_hashed_again(tmp_path: Path, path: Path) -> None:
    DigestMemo(tmp_path / "memo").manifest_of(path)
    other = tmp_path / "other"
    other.write_bytes(b"version 2")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert DigestMemo(tmp_path / "memo").manifest_of(path) == manifest_of_bytes(b"version 2")


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path: Path, path: Path, hashed: list[str]) -> None:
    for _ in range(2):
        DigestMemo(tmp_path / "memo").manifest_of(path)
    assert hashed == ["model", "model"]


@pytest.mark.usefixtures("later")
def test_a_file_dated_in_the_future_is_not_remembered(tmp_path: Path, path: Path, hashed: list[str]) -> None:
    tomorrow = time.time() + 24 * 3600
    os.utime(path, (tomorrow, tomorrow))
    for _ in range(2):
        DigestMemo(tmp_path / "memo").manifest_of(path)
    assert hashed == ["model", "model"]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", [b"", b"{", b'{"identity":[1,2,3,4,5]}', b"\xff" * 100])
def test_a_damaged_memo_is_replaced(tmp_path: Path, path: Path, hashed: list[str], damage: bytes) -> None:
    DigestMemo(tmp_path / "memo").manifest_of(path)
    (remembered,) = (tmp_path / "memo").iterdir()
    remembered.write_bytes(damage)
    for _ in range(2):
        assert DigestMemo(tmp_path / "memo").manifest_of(path) == manifest_of_bytes(b"version 1")
    assert hashed == ["model", "model"]


@pytest.mark.usefixtures("later")
def test_a_memo_whose_digests_disagree_is_not_believed(tmp_path: Path, path: Path) -> None:
    DigestMemo(tmp_path / "memo").manifest_of(path)
    (remembered,) = (tmp_path / "memo").iterdir()
    right, wrong = manifest_of_bytes(b"version 1").digest, manifest_of_bytes(b"version 2").digest
    remembered.write_text(remembered.read_text().replace(right, wrong))
    assert DigestMemo(tmp_path / "memo").manifest_of(path).digest == right


@pytest.mark.usefixtures("later")
def test_a_memo_that_cannot_be_written_costs_only_time(tmp_path: Path, path: Path, hashed: list[str]) -> None:
    (tmp_path / "memo").write_text("not a folder")
    for _ in range(2):
        assert DigestMemo(tmp_path / "memo").manifest_of(path) == manifest_of_bytes(b"version 1")
    assert hashed == ["model", "model"]


@pytest.mark.usefixtures("later")
def test_the_memo_is_bounded_and_forgets_the_oldest(tmp_path: Path, hashed: list[str]) -> None:
    memory = DigestMemo(tmp_path / "memo", limit=3)
    paths = [tmp_path / f"model-{number}" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
        memory.manifest_of(path)
        for remembered in (tmp_path / "memo").iterdir():  # age them: the clock of a file system is coarse
            aged = remembered.stat().st_mtime_ns - 1_000_000_000
            os.utime(remembered, ns=(aged, aged))
    assert len(list((tmp_path / "memo").iterdir())) == 3
    hashed.clear()
    for path in paths[2:]:
        memory.manifest_of(path)
    assert hashed == []


@pytest.mark.usefixtures("later")
def test_writers_at_the_same_time_leave_a_memo_that_is_right(tmp_path: Path, hashed: list[str]) -> None:
    paths = [tmp_path / f"model-{number}" for number in range(8)]
    for path in paths:
        path.write_bytes(path.name.encode())
    start = threading.Barrier(4)

    def remember_all() -> None:
        start.wait()
        for path in paths:
            DigestMemo(tmp_path / "memo").manifest_of(path)

    threads = [threading.Thread(target=remember_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hashed.clear()
    found = [DigestMemo(tmp_path / "memo").manifest_of(path) for path in paths]
    assert found == [manifest_of_bytes(path.name.encode()) for path in paths]
    assert hashed == []
    assert len(list((tmp_path / "memo").iterdir())) == len(paths)
