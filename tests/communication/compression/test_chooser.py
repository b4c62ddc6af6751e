"""What is chosen, on links and processors that are numbers: no clock, no network."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest

from avec.communication.compression.chooser import FIRST_REST, RAW, SURE, TRIALS, Chooser, Figures, Way
from avec.tensor import Codec

MB = 3_000_000
# An OpenPose frame on a fast and on a slow processor, a result of ReLU, floats that hardly get smaller.
FRAME: dict[Codec, Figures] = {
    "palette": Figures(1 / 3e9, 0.25, 1 / 7e9),
    "palette-zstd": Figures(1 / 1e9, 0.16, 1 / 1.7e9),
    "shuffle-zstd": Figures(1 / 0.35e9, 0.22, 1 / 0.5e9),
}
CONTENTS: dict[str, dict[Codec, Figures]] = {
    "frame": FRAME,
    "frame on a slow device": {
        codec: Figures(5 * each.encode_s, each.part, each.decode_s) for codec, each in FRAME.items()
    },
    "relu": {"mask": Figures(1 / 1e9, 0.53, 1 / 1e9), "shuffle-zstd": Figures(1 / 0.22e9, 0.47, 1 / 0.37e9)},
    "dense": {"shuffle-zstd": Figures(1 / 0.6e9, 0.85, 1 / 0.7e9)},
}
RATES = {"loopback": 3e9, "10gbit": 1.2e9, "1gbit": 1.2e8, "100mbit": 1.2e7, "wifi": 4e6}
LEARNING_S = 0.01  # of a codec's first call


@dataclass
class Place:
    """One call site: calls it makes, and what they cost."""

    figures: dict[Codec, Figures]
    rate: float
    overlapped: bool = False
    before_s: float = 0.0
    after_s: float = 0.0
    nbytes: int = MB
    chooser: Chooser = field(default_factory=Chooser)
    transfers: int = 0
    chosen: list[Codec] = field(default_factory=list)

    def cost(self, codec: Codec, learning_s: float = 0.0) -> float:
        figures = RAW if codec == "raw" else self.figures[codec]
        encode_s, decode_s = figures.encode_s * self.nbytes + learning_s, figures.decode_s * self.nbytes
        link_s = figures.part * self.nbytes / self.rate
        if self.overlapped:
            return max(encode_s + self.before_s, link_s, decode_s + self.after_s)
        return encode_s + link_s + decode_s

    def call(self) -> float:
        """Seconds that one call takes."""
        way = Way(self.rate if self.transfers else 0.0, self.transfers, self.before_s, self.after_s)
        codec = self.chooser.choose(self.nbytes, way, self.overlapped)
        self.chosen.append(codec)
        self.transfers += 1
        if codec == "raw":
            return self.cost("raw")
        if codec not in self.figures:
            self.chooser.miss(codec)
            return self.cost("raw") + 0.0007
        learning_s = LEARNING_S if self.chosen.count(codec) == 1 else 0.0
        figures = self.figures[codec]
        encode_s, decode_s = figures.encode_s * self.nbytes + learning_s, figures.decode_s * self.nbytes
        self.chooser.observe(codec, self.nbytes, int(figures.part * self.nbytes), encode_s, decode_s)
        return self.cost(codec, learning_s)


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize(("content", "link"), list(itertools.product(CONTENTS, RATES)))
def test_a_run_takes_at_most_a_20th_longer_than_with_the_best_codec(content: str, link: str, overlapped: bool) -> None:
    place = Place(CONTENTS[content], RATES[link], overlapped, after_s=0.002)
    took_s = sum(place.call() for _ in range(600))
    best_s = 600 * min(place.cost(codec) for codec in ("raw", *CONTENTS[content]))
    assert took_s <= 1.05 * best_s


@pytest.mark.parametrize("content", CONTENTS)
def test_on_loopback_nothing_but_raw_is_even_tried(content: str) -> None:
    place = Place(CONTENTS[content], RATES["loopback"])
    for _ in range(1000):
        place.call()
    assert set(place.chosen) == {"raw"}


def test_it_begins_with_raw_and_tries_on_a_slow_link_at_the_second_call() -> None:
    place = Place(FRAME, RATES["100mbit"])
    place.call()
    place.call()
    assert place.chosen == ["raw", "palette-zstd"]


def test_one_slow_transfer_of_a_fast_link_is_no_reason_to_try() -> None:
    chooser = Chooser()
    hiccup = Way(3e8, transfers=SURE - 1)
    assert chooser.choose(MB, hiccup, overlapped=False) == "raw"
    assert chooser.choose(MB, Way(3e8, transfers=SURE), overlapped=False) != "raw"


def test_a_codec_that_does_not_apply_rests_for_ever_longer() -> None:
    place = Place({"shuffle-zstd": Figures(1 / 0.3e9, 0.9, 1 / 0.5e9)}, RATES["100mbit"])
    for _ in range(20 * FIRST_REST):
        place.call()
    tries = Counter(place.chosen)
    assert 1 <= tries["palette"] <= 6
    assert 1 <= tries["mask"] <= 6


def test_a_link_that_becomes_slow_is_answered_at_once_and_one_that_becomes_fast() -> None:
    place = Place(FRAME, RATES["1gbit"])
    for _ in range(50):
        place.call()
    assert place.chosen[-1] in ("palette", "palette-zstd")
    place.rate = RATES["loopback"]
    place.call()
    assert place.chosen[-1] == "raw"
    place.rate = RATES["wifi"]
    place.call()
    assert place.chosen[-1] == "palette-zstd"


def test_two_codecs_that_cost_nearly_the_same_do_not_take_turns() -> None:
    place = Place(FRAME, RATES["1gbit"])
    for _ in range(50):
        place.call()
    settled = place.chosen[-1]
    for index in range(60):
        place.rate = RATES["1gbit"] * (1 + 0.02 * (-1) ** index)
        place.call()
    assert Counter(place.chosen[50:])[settled] >= 58


def test_where_the_destination_is_the_slowest_nothing_is_gained_by_codecs() -> None:
    place = Place(FRAME, RATES["10gbit"], overlapped=True, after_s=0.1)
    for _ in range(100):
        place.call()
    assert Counter(place.chosen[-50:]) == {"raw": 50}


def test_a_codec_that_lost_by_bad_luck_gets_another_chance() -> None:
    chooser, way = Chooser(["palette"]), Way(RATES["1gbit"])
    for _ in range(TRIALS):
        assert chooser.choose(MB, way, overlapped=False) == "palette"
        chooser.observe("palette", MB, MB // 4, encode_s=0.2, decode_s=0.001)
    chosen = []
    for _ in range(3000):
        chosen.append(chooser.choose(MB, way, overlapped=False))
        if chosen[-1] == "palette":
            chooser.observe("palette", MB, MB // 4, encode_s=0.001, decode_s=0.001)
    assert chosen[0] == "raw"
    assert chosen[-1] == "palette"


def test_without_candidates_all_is_raw() -> None:
    chooser = Chooser([])
    assert {chooser.choose(MB, Way(1e6), overlapped=False) for _ in range(100)} == {"raw"}


def test_a_codec_is_tried_on_a_part_of_what_is_large() -> None:
    chooser, way = Chooser(["shuffle-zstd"]), Way(RATES["1gbit"])
    large, asked = 256 << 20, []

    def sample(codec: Codec) -> Figures:
        asked.append(codec)
        return Figures(1 / 0.6e9, part, 1 / 0.8e9)

    part = 0.9  # it would take longer than it saves
    assert {chooser.choose(large, way, False, sample) for _ in range(FIRST_REST)} == {"raw"}
    assert asked == ["shuffle-zstd"]
    part = 0.3
    chosen = []
    for _ in range(FIRST_REST):  # later, when its contents have changed
        chosen.append(chooser.choose(large, way, False, sample))
        if chosen[-1] != "raw":
            chooser.observe("shuffle-zstd", large, int(part * large), large / 0.6e9, large / 0.8e9)
    assert chosen[-1] == "shuffle-zstd"
    assert asked == ["shuffle-zstd"] * 2  # what it took as a whole counts from then on
