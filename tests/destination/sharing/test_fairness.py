"""Who is next on an accelerator: properties of the queue, for any weights, lengths of turns and comings and goings."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from avec.destination.sharing.fairness import PATIENCE_S, FairQueue

SECONDS = st.floats(0.002, 0.05)
USERS = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0, 3.0, 8.0]), SECONDS), min_size=2, max_size=6)


def used_by(queue: FairQueue, lengths: dict[str, float], until_s: float) -> dict[str, float]:
    """Have those sessions always want the accelerator; how long each has had it."""
    used: dict[str, float] = defaultdict(float)
    now_s = 0.0
    for session in lengths:
        queue.ask(session, now_s)
    while now_s < until_s and (session := queue.next(now_s)) is not None:
        now_s += lengths[session]
        used[session] += lengths[session]
        queue.charge(session, lengths[session])
        queue.end(session, now_s)
        queue.ask(session, now_s)
    return used


@settings(deadline=None, max_examples=60)
@given(USERS, st.floats(0.0, 3.0))
def test_who_always_wants_it_has_it_by_weight(users: list[tuple[float, float]], until_s: float) -> None:
    """At any moment what two have had, by weight, differs by no more than their longest turns: SFQ's theorem 1."""
    queue = FairQueue()
    for place, (weight, _) in enumerate(users):
        queue.enter(str(place), f"user {place}", weight)
    used = used_by(queue, {str(place): seconds for place, (_, seconds) in enumerate(users)}, until_s)
    for (one, (weight, seconds)), (other, (others, its)) in combinations(enumerate(users), 2):
        difference = abs(used[str(one)] / weight - used[str(other)] / others)
        assert difference <= seconds / weight + its / others + 1e-9


@settings(deadline=None, max_examples=60)
@given(USERS)
def test_shares_are_within_a_tenth_of_weights_soon(users: list[tuple[float, float]]) -> None:
    queue = FairQueue()
    for place, (weight, _) in enumerate(users):
        queue.enter(str(place), f"user {place}", weight)
    total = sum(weight for weight, _ in users)
    # So long that the turn that may be too much is a twentieth of the smallest part.
    until_s = max(40 * seconds * total / weight for weight, _ in users for _, seconds in users)
    used = used_by(queue, {str(place): seconds for place, (_, seconds) in enumerate(users)}, until_s)
    for place, (weight, _) in enumerate(users):
        share = used[str(place)] / sum(used.values())
        assert abs(share - weight / total) <= 0.1 * weight / total


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_a_user_gets_no_more_by_opening_more_sessions(sessions: list[int]) -> None:
    queue = FairQueue()
    lengths = {}
    for user, count in enumerate(sessions):
        for place in range(count):
            queue.enter(f"{user}.{place}", str(user))
            lengths[f"{user}.{place}"] = 0.01
    used = used_by(queue, lengths, 10.0)
    for user, count in enumerate(sessions):
        of_user = [used[f"{user}.{place}"] for place in range(count)]
        assert abs(sum(of_user) - 10.0 / len(sessions)) <= 0.1
        assert max(of_user) - min(of_user) <= 0.05


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), SECONDS), max_size=200),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([-1, 0, 1]), min_size=4, max_size=4),
)
def test_nobody_starves_whoever_comes_and_goes(
    steps: list[tuple[str, bool, float]], priorities: dict[str, int]
) -> None:
    """Whoever waits has had a turn when the others' debts of then are worked off, and his patience is over."""
    queue = FairQueue()
    now_s, idle, since_s = 0.0, set("abcd"), {}
    for session, priority in sorted(priorities.items()):
        queue.enter(session, session, 1.0, priority)
    for session, comes, seconds in steps:
        if comes and session in idle:
            idle.discard(session)
            since_s[session] = now_s
            queue.ask(session, now_s)
        elif (chosen := queue.next(now_s)) is not None:
            now_s += seconds
            queue.charge(chosen, seconds)
            queue.end(chosen, now_s)
            idle.add(chosen)
            # Four sessions with turns of at most 50 ms: a round is 200 ms, and debts are one turn.
            assert now_s - since_s[chosen] <= PATIENCE_S + 4 * 4 * 0.05
    assert queue.waiting == 4 - len(idle)


def test_a_higher_priority_goes_first_but_not_for_ever() -> None:
    queue = FairQueue()
    queue.enter("high", "ann", priority=1)
    queue.enter("low", "bob", priority=-1)
    queue.ask("low", 0.0)
    turns, now_s = [], 0.0
    while now_s < 3 * PATIENCE_S:
        queue.ask("high", now_s)
        session = queue.next(now_s)
        assert session is not None
        turns.append(session)
        now_s += 0.1
        queue.charge(session, 0.1)
        queue.end(session, now_s)
        if session == "low":
            queue.ask("low", now_s)
            assert queue.next(now_s) == "high"
            queue.charge("high", 0.1)
            queue.end("high", now_s)
            now_s += 0.1
    assert 2 <= turns.count("low") <= 3


def test_who_was_idle_has_saved_nothing_up() -> None:
    queue = FairQueue()
    queue.enter("busy", "ann")
    queue.enter("idle", "bob")
    used_by(queue, {"busy": 0.01}, 10.0)
    queue.ask("idle", 10.0)
    turns = []
    for _ in range(10):
        session = queue.next(10.0)
        assert session is not None
        turns.append(session)
        queue.charge(session, 0.01)
        queue.end(session, 10.0)
        queue.ask(session, 10.0)
    assert turns.count("idle") <= 6  # one more, since it begins where the last turn began


def test_a_long_turn_is_paid_back() -> None:
    queue = FairQueue()
    queue.enter("long", "ann")
    queue.enter("short", "bob")
    queue.ask("long", 0.0)
    assert queue.next(0.0) == "long"
    queue.ask("short", 0.0)
    queue.charge("long", 0.1)
    queue.end("long", 0.1)
    queue.ask("long", 0.1)
    turns = []
    for _ in range(11):
        session = queue.next(0.1)
        assert session is not None
        turns.append(session)
        queue.charge(session, 0.01)
        queue.end(session, 0.1)
        queue.ask(session, 0.1)
    assert turns[:10] == ["short"] * 10


def test_what_was_used_alone_is_held_against_nobody() -> None:
    queue = FairQueue()
    queue.enter("first", "ann")
    queue.enter("second", "bob")
    queue.ask("first", 0.0)
    assert queue.next(0.0) == "first"
    queue.charge("first", 60.0)
    queue.catch_up_with("first")
    queue.ask("second", 60.0)
    queue.end("first", 60.0)
    queue.ask("first", 60.0)
    turns = []
    for _ in range(4):
        session = queue.next(60.0)
        assert session is not None
        turns.append(session)
        queue.charge(session, 0.01)
        queue.end(session, 60.0)
        queue.ask(session, 60.0)
    assert turns == ["second", "first", "second", "first"]


def test_a_user_is_forgotten_with_his_last_session() -> None:
    queue = FairQueue()
    queue.enter("1", "ann")
    queue.enter("2", "ann")
    queue.leave("1")
    queue.ask("2", 0.0)
    queue.leave("2")
    assert queue.next(0.0) is None
    assert queue.waiting == 0


def test_who_looks_at_each_result_before_he_goes_on_has_his_part() -> None:
    """His host is away for 3 ms after each turn of 10 ms, while another's turn begins."""
    queue = FairQueue()
    queue.enter("looks", "ann", weight=2.0)
    for name in ("bob", "eve"):
        queue.enter(name, name)
        queue.ask(name, 0.0)
    queue.ask("looks", 0.0)
    used: dict[str, float] = defaultdict(float)
    now_s, back_s = 0.0, 0.0
    while now_s < 10.0:
        session = queue.next(now_s)
        assert session is not None
        ended_s = now_s + 0.01
        if now_s < back_s <= ended_s:
            queue.ask("looks", back_s)
        now_s = ended_s
        used[session] += 0.01
        queue.charge(session, 0.01)
        queue.end(session, now_s)
        if session == "looks":
            back_s = now_s + 0.003
        else:
            queue.ask(session, now_s)
    assert used["looks"] > 0.45 * now_s
