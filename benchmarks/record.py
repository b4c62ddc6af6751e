"""Where the benchmarks of this folder leave their records; what is in one is `avec.bench.record`'s."""

from __future__ import annotations

from pathlib import Path

from avec.bench import record
from avec.bench.record import summary

__all__ = ["RESULTS", "summary", "write"]

RESULTS = Path(__file__).parent / "results"


def write(name: str, accelerator: str, link: str, results: object, folder: Path | None = None) -> Path:
    """Write a record as `<name>.json`; give its path."""
    path = (folder or RESULTS) / f"{name}.json"
    record.write(path, accelerator, link, results)
    return path
