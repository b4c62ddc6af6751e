"""One JSON record for each benchmark run: what was measured, with which command, on what, over which link, when."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import avec

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "msgspec", "torch")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, extremes and count."""
    ordered = sorted(values)

    def rank(fraction: float) -> float:
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]

    return {"p50": rank(0.5), "p95": rank(0.95), "min": ordered[0], "max": ordered[-1], "n": len(ordered)}


def environment(accelerator: str, link: str) -> dict[str, object]:
    """Where the measurement took place."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "revision": _revision(),
        "accelerator": accelerator,
        "link": link,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"avec": avec.__version__, **{name: metadata.version(name) for name in PACKAGES}},
    }


def write(name: str, accelerator: str, link: str, results: object, folder: Path | None = None) -> Path:
    """Write a record as `<name>.json`; give its path."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {"environment": environment(accelerator, link), "results": results}
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return path


def _revision() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=RESULTS.parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
