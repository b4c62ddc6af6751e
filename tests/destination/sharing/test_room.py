"""Room for one more session, in bytes."""

from __future__ import annotations

import pytest

from avec.destination.sharing.room import Limits, Tenant, admit, replay_nbytes, size
from avec.errors import DestinationFull

GB = 10**9
NONE = Limits()


def test_where_nothing_is_promised_nothing_limits() -> None:
    assert admit(0, "ann", [Tenant("bob", 0, 3 * GB)], 10 * GB, 0, NONE) is None


def test_what_is_declared_is_the_limit() -> None:
    assert admit(4 * GB, "ann", [], 10 * GB, 0, NONE) == 4 * GB


def test_what_others_were_promised_is_not_free_even_unused() -> None:
    others = [Tenant("bob", 6 * GB, 1 * GB), Tenant("eve", 0, 1 * GB)]
    assert admit(3 * GB, "ann", others, 10 * GB, 0, NONE) == 3 * GB
    with pytest.raises(DestinationFull, match=r"4 GB are needed, and 3 GB are free; 2 sessions hold 7 GB of .* 10 GB"):
        admit(4 * GB, "ann", others, 10 * GB, 0, NONE)


def test_who_declares_nothing_gets_no_more_than_is_not_promised() -> None:
    assert admit(0, "ann", [Tenant("bob", 6 * GB, 0)], 10 * GB, 0, NONE) == 4 * GB
    with pytest.raises(DestinationFull, match="a session needs some memory, and 0 bytes are free"):
        admit(0, "ann", [Tenant("bob", 10 * GB, 0)], 10 * GB, 0, NONE)


def test_contexts_are_counted() -> None:
    with pytest.raises(DestinationFull, match="9 GB are needed, and 8 GB are free"):
        admit(9 * GB, "ann", [Tenant("bob", 0, 0)], 10 * GB, GB, NONE)


def test_a_users_quota_is_for_all_his_sessions() -> None:
    limits = Limits(user_nbytes=5 * GB)
    others = [Tenant("ann", 3 * GB, 0), Tenant("bob", 1 * GB, 0)]
    assert admit(0, "ann", others, 10 * GB, 0, limits) == 2 * GB
    with pytest.raises(DestinationFull, match="3 GB are needed, and 2 GB are left of the 5 GB of ann"):
        admit(3 * GB, "ann", others, 10 * GB, 0, limits)


def test_a_session_gets_no_more_than_one_may_have() -> None:
    limits = Limits(session_nbytes=2 * GB)
    assert admit(0, "", [], 10 * GB, 0, limits) == 2 * GB
    with pytest.raises(DestinationFull, match="3 GB are needed, and 2 GB are allowed a session"):
        admit(3 * GB, "", [], 10 * GB, 0, limits)


@pytest.mark.parametrize("sessions", [1, 2, 5, 16])
def test_all_graphs_together_keep_within_their_part(sessions: int) -> None:
    each = replay_nbytes(10, 100 * GB, sessions, None)
    assert each * sessions <= 10 * GB < each * sessions + sessions
    assert replay_nbytes(10, 100 * GB, sessions, GB) <= GB // 10


def test_sizes_read_well() -> None:
    assert [size(each) for each in (0, 999, 1_500_000, 4 * GB, 2 * 10**12)] == [
        "0 bytes", "999 bytes", "1.5 MB", "4 GB", "2 TB",
    ]  # fmt: skip
