"""What `avec bench` prints: ratios, the terms of time, and changes since an earlier record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table

from avec.bench.comparison import Change
from avec.bench.measuring import NATIVE, described
from avec.interception.summary import size

SHORTEST_ROUND_TRIP_MS = 0.5
WIDTH = 150  # columns, where the tables go to no terminal


def tables(results: dict[str, Any]) -> Group:
    """The results for people."""
    links = [name for name in results["where"] if name != NATIVE]
    parts: list[RenderableType] = [_ratios(results, links)]
    parts += [_terms(results, link) for link in links if any("terms" in row.get(link, {}) for row in _rows(results))]
    parts += [f"[red]{where}: {failure}[/]" for where, failure in results["failures"].items()]
    return Group(*parts)


def changed(changes: Sequence[Change], unlike: Sequence[str]) -> Group:
    """Changes for people."""
    parts: list[RenderableType] = [f"[yellow]The records are of unlike things: {each}[/]" for each in unlike]
    if not changes:
        return Group(*parts, "Nothing has changed beyond noise.")
    table = Table("", "where", "before", "now", "", title="Changes beyond noise", box=SIMPLE_HEAD)
    for each in changes:
        color = "red" if each.now_ms > each.before_ms else "green"
        factor = f"[{color}]{each.now_ms / each.before_ms:.2f}×[/]" if each.before_ms else ""
        table.add_row(each.name, each.where, time(each.before_ms), time(each.now_ms), factor)
    return Group(*parts, table)


def time(ms: float) -> str:
    """Write a time with three digits: 3.05 ms."""
    for limit, factor, unit in ((1.0, 1e3, "µs"), (1e3, 1.0, "ms")):
        if ms < limit:
            return f"{ms * factor:.3g} {unit}"
    return f"{ms / 1e3:.3g} s"


def _rows(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from results["work"].values()


def _ratios(results: dict[str, Any], links: Sequence[str]) -> Table:
    table = Table(
        Column("", no_wrap=True), "native", *links, "same bits", title="Time, and its ratio to native", box=SIMPLE_HEAD
    )
    for name, row in results["work"].items():
        native = row.get(NATIVE, {})
        cells = [_time(native), *(_ratio(row.get(link, {})) for link in links)]
        table.add_row(name, *cells, _equal([row[link].get("equal") for link in links if link in row]))
    return table


def _time(found: dict[str, Any]) -> str:
    if "error" in found:
        return "[red]failed[/]"
    if "ms" not in found:
        return "–"
    rate = f", {found['gbit_s']:.3g} Gbit/s" if "gbit_s" in found else ""
    return time(found["ms"]["p50"]) + rate


def _ratio(found: dict[str, Any]) -> str:
    ratio = found.get("ratio")
    if ratio is None:
        return _time(found)
    return f"{_time(found)} ({ratio:.{2 if ratio < 100 else 0}f}×)"


def _equal(answers: Sequence[bool | None]) -> str:
    if all(each is None for each in answers):
        return ""
    return "[red]no[/]" if False in answers else "yes"


def _terms(results: dict[str, Any], link: str) -> Table:
    found = results["calibration"][link]
    title = f"{link}: {described(found)}"
    head = ["time", "host issue", "destination", "bytes up", "down", "÷ rate", "waits", "× round trip", "formula"]
    # Beside a round trip of microseconds the difference to native says nothing.
    relayed = found["round_trip_ms"]["p50"] >= SHORTEST_ROUND_TRIP_MS
    table = Table(Column("", no_wrap=True), *head, *(["over native"] if relayed else []), title=title, box=SIMPLE_HEAD)
    for name, row in results["work"].items():
        each = row.get(link, {})
        if "terms" not in each:
            continue
        terms = each["terms"]
        cells = [
            time(each["ms"]["p50"]),
            time(terms["host_issue_ms"]),
            time(terms["destination_ms"]),
            size(terms["up_nbytes"]),
            size(terms["down_nbytes"]),
            time(terms["bytes_ms"]),
            f"{terms['waits']:.2g}",
            time(terms["waits_ms"]),
            time(terms["predicted_ms"]),
        ]
        if relayed and "over_native_round_trips" in each:
            cells.append(f"{each['over_native_round_trips']:.2f} round trips")
        table.add_row(name, *cells)
    return table
