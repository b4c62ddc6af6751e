"""Which calls a journal keeps: those without which the state would be another."""

from __future__ import annotations

import random

import pytest

from avec.host.journal import CHANGES, READS, Effect, Entry, Journal

NET, OTHER = 1, 2


def entry(name: str, effect: Effect, handles: tuple[int, ...] = (NET,), nbytes: int = 10) -> Entry:
    return Entry(handles, effect, (bytes(nbytes),), name)


def names(journal: Journal) -> list[str]:
    return [each.name for each in journal.needed()]


def sets(*things: str, reads: tuple[str, ...] | None = (), handle: int = NET) -> Effect:
    read = None if reads is None else frozenset((handle, each) for each in reads)
    return Effect(frozenset((handle, each) for each in things), read)


@pytest.fixture
def journal() -> Journal:
    return Journal(1000, 1_000_000)


def test_a_pass_makes_the_one_before_needless_and_not_what_it_reads(journal: Journal) -> None:
    journal.add(entry("load", CHANGES))
    journal.add(entry("scale", sets("scale")))
    for number in range(100):
        journal.add(entry(f"input {number}", sets("input")))
        journal.add(entry(f"pass {number}", sets("pass", reads=("input", "scale"))))
    assert names(journal) == ["load", "scale", "input 99", "pass 99"]


def test_what_was_read_by_a_change_of_anything_stays(journal: Journal) -> None:
    journal.add(entry("input 1", sets("input")))
    journal.add(entry("step", CHANGES))
    journal.add(entry("input 2", sets("input")))
    journal.add(entry("input 3", sets("input")))
    assert names(journal) == ["input 1", "step", "input 3"]


def test_a_change_of_anything_on_one_handle_leaves_others_alone(journal: Journal) -> None:
    journal.add(entry("input 1", sets("input")))
    journal.add(entry("step", CHANGES, (OTHER,)))
    journal.add(entry("input 2", sets("input")))
    assert names(journal) == ["step", "input 2"]


def test_calls_that_read_are_not_kept_and_what_they_drop_is_forgotten(journal: Journal) -> None:
    journal.add(entry("make", sets("value")))
    journal.add(entry("read", READS))
    assert names(journal) == ["make"]
    journal.add(entry("read again", Effect(drops=frozenset({(NET, "value")}))))
    assert names(journal) == []


def test_a_released_handle_is_forgotten_unless_others_came_from_it(journal: Journal) -> None:
    journal.add(entry("load", CHANGES))
    journal.add(entry("load other", CHANGES, (OTHER,)))
    journal.release(NET)
    assert names(journal) == ["load other"]
    assert journal.released == ()
    journal.add(entry("load third", CHANGES, (3,)))
    journal.add(entry("share", CHANGES, (OTHER, 3)))
    journal.release(3)
    assert names(journal) == ["load other", "load third", "share"]
    assert journal.released == (3,)
    journal.release(OTHER)
    assert names(journal) == []
    assert journal.released == ()


def test_what_another_handle_has_taken_over_stays_when_the_first_is_released(journal: Journal) -> None:
    journal.add(entry("load", sets("model")))
    journal.add(entry("write", sets("weights")))
    journal.add(entry("load other", CHANGES, (OTHER,)))
    journal.add(entry("share", CHANGES, (OTHER, NET)))
    journal.add(entry("write again", sets("weights")))
    journal.release(NET)
    assert names(journal) == ["load", "write", "load other", "share"]


def test_what_a_needed_call_has_read_of_a_released_handle_stays(journal: Journal) -> None:
    journal.add(entry("load", sets("model")))
    read = Effect(frozenset({(OTHER, "value")}), frozenset({(NET, "model")}), concerns=(OTHER,))
    journal.add(entry("make", read, (NET, OTHER)))
    journal.release(NET)
    assert names(journal) == ["load", "make"]
    journal.add(entry("drop", Effect(drops=frozenset({(OTHER, "value")})), (OTHER,)))
    assert names(journal) == []


def test_beyond_its_limits_it_gives_up_what_has_most_and_says_so(journal: Journal) -> None:
    for number in range(2500):
        journal.add(entry(f"step {number}", CHANGES))
        journal.add(entry("input", sets("input", handle=OTHER), (OTHER,)))
    assert "would have to be made again, and 1000 with 1000000 bytes are kept at most" in journal.unkept
    assert not journal.keeps(NET)
    assert journal.keeps(OTHER)
    assert set(names(journal)) == {"input"}
    journal.release(NET)
    assert journal.unkept == ""


def test_bytes_are_bounded_whatever_comes() -> None:
    journal, most = Journal(10_000, 1_000_000), 0
    for number in range(300):
        journal.add(entry(f"step {number}", CHANGES, (number % 3 + 1,), nbytes=50_000))
        most = max(most, journal.nbytes)
    assert most <= 1_000_000 + 1_000_000 // 8 + 50_000


def test_what_depends_on_something_unkept_is_not_kept_either(journal: Journal) -> None:
    journal.add(entry("load", CHANGES))
    journal.give_up(NET, "why")
    journal.add(entry("load other", CHANGES, (OTHER,)))
    journal.add(entry("share", CHANGES, (OTHER, NET)))
    assert not journal.keeps(OTHER)
    journal.release(NET)
    assert journal.unkept == "why"


def test_memory_is_given_back_once() -> None:
    given_back: list[str] = []
    journal = Journal(1000, 1_000_000, lambda entry: given_back.append(entry.name))
    for number in range(100):
        journal.add(entry(f"pass {number}", sets("pass")))
    assert names(journal) == ["pass 99"]
    assert sorted(given_back) == sorted(f"pass {number}" for number in range(99))


class State:
    """Cells that calls set from cells: what a worker has, as simple as it can be."""

    def __init__(self) -> None:
        self.cells: dict[object, int] = {}

    def carry_out(self, name: str, effect: Effect) -> None:
        if effect.anything:
            self.cells = {cell: hash((name, value)) for cell, value in self.cells.items()}
            self.cells["anything"] = hash((name, tuple(sorted(map(repr, self.cells.items())))))
            return
        read = hash((name, tuple((repr(cell), self.cells.get(cell)) for cell in sorted(effect.reads or (), key=repr))))
        for cell in effect.overwrites:
            self.cells[cell] = hash((read, repr(cell)))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_kept_gives_the_same_state_as_all_of_it(seed: int) -> None:
    chance, journal, whole = random.Random(seed), Journal(10_000, 1 << 30), State()
    calls: dict[str, Effect] = {}
    for number in range(300):
        effect = CHANGES
        if chance.random() < 0.97:
            cells = [(NET, letter) for letter in "abcdefgh"]
            overwrites = frozenset(chance.sample(cells, chance.randrange(1, 4)))
            effect = Effect(overwrites, frozenset(chance.sample(cells, chance.randrange(3))))
        calls[f"call {number}"] = effect
        whole.carry_out(f"call {number}", effect)
        journal.add(entry(f"call {number}", effect))
        if chance.random() < 0.03:
            rebuilt = State()
            for name in names(journal):
                rebuilt.carry_out(name, calls[name])
            assert rebuilt.cells == whole.cells
    assert len(names(journal)) < 300
