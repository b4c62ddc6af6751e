"""What round trips tell of a link, by numbers alone."""

from __future__ import annotations

from avec.communication.link import WINDOW, Link
from avec.protocol.messages import Pong


def test_nothing_is_known_before_the_first_sample() -> None:
    assert (Link().round_trip_ns, Link().offset_ns) == (0, 0)


def test_the_answerers_own_time_is_no_part_of_the_round_trip() -> None:
    link = Link()
    link.observe(Pong(sent_ns=1000, received_ns=1010, answered_ns=1510), now_ns=1520)
    assert link.round_trip_ns == 20


def test_the_offset_is_what_the_peers_clock_is_ahead() -> None:
    link = Link()
    link.observe(Pong(sent_ns=1000, received_ns=501_010, answered_ns=501_020), now_ns=1030)
    assert link.offset_ns == 500_000


def test_the_offset_may_be_negative() -> None:
    link = Link()
    link.observe(Pong(sent_ns=900_000, received_ns=10, answered_ns=20), now_ns=900_030)
    assert link.offset_ns == -900_000


def test_an_asymmetric_path_is_off_by_half_of_the_difference() -> None:
    link = Link()
    link.observe(Pong(sent_ns=0, received_ns=30, answered_ns=30), now_ns=40)  # 30 there, 10 back, equal clocks
    assert link.offset_ns == 10


def test_the_quickest_sample_counts_for_both() -> None:
    link = Link()
    link.observe(Pong(sent_ns=0, received_ns=100, answered_ns=100), now_ns=110)
    link.observe(Pong(sent_ns=1000, received_ns=1005, answered_ns=1005), now_ns=1010)
    link.observe(Pong(sent_ns=2000, received_ns=2005, answered_ns=2005), now_ns=2910)
    assert (link.round_trip_ns, link.offset_ns) == (10, 0)


def test_an_old_sample_is_forgotten() -> None:
    link = Link()
    link.observe(Pong(sent_ns=0, received_ns=1, answered_ns=1), now_ns=2)
    for _ in range(WINDOW):
        link.observe(Pong(sent_ns=0, received_ns=50, answered_ns=50), now_ns=100)
    assert link.round_trip_ns == 100
