"""Figures that are put together from several runs: rates, speed-ups, efficiencies, and what a link allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from avec.bench.paper.running import Line
from avec.errors import ConfigurationError

DEVICE = "device"
WIDTH = "width-"  # with which the tests of networks of other widths begin


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was computed: natively at a tier, or forwarded to it over a link."""

    tier: str
    link: str  # empty: natively
    run: Line

    @property
    def name(self) -> str:
        """For people."""
        return f"device → {self.tier}, {self.link}" if self.link else f"{self.tier} natively"

    def test(self, name: str) -> Line:
        """A test's results; empty where it was not done."""
        found: Line = self.run.get("tests", {}).get(name, {})
        return found


def read(path: Path) -> Line:
    """Read a record of `avec bench paper`.

    Raises:
        ConfigurationError: it is none, or cannot be read.
    """
    try:
        record: Line = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"cannot render {path}: {exc}") from exc
    if not isinstance(record, dict) or "forwarded" not in record.get("results", {}):
        raise ConfigurationError(f"cannot render {path}: it is no record that `avec bench paper --output` wrote")
    return record


def places(results: Line) -> Iterator[Place]:
    """All places, each tier natively before it is forwarded to."""
    for tier in (DEVICE, "edge", "cloud"):
        if tier in results["native"]:
            yield Place(tier, "", results["native"][tier])
        for link, run in results["forwarded"].get(tier, {}).items():
            yield Place(tier, link, run)


def native(results: Line, tier: str) -> Place:
    """A tier natively; with no results where it was not measured."""
    return Place(tier, "", results["native"].get(tier, {}))


def image_tests(results: Line) -> list[str]:
    """The tests with pictures, smallest first."""
    names = {name for place in places(results) for name in place.run.get("tests", {})}
    return sorted((each for each in names if each.removeprefix("images-").isdecimal()), key=lambda each: int(each[7:]))


def images_fps(results: Line, place: Place) -> float | None:
    """The rate over all pictures of all tests with pictures."""
    tests = [found for name in image_tests(results) if (found := place.test(name))]
    seconds = sum(each["seconds"] for each in tests)
    return sum(each["frames"] for each in tests) / seconds if seconds else None


def video_fps(place: Place) -> float | None:
    """The rate of the video."""
    fps: float | None = place.test("video").get("fps") or None
    return fps


def by_size(results: Line, place: Place) -> dict[float, float]:
    """What a frame takes in milliseconds, in turn, by the size of the network in GFLOP."""
    found = {gflop: place.test(f"{WIDTH}{width}") for width, gflop in results.get("widths", {}).items()}
    return {gflop: test["frame_ms"]["p50"] for gflop, test in sorted(found.items()) if test}


def ratio(value: float | None, other: float | None) -> float | None:
    """One by the other, where both are known."""
    return value / other if value and other else None


def link_fps(results: Line, place: Place) -> float | None:
    """How many frames the link can carry, at its calibrated goodput and with the bytes that went over it."""
    calibration = results["calibration"].get(place.link)
    cycle = (place.test("video") or place.test("cycle")).get("cycle")
    if not calibration or not cycle or not calibration["up_gbit_s"]:
        return None
    up_s = float(8e-9 * cycle["wire_nbytes_up"] / calibration["up_gbit_s"])
    down_s = float(8e-9 * cycle["wire_nbytes_down"] / calibration["down_gbit_s"])
    return 1 / max(up_s, down_s)


def possible(fps: float | None, native_fps: float | None, limit_fps: float | None) -> float | None:
    """A rate, by what the slower of accelerator and link allows."""
    known = [each for each in (native_fps, limit_fps) if each]
    return fps / min(known) if fps and native_fps and known else None
