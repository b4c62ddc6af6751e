"""Whose strangers have to make room."""

from __future__ import annotations

from typing import cast

import pytest

from avec.destination.stranger import Stranger
from avec.destination.subscribers import subscriber_at
from avec.destination.waiting_room import STRANGER_COUNT_LIMIT, SUBSCRIBER_COUNT_LIMIT, WaitingRoom


class From:
    """A stranger of whom only the subscriber matters."""

    deadline_s = 0.0

    def __init__(self, subscriber: str) -> None:
        self.subscriber = subscriber


def enter(room: WaitingRoom, subscriber: str) -> tuple[Stranger, Stranger | None]:
    """Let one wait; it, and who has left for it."""
    stranger = cast(Stranger, From(subscriber))
    if (leaving := room.enter(stranger)) is not None:
        room.leave(leaving)
    return stranger, leaving


@pytest.mark.parametrize(
    ("peer", "subscriber"),
    [
        ("192.0.2.1:7", "192.0.2.1"),
        ("2001:db8::1:7", "2001:db8::/64"),
        ("2001:db8::ffff:7", "2001:db8::/64"),
        ("2001:db8:0:1::1:7", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1:7", "192.0.2.1"),
        ("fe80::1%eth0:7", "fe80::/64"),
    ],
)
def test_one_subscribers_many_ipv6_addresses_are_one(peer: str, subscriber: str) -> None:
    assert subscriber_at(peer) == subscriber


def test_who_has_all_his_places_makes_room_for_himself() -> None:
    room = WaitingRoom()
    other, _ = enter(room, "other")
    first, _ = enter(room, "one")
    entered = [enter(room, "one") for _ in range(SUBSCRIBER_COUNT_LIMIT)]
    assert [leaving for _, leaving in entered] == [None] * (SUBSCRIBER_COUNT_LIMIT - 1) + [first]
    assert other in room
    assert len(room) == SUBSCRIBER_COUNT_LIMIT + 1


def test_where_all_places_are_taken_the_oldest_of_who_has_most_makes_room() -> None:
    room = WaitingRoom()
    enter(room, "few")
    most = [enter(room, "most")[0] for _ in range(10)]
    while len(room) < STRANGER_COUNT_LIMIT:
        enter(room, f"{len(room) // 9} others")
    assert [enter(room, "another")[1] for _ in range(2)] == most[:2]


def test_where_each_has_one_place_the_oldest_makes_room() -> None:
    room = WaitingRoom()
    first, second, *_ = [enter(room, str(number))[0] for number in range(STRANGER_COUNT_LIMIT)]
    assert [enter(room, name)[1] for name in ("a", "b")] == [first, second]
