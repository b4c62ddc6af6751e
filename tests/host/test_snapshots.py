"""When a copy of the state is brought to the host, and that nobody else can read it there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from avec.host.snapshots import FIRST_S, FULL, SHARE, SMALL_NBYTES, Timing, room
from avec.tensor import TensorSpec


def test_snapshots_take_a_small_share_of_the_time() -> None:
    timing = Timing(100.0)
    assert not timing.is_due(100.0 + FIRST_S / 2, 0.1)
    assert timing.is_due(101.0 + FIRST_S, 0.1)
    timing.asked(111.0)
    assert not timing.is_due(1000.0, 0.1), "one is under way"
    timing.ended(114.0)
    assert not timing.is_due(114.0 + 3 * SHARE - 1, 0.1)
    assert timing.is_due(114.0 + 3 * SHARE + 1, 0.1)


def test_a_full_journal_does_not_wait_and_an_empty_one_needs_none() -> None:
    timing = Timing(0.0)
    assert timing.is_due(0.1, FULL + 0.01)
    assert not timing.is_due(1000.0, 0.0)


def test_a_snapshot_is_in_a_file_that_has_no_name(tmp_path: Path) -> None:
    memory = room(tmp_path / "snapshots", TensorSpec("uint8", (SMALL_NBYTES,)))
    memory[:] = 7
    assert os.listdir(tmp_path / "snapshots") == []
    assert (tmp_path / "snapshots").stat().st_mode & 0o777 == 0o700
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{tmp_path}/snapshots/" in line]
    assert len(mapped) == 1
    assert "(deleted)" in mapped[0]
    assert memory.dtype == np.uint8
    assert memory.flags.writeable


def test_no_room_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:
        room(tmp_path, TensorSpec("uint8", (1 << 60,)))
    assert raised.value.errno in (errno.ENOSPC, errno.EFBIG, errno.EINVAL)
    assert os.listdir(tmp_path) == []
