"""What a destination says of itself, as tables for a person and as JSON for a program. Not here: asking for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from avec.protocol.messages import SessionInfo, Status

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

WIDTH = 140  # columns, where the output is no terminal


def as_json(status: Status) -> str:
    """The status with the names of its fields, which docs/operations.md explains."""
    return json.dumps(_named(status), indent=1)


def as_tables(url: str, status: Status) -> Group:
    """The status as a page for a terminal."""
    from rich.console import Group

    tables = [_overview(url, status), _sessions(status)]
    if status.totals.refused:
        tables.append(_refusals(status))
    return Group(*tables)


def _named(value: object) -> object:
    """Structs as dictionaries: on the wire they are arrays, which nobody could read."""
    if isinstance(value, msgspec.Struct):
        return {name: _named(each) for name, each in msgspec.structs.asdict(value).items()}
    if isinstance(value, tuple | list):
        return [_named(each) for each in value]
    return value


def _overview(url: str, status: Status) -> Table:
    from rich.table import Table

    places, totals = status.places, status.totals
    table = Table("what", "how much", title=url, show_header=False)
    state = "[red]draining: takes no more sessions[/]" if status.draining else "serving"
    table.add_row("state", f"{state}, for {duration(status.uptime_s)}, {status.software}")
    for each in status.accelerators:
        held = f"{size(status.memory_nbytes)} of {size(each.memory_nbytes)} held by sessions"
        used = f"used for {duration(totals.used_s)}"
        table.add_row("accelerator", f"{each.name} ({each.kind}), {held}, {used}")
    table.add_row("formats", ", ".join(status.formats))
    waiting = f", {status.waiting} waiting for their hosts" if status.waiting else ""
    table.add_row("sessions", f"{places.sessions} of {places.sessions_limit}{waiting}; {totals.sessions} so far")
    calls = f"{totals.calls}, {totals.failed} of which failed; {totals.resumed} connections were resumed"
    table.add_row("calls", calls)
    room = f"room for {size(max(0, min(status.models_limit_nbytes - status.models_nbytes, status.disk_free_nbytes)))}"
    cache = f"{status.models} with {size(status.models_nbytes)} of {size(status.models_limit_nbytes)}; {room}"
    table.add_row("models", cache)
    table.add_row("uploads", f"{places.uploads} of {places.uploads_limit}; {totals.uploads} so far")
    table.add_row("strangers", f"{places.strangers} of {places.strangers_limit}")
    table.add_row("failed log-ins", str(totals.refused.get("authentication", 0)))
    table.add_row("sessions ended for their user's next", str(totals.vacated))
    table.add_row("zygote restarts", str(totals.zygote_restarts))
    return table


def _sessions(status: Status) -> Table:
    from rich.table import Table

    more = f", {status.unlisted} more not shown" if status.unlisted else ""
    table = Table(
        "session", "user", "program", "host", "state", "age", "memory", "promised", "models", "calls", "queue",
        "used",
        title=f"{len(status.listed)} sessions that you may see, of {status.sessions}{more}",
    )  # fmt: skip
    for each in status.listed:
        table.add_row(*_cells(each), style="yellow" if each.state == "waiting" else "")
    return table


def _cells(row: SessionInfo) -> tuple[str, ...]:
    from rich.markup import escape

    calls = f"{row.calls}, {row.failed} failed" if row.failed else str(row.calls)
    state = "waits for its host" if row.state == "waiting" else row.state
    return (
        row.session, row.user or "–", escape(row.program) or "–", row.peer, state, duration(row.age_s),
        size(row.memory_nbytes), size(row.promised_nbytes) if row.promised_nbytes else "–", str(row.models), calls,
        str(row.queued), duration(row.used_s),
    )  # fmt: skip


def _refusals(status: Status) -> Table:
    from rich.table import Table

    table = Table("refused because of", "connections")
    for reason, count in sorted(status.totals.refused.items()):
        table.add_row(reason, str(count))
    return table


def size(nbytes: int) -> str:
    """Bytes for a person: "1.5 GB"."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds for a person: "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
