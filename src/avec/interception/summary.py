"""The one-screen summary that a program leaves on stderr under `avec run -v`. Plain text: it is written at exit."""

from __future__ import annotations

from collections.abc import Sequence

from avec.profiling import STAGES, CodecUse, ModelTransfer, Origin, Profile, Recorder, profiles

MODELS_SHOWN = 5  # so that the summary stays on one screen
CODECS_SHOWN = 6
_HEAD = ("call", "count", "p50 ms", "p95 ms", *STAGES, "sent", "received", "kernels")


def summary(recorder: Recorder) -> str:
    """Say where the calls went and what one call of each kind cost; every line begins with `avec:`."""
    rows = [_row(each) for each in profiles(recorder)]
    lines = [*_origin(recorder.origin), *_transfers(recorder.transfers)]
    if rows:
        lines += _table([_HEAD, *rows])
        lines.append("medians per call; the stages in milliseconds")
        lines += _codecs(recorder.codecs)
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


def _origin(origin: Origin | None) -> list[str]:
    if origin is None:
        return []
    return [
        f"computed at {origin.destination} on {origin.accelerator}, numerics {origin.numerics}, "
        f"round trip {origin.round_trip_ms:.3g} ms"
    ]


def _transfers(transfers: Sequence[ModelTransfer]) -> list[str]:
    lines = [f"model {each.name}: {size(each.nbytes)}, {_how_it_got_there(each)}" for each in transfers[:MODELS_SHOWN]]
    more = len(transfers) - MODELS_SHOWN
    return [*lines, f"and {more} models more"] if more > 0 else lines


def _how_it_got_there(each: ModelTransfer) -> str:
    if not each.uploaded_nbytes:
        return "was there already"
    part = "" if each.uploaded_nbytes == each.nbytes else f"{size(each.uploaded_nbytes)} of it "
    return f"{part}uploaded in {each.seconds:.2f} s"


def _codecs(uses: Sequence[CodecUse]) -> list[str]:
    """What was sent by a codec, those first that saved most."""
    coded = sorted((use for use in uses if use.codec != "raw"), key=lambda use: use.wire_nbytes - use.nbytes)
    lines = [
        f"codec {use.codec}{' (lossy)' if use.lossy else ''}: {use.calls} {use.direction} of {use.name}, {use.dtype} "
        f"{'×'.join(map(str, use.shape))}, {size(use.nbytes // use.calls)} as {size(use.wire_nbytes // use.calls)}"
        for use in coded[:CODECS_SHOWN]
    ]
    more = len(coded) - CODECS_SHOWN
    return [*lines, f"and {more} more that codecs have written"] if more > 0 else lines


def _row(each: Profile) -> tuple[str, ...]:
    stages = (f"{each.stages_ms[stage]:.2f}" for stage in STAGES)
    sizes = (size(each.wire_nbytes_up), size(each.wire_nbytes_down), str(each.kernels))
    return (each.name, str(each.count), f"{each.total_ms:.2f}", f"{each.total_p95_ms:.2f}", *stages, *sizes)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
