"""The parts of docs/protocol.md that derive from the code: the tables of messages, bounds and errors.

Written anew into the page by `PYTHONPATH=src python tests/protocol/page.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from avec import errors
from avec.communication import channel
from avec.destination import server, session, waiting_room
from avec.protocol import codec, messages
from avec.tensor import RANK_LIMIT

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

# What bounds what: constant, its unit, its meaning.
BOUNDS = (
    (codec.META_LIMIT, "bytes", "the message part of a frame"),
    (codec.STRANGER_LIMIT, "bytes", "a whole first frame that a destination takes"),
    (codec.CALL_PAYLOAD_LIMIT, "bytes", "the tensors of a Load, a Run or a Result"),
    (codec.ENCODED_LIMIT, "bytes", "a tensor that a codec has written, once it is read"),
    (codec.CHUNK_NBYTES, "bytes", "a chunk: each has exactly so many, the last of a model fewer"),
    (codec.OFFER_PAYLOAD_LIMIT, "bytes", "the chunk digests of an Offer"),
    (codec.PART_LIMIT, "", "tensors in one frame"),
    (RANK_LIMIT, "", "dimensions of a tensor"),
    (session.CREDIT_CALLS, "", "unanswered calls that a destination grants"),
    (session.CREDIT_NBYTES, "bytes", "tensors in them"),
    (errors.MESSAGE_LIMIT, "bytes", "the text of an error"),
    (errors.TRACEBACK_LIMIT, "bytes", "the traceback of an error, its end"),
    (waiting_room.STRANGER_COUNT_LIMIT, "", "connections that have not said hello"),
    (waiting_room.SUBSCRIBER_COUNT_LIMIT, "", "of these from one address, of IPv6 from one network of 64 bits"),
    (server.UPLOAD_COUNT_LIMIT, "", "upload connections"),
    (channel.LIFE_NS // 1_000_000, "ms", "while bytes come in, an end is silent no longer"),
)


def messages_table() -> str:
    """One row for each message type: its number, its fields with their types, what it is."""
    rows = ["| type | message | fields | meaning |", "|---|---|---|---|"]
    for number, kind in enumerate(messages.TYPES):
        fields = " · ".join(f"{name}: {_escaped(kind_of)}" for name, kind_of in _fields(kind)) or "–"
        summary = (kind.__doc__ or "").split("\n\n")[0]
        rows.append(f"| {number} | **{kind.__name__}** | {fields} | {' '.join(summary.split())} |")
    return "\n".join(rows)


def bounds_table() -> str:
    """One row for each bound."""
    rows = ["| at most | of |", "|---|---|"]
    rows += [f"| {bound:,} {unit} | {meaning} |".replace("  ", " ") for bound, unit, meaning in BOUNDS]
    return "\n".join(rows)


def errors_table() -> str:
    """One row for each class of error that crosses the wire."""
    rows = ["| code | class | meaning |", "|---|---|---|"]
    kinds = (errors.AvecError, *_below(errors.AvecError))
    rows += [f"| `{kind.code}` | {kind.__name__} | {(kind.__doc__ or '').splitlines()[0]} |" for kind in kinds]
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """The page with its tables as the code has them."""
    for name, table in (("messages", messages_table()), ("bounds", bounds_table()), ("errors", errors_table())):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = marked.subn(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page)
        assert count == 1, f"docs/protocol.md has {count} places for the table of {name}"
    return page


def _fields(kind: type[messages.Message]) -> Iterator[tuple[str, str]]:
    annotations: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        annotations |= each.__dict__.get("__annotations__", {})
    for field in msgspec.structs.fields(kind):
        yield field.encode_name, str(annotations[field.name])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _below(kind: type[errors.AvecError]) -> Iterator[type[errors.AvecError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _below(child)


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
