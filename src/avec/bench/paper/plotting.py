"""The paper's figures, drawn from a record as SVG and PNG; takes the extra `bench` (matplotlib)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from avec.bench.paper import published
from avec.bench.paper.cycles import PARTS
from avec.bench.paper.markdown import number
from avec.bench.paper.rates import DEVICE, by_size, image_tests, images_fps, native, places, ratio, video_fps
from avec.bench.paper.running import Line
from avec.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_COLORS = {"send": "#4c78a8", "compute": "#f58518", "receive": "#72b7b2", "other": "#bab0ac"}
NATIVE_COLOR, AVEC_COLOR, PAPER_COLOR = "#bab0ac", "#4c78a8", "#e45756"
DPI = 110


def require() -> None:
    """Raise ConfigurationError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigurationError("drawing plots takes matplotlib; install it with: pip install 'avec[bench]'")


def draw(record: Line, folder: Path) -> Iterator[Path]:
    """Draw each figure that the record has something for; give the files."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "avec"  # the same record gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    results = record["results"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, fill in (("totals", _totals), ("cycle", _cycle), ("efficiency", _efficiency), ("where", _where)):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        if not fill(figure, results):
            continue
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=DPI, metadata={"Date": None} if suffix == "svg" else {"Software": None})
            yield path


def _totals(figure: Figure, results: Line) -> bool:
    """Figure 7, as time for a frame: sizes that could not be run in the time are not made up."""
    tests = [*image_tests(results), "video"]
    found = [place for place in places(results) if place.test("video")]
    if not found:
        return False
    axes = figure.subplots()
    width = 0.8 / len(found)
    for row, place in enumerate(found):
        done = [(index, test) for index, name in enumerate(tests) if (test := place.test(name)) and test["frames"]]
        heights = [1e3 * test["seconds"] / test["frames"] for _, test in done]
        offsets = [index + (row - len(found) / 2 + 0.5) * width for index, _ in done]
        axes.bar(offsets, heights, width, label=place.name)
    axes.set_yscale("log")
    axes.set_xticks(range(len(tests)), [each.replace("-", " ") for each in tests])
    axes.set_ylabel("ms a frame, total ÷ frames")
    axes.set_title("Figure 7: the whole application")
    axes.legend(fontsize=7)
    return True


def _cycle(figure: Figure, results: Line) -> bool:
    """Figure 8."""
    found = [
        place for place in places(results) if (test := place.test("cycle")) and (test.get("cycle") or not place.link)
    ]
    if not found:
        return False
    axes = figure.subplots()
    for row, place in enumerate(found):
        test, left = place.test("cycle"), 0.0
        stages = {name: each["p50"] for name, each in test["cycle"]["stages_ms"].items()} if place.link else {}
        parts = {name: sum(stages.get(each, 0.0) for each in names) for name, names in PARTS.items()}
        if not place.link:
            parts["compute"] = test["frame_ms"]["p50"]
        parts["other"] = max(0.0, test["frame_ms"]["p50"] - sum(parts.values()))
        for name, ms in parts.items():
            axes.barh(row, ms, left=left, color=PART_COLORS[name], label=name if row == 0 else None)
            left += ms
        axes.text(left, row, f" {number(left)} ms", va="center", fontsize=7)
    axes.set_yticks(range(len(found)), [place.name for place in found], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ms, a frame of the network alone, in turn")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.12)
    axes.set_title("Figure 8: the execution cycle")
    axes.legend(fontsize=7)
    return True


def _efficiency(figure: Figure, results: Line) -> bool:
    """Table V, as AVEC's rate over the destination's own."""
    found = [place for place in places(results) if place.link and native(results, place.tier).run]
    if not found:
        return False
    axes = figure.subplots()
    for offset, name, kind in ((-0.2, "images", 0), (0.2, "video", 1)):
        heights = []
        for place in found:
            own = native(results, place.tier)
            rates = ((images_fps(results, place), images_fps(results, own)), (video_fps(place), video_fps(own)))[kind]
            heights.append(ratio(*rates) or 0.0)
        bars = axes.bar([row + offset for row in range(len(found))], heights, 0.4, label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    paper = published.EFFICIENCY["cloud"][1]
    axes.axhline(paper, color=PAPER_COLOR, linestyle="--", label=f"the paper's cloud, video: {paper}")
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set_xticks(range(len(found)), [f"{place.tier}\n{place.link}" for place in found], fontsize=7)
    axes.set_ylabel("AVEC ÷ destination natively")
    axes.set_title("Efficiency")
    axes.legend(fontsize=7)
    return True


def _where(figure: Figure, results: Line) -> bool:
    """Where offloading pays: the speed-up over the device by the network's size, a line for each link."""
    alone = by_size(results, native(results, DEVICE))
    lines = [(f"{place.tier}, {place.link}", by_size(results, place)) for place in places(results) if place.link]
    lines = [
        (name, {gflop: alone[gflop] / ms for gflop, ms in found.items() if gflop in alone}) for name, found in lines
    ]
    if not any(found for _, found in lines):
        return False
    axes = figure.subplots()
    for name, found in (each for each in lines if each[1]):
        axes.plot(list(found), list(found.values()), marker="o", label=name)
    _shade_loss(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("GFLOP a frame (input and output stay as large)")
    axes.set_ylabel("speed-up over the device")
    axes.set_title("Where offloading does not pay: below 1")
    axes.legend(fontsize=7)
    return True


def _shade_loss(axes: Axes) -> None:
    low = min(0.3, axes.get_ylim()[0])
    axes.axhspan(low, 1, color=PAPER_COLOR, alpha=0.12)
    axes.set_ylim(bottom=low)
    axes.axhline(1, color=PAPER_COLOR, linewidth=0.8)
