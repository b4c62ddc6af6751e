"""Tables in Markdown, and how numbers stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NONE = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column holds names, the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, or a dash."""
    if value is None:
        return NONE
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def ms(value: float | None) -> str:
    """Milliseconds."""
    return NONE if value is None else f"{number(value)} ms"


def seconds(value: float | None) -> str:
    """Seconds."""
    return NONE if value is None else f"{number(value)} s"


def gigabytes(nbytes: float | None) -> str:
    """Bytes, in GB or MB."""
    if nbytes is None:
        return NONE
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def times(value: float | None) -> str:
    """A ratio."""
    return NONE if value is None else f"{number(value)}×"
