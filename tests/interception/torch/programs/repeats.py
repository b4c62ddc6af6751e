"""Runs a program, `repeats.py OUTPUT PROGRAM [ARGS]`, and writes as JSON how many batches were sent, how many of them
as the number of one that came before, and how many values had been read ahead.

Run under AVEC alone: it looks into the recording.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import torch

from avec.interception.torch.reads_ahead import Reading, ReadsAhead
from avec.interception.torch.traces import Found, Traces
from avec.protocol.torch import Read

counts: Counter[str] = Counter(batches=0, repeats=0, renamed=0, ahead=0)
find = Traces.find
take = ReadsAhead.take


def counted(self: Traces, stretch: bytes) -> Found:
    """Traces.find, noted."""
    found = find(self, stretch)
    counts.update(batches=1, repeats=int(found.known), renamed=int(bool(found.names)))
    return found


def counted_value(self: ReadsAhead, read: Read, nbytes: int, found: Found) -> Reading | None:
    """ReadsAhead.take, noted."""
    taken = take(self, read, nbytes, found)
    counts.update(ahead=int(taken is not None))
    return taken


if __name__ == "__main__":
    torch.set_num_threads(1)
    Traces.find = counted  # type: ignore[method-assign]
    ReadsAhead.take = counted_value  # type: ignore[method-assign]
    output, *sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    Path(output).write_text(json.dumps(counts), "utf-8")
