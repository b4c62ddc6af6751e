"""What round trips tell of a link, by numbers alone."""

from __future__ import annotations

from avec.communication.link import RATE_LIMIT, WINDOW, Goodput, Link
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


MB = 1_000_000


def test_goodput_is_not_known_before_a_transfer_and_not_from_small_ones() -> None:
    goodput = Goodput()
    goodput.observe(1000, began_ns=0, ended_ns=1000, delay_ns=0)
    assert (goodput.rate, goodput.transfers) == (0.0, 0)


def test_the_way_itself_is_no_part_of_a_transfer() -> None:
    goodput = Goodput()
    goodput.observe(MB, began_ns=0, ended_ns=15_000_000, delay_ns=5_000_000)
    assert goodput.rate == 1e8


def test_a_transfer_that_waits_for_another_takes_what_is_left() -> None:
    goodput = Goodput()
    for index in range(1, 5):
        goodput.observe(MB, began_ns=0, ended_ns=10_000_000 * index, delay_ns=0)
    assert (goodput.rate, goodput.transfers) == (1e8, 4)


def test_of_the_recent_transfers_the_fastest_counts() -> None:
    goodput = Goodput()
    for index in range(WINDOW + 1):
        began_ns = index * 10**9
        goodput.observe(MB, began_ns, began_ns + (1_000_000 if index == 0 else 10_000_000 + index), delay_ns=0)
    assert 0.99e8 < goodput.rate < 1e8


def test_clocks_that_disagree_give_no_rate_beyond_all_links() -> None:
    goodput = Goodput()
    goodput.observe(MB, began_ns=1000, ended_ns=10, delay_ns=0)
    assert goodput.rate == RATE_LIMIT
