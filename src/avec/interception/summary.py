"""The one-screen summary that a program leaves on stderr under `avec run -v`. Plain text: it is written at exit."""

from __future__ import annotations

from avec.profiling import STAGES, Profile, Recorder, profiles

_HEAD = ("call", "count", "p50 ms", "p95 ms", *STAGES, "sent", "received")


def summary(recorder: Recorder) -> str:
    """Say where the calls went and what one call of each kind cost; every line begins with `avec:`."""
    rows = [_row(each) for each in profiles(recorder)]
    lines = _origin(recorder)
    if rows:
        lines += _table([_HEAD, *rows])
        lines.append("medians per call; the stages in milliseconds")
    else:
        lines.append("no call was forwarded")
    return "".join(f"avec: {line}\n" for line in lines)


def size(nbytes: int) -> str:
    """Write a number of bytes for people: 3.76 MB."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _origin(recorder: Recorder) -> list[str]:
    if recorder.origin is None:
        return []
    origin = recorder.origin
    uploaded = f", {size(recorder.uploaded_nbytes)} of models uploaded" if recorder.uploaded_nbytes else ""
    return [
        f"computed at {origin.destination} on {origin.accelerator}, numerics {origin.numerics}, "
        f"round trip {origin.round_trip_ms:.3g} ms{uploaded}"
    ]


def _row(each: Profile) -> tuple[str, ...]:
    stages = (f"{each.stages_ms[stage]:.2f}" for stage in STAGES)
    sizes = (size(each.wire_nbytes_up), size(each.wire_nbytes_down))
    return (each.name, str(each.count), f"{each.total_ms:.2f}", f"{each.total_p95_ms:.2f}", *stages, *sizes)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
