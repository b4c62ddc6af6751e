"""One JSON record for each measurement: what was measured, with which command, on what, over which link, when."""

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
from avec.errors import ConfigurationError

# Of those that are installed the record has the versions.
PACKAGES = ("numpy", "msgspec", "torch", "torchvision", "timm", "transformers", "opencv-python-headless")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, 95th percentile, extremes and count."""
    ordered = sorted(values)

    def rank(fraction: float) -> float:
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]

    quantiles = {f"p{percent}": rank(percent / 100) for percent in (50, 95, 25, 75)}
    return {**quantiles, "min": ordered[0], "max": ordered[-1], "n": len(ordered)}


def environment(accelerator: str, link: str) -> dict[str, object]:
    """Where the measurement took place."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "revision": _revision(Path(avec.__file__).parent),
        "accelerator": accelerator,
        "link": link,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"avec": avec.__version__, **_versions()},
    }


def write(path: Path, accelerator: str, link: str, results: object) -> None:
    """Write a record.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    record = {"environment": environment(accelerator, link), "results": results}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    except OSError as exc:
        raise ConfigurationError(f"cannot write the record {path}: {exc}") from exc


def _program() -> str:
    """How the running command is called elsewhere: without the folders of this machine."""
    path = Path(sys.argv[0])
    if path.name in ("avec", "__main__.py"):
        return "avec"
    return f"python {path if not path.is_absolute() else path.name}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _revision(package: Path) -> str:
    """The commit of the checkout that AVEC runs from; of an installed one nothing is known but its version."""
    if package.parent.name != "src":
        return "unknown"
    command = ["git", "-C", str(package), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
