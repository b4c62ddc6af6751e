"""LMDB databases are read in the order of their keys, around and around, by several readers at a time."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb
import pytest

from avec.errors import InvalidData
from avec.formats.lmdb import Records
from goldens.data_goldens import FILES


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = str(tmp_path / "some.lmdb")
    with lmdb.open(path, map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key in (b"b", b"a", b"c\xff"):
            transaction.put(key, key * 3000)
    return path


def test_records_come_in_the_order_of_their_keys_around_and_around(database: str) -> None:
    with Records(database) as records:
        found = []
        for _ in range(5):
            key, value = records.record()
            found.append(key)
            assert bytes(value) == key * 3000
            records.advance()
    assert found == [b"a", b"b", b"c\xff", b"a", b"b"]


def test_readers_of_one_database_do_not_disturb_one_another(database: str) -> None:
    with Records(database) as first:
        first.advance()
        with Records(database) as second:
            assert (first.record()[0], second.record()[0]) == (b"b", b"a")
        first.advance()
        assert first.record()[0] == b"c\xff"


def test_the_last_reader_closes_the_database(database: str) -> None:
    first, second = Records(database), Records(database)
    first.close()
    with pytest.raises(lmdb.Error, match="already open"):
        lmdb.open(database)
    second.close()
    second.close()
    lmdb.open(database).close()


def test_a_database_too_large_to_be_walked_is_held_to_its_size(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avec.formats.lmdb.CHECKED_NBYTES", 0)
    os.truncate(f"{database}/data.mdb", 3 * 4096)
    with pytest.raises(InvalidData, match="data.mdb has 12288 bytes of 28672: it is truncated"):
        Records(database)


@pytest.mark.parametrize("page", range(3))
def test_damage_anywhere_is_an_error_and_never_the_end_of_the_process(page: int, tmp_path: Path) -> None:
    whole = (FILES / "pixels.lmdb" / "data.mdb").read_bytes()
    for offset in range(page * 4096, page * 4096 + 64):
        damaged = bytearray(whole)
        damaged[offset] ^= 0xFF
        path = tmp_path / f"{offset}.lmdb"
        path.mkdir()
        (path / "data.mdb").write_bytes(damaged)
        try:
            with Records(str(path)) as records:
                for _ in range(8):
                    records.record()
                    records.advance()
        except InvalidData as exc:
            assert str(exc).startswith(f"{path}: ")
