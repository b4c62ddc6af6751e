"""Runs a program, `repeats.py OUTPUT PROGRAM [ARGS]`, and writes as JSON how many batches were sent, and how many of
them as the number of one that came before. Run under AVEC alone: it looks into the recording.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import torch

from avec.interception.torch.traces import Found, Traces

counts: Counter[str] = Counter(batches=0, repeats=0, renamed=0)
find = Traces.find


def counted(self: Traces, stretch: bytes) -> Found:
    """Traces.find, noted."""
    found = find(self, stretch)
    counts.update(batches=1, repeats=int(found.known), renamed=int(bool(found.names)))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    Traces.find = counted  # type: ignore[method-assign]
    output, *sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    Path(output).write_text(json.dumps(counts), "utf-8")
