"""What a server believes of the connections that it has let in."""

from __future__ import annotations

import contextlib

import pytest

from avec.destination.audit import Line
from avec.destination.guests import Guest
from avec.destination.sharing.board import new_board

GB = 10**9


@pytest.mark.parametrize(
    ("shown_nbytes", "limit_nbytes", "believed_nbytes"),
    [(GB, 2 * GB, GB), (1 << 63, 2 * GB, 2 * GB), (GB, None, GB), (1 << 63, None, 10 * GB)],
)
def test_a_worker_holds_no_more_than_it_can_whatever_it_shows(
    shown_nbytes: int, limit_nbytes: int | None, believed_nbytes: int
) -> None:
    guest = Guest(Line("", 0.0, "", "127.0.0.1", "session", "", "left"), limit_nbytes=limit_nbytes)
    with new_board() as (guest.board, _), contextlib.closing(guest):
        guest.board["memory_nbytes"] = shown_nbytes
        assert guest.holds_nbytes(10 * GB) == believed_nbytes
