"""Runs ONNX's own test cases through onnxruntime.backend plainly and under AVEC, and prints how their outcomes differ.

The status is 0 when they do not. Run it with an interpreter that has onnxruntime, onnx and what a destination needs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "apps" / "onnx_backend.py"
SHOWN = 40  # differences that are printed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="only cases whose names match this regular expression")
    parser.add_argument("--on", help="a destination; by default one is started on this machine")
    arguments = parser.parse_args()
    program = [str(PROGRAM), *(["--match", arguments.match] if arguments.match else [])]
    where = ["--on", arguments.on] if arguments.on else ["--local"]
    plainly = outcomes([sys.executable, *program])
    under_avec = outcomes([sys.executable, "-m", "avec", "run", *where, *program])
    differing = [name for name in sorted({*plainly, *under_avec}) if plainly.get(name) != under_avec.get(name)]
    print(f"plainly:    {counted(plainly)}")
    print(f"under AVEC: {counted(under_avec)}")
    print(f"differing:  {len(differing)}")
    for name in differing[:SHOWN]:
        print(f"  {name}: {plainly.get(name, 'missing')} | {under_avec.get(name, 'missing')}")
    return 1 if differing or not plainly else 0


def outcomes(command: list[str]) -> dict[str, str]:
    """What became of each case."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith("test_"))


def environment() -> Mapping[str, str]:
    """This process's, in which `avec` is the one beside this script."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def counted(found: Mapping[str, str]) -> str:
    counts = Counter(outcome.partition(":")[0] for outcome in found.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
