"""Files with secrets: nobody else reads them, and what others could have read is not believed."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from avec import private_files
from avec.errors import ConfigurationError


def test_what_is_written_is_read_and_only_its_owner_can(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    old_mask = os.umask(0)
    try:
        private_files.write(path, b"x")
    finally:
        os.umask(old_mask)
    assert private_files.read(path) == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_file_is_none(tmp_path: Path) -> None:
    assert private_files.read(tmp_path / "none") is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_can_read_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"others can read the secrets in .* mode {mode:04o}.*chmod 600"):
        private_files.read(path)


def test_a_link_is_not_followed_in_reading(tmp_path: Path) -> None:
    private_files.write(tmp_path / "target", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigurationError, match="it is a symbolic link"):
        private_files.read(tmp_path / "link")


def test_a_link_is_replaced_in_writing_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    private_files.write(tmp_path / "link", b"x")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert private_files.read(tmp_path / "link") == b"x"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigurationError, match="it is no file"):
        private_files.read(tmp_path / "pipe")


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others could replace the secrets"):
        private_files.write(folder / "secret", b"x")
    assert os.listdir(folder) == []


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    private_files.write(path, bytes(private_files.SIZE_LIMIT + 1))
    with pytest.raises(ConfigurationError, match="more than 4,194,304 bytes"):
        private_files.read(path)


def test_changes_of_many_do_not_lose_one_another(tmp_path: Path) -> None:
    path = tmp_path / "count"

    def add(_: int) -> None:
        with private_files.changing(path):
            private_files.write(path, (private_files.read(path) or b"") + b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(50)))
    assert private_files.read(path) == b"x" * 50
