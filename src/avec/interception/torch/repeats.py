"""What keeps a program's stream from repeating itself: each stretch is compared with the last one that began alike.

For `avec doctor --trace`. A program whose stretches repeat is replayed at the destination; one that makes new shapes,
keeps more tensors alive from step to step, or passes sizes as numbers is issued operator by operator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from avec.protocol.torch import BIND, FIRST_TEMPLATE, FREE, Template

_WIDTHS = {FREE: 2, BIND: 3}
SHOWN = 40  # kinds of breaks in the report

_Entry = tuple[int, int, int]  # its first number, its place, its width


class Repeats:
    """The stretches of one process, and where they differed from what came before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._templates: dict[int, Template] = {}
        self._last: dict[int, list[int]] = {}  # the last stretch, by its first operator
        self._stretches = self._repeated = self._first = 0
        self._breaks: Counter[tuple[str, str, str]] = Counter()

    def describe(self, number: int, template: Template) -> None:
        """Take note of a template."""
        self._templates[number] = template

    def see(self, numbers: list[int], known: bool, marks: Sequence[tuple[int, str]]) -> None:
        """Look at a stretch that is being sent.

        Args:
            numbers: with its storages numbered (see traces.Found.kind), so that other addresses are no difference.
            known: it has come before.
            marks: where in the application its operators were called, by their places.
        """
        self._stretches += 1
        if known:
            self._repeated += 1
            return
        entries = list(self._entries(numbers))
        first = next((kind for kind, _, _ in entries if kind >= FIRST_TEMPLATE), 0)
        before = self._last.get(first)
        self._last[first] = numbers
        if before is None:
            self._first += 1
            return
        sites = dict(marks)
        for old, new in zip(self._entries(before), entries, strict=False):
            reason = self._difference(before, old, numbers, new)
            if reason:
                kind, place, _ = new
                self._breaks[self._named(kind), sites.get(place, "?"), reason] += 1
                return
        if len(before) != len(numbers):
            self._breaks["the end", "?", "the stretch is longer or shorter"] += 1

    def write(self) -> None:
        """Write what was found, as JSON."""
        found = {
            "stretches": self._stretches,
            "repeated": self._repeated,
            "first": self._first,
            "breaks": [
                {"operator": operator, "site": site, "reason": reason, "count": count}
                for (operator, site, reason), count in self._breaks.most_common(SHOWN)
            ],
        }
        self._path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")

    def _entries(self, numbers: list[int]) -> Iterator[_Entry]:
        place = 0
        while place < len(numbers):
            kind = numbers[place]
            width = _WIDTHS.get(kind, 0)
            if kind >= FIRST_TEMPLATE:
                template = self._templates.get(kind)
                if template is None:
                    return
                width = 1 + template.numbers + template.addresses
            if not width:
                return
            yield kind, place, width
            place += width

    def _named(self, kind: int) -> str:
        if kind >= FIRST_TEMPLATE:
            return self._templates[kind].operator
        return "the end of a tensor" if kind == FREE else "a result whose shape depends on data"

    def _difference(self, before: list[int], old: _Entry, numbers: list[int], new: _Entry) -> str:
        """Say how an entry differs from the one in its place before; nothing if it does not."""
        if old[0] != new[0]:
            return self._other_entry(old[0], new[0])
        (kind, was, width), place = old, new[1]
        if before[was : was + width] == numbers[place : place + width]:
            return ""
        if kind < FIRST_TEMPLATE:
            return "another tensor than before has ended"
        inputs = 1 + self._templates[kind].numbers
        if before[was : was + inputs] != numbers[place : place + inputs]:
            return "it takes another tensor, or another number, than before"
        return "its result takes the place of another tensor than before"

    def _other_entry(self, old: int, new: int) -> str:
        if min(old, new) < FIRST_TEMPLATE:
            return f"{self._named(old)} came in its place before"
        was, now = self._templates[old], self._templates[new]
        if was.operator != now.operator:
            return f"{was.operator} came in its place before"
        for place, (one, other) in enumerate(zip(was.args, now.args, strict=False)):
            if one != other:
                return f"argument {place} is of another kind: {_short(one)} before, {_short(other)} now"
        return "its named arguments or its results are of another kind"


def _short(value: object) -> str:
    shape = getattr(getattr(value, "meta", None), "shape", None)
    text = f"shape {tuple(shape)}" if shape is not None else str(value)
    return text if len(text) < 60 else text[:57] + "…"
