"""A pycaffe program in a process of its own, started with `avec run`."""

from __future__ import annotations

import json
from pathlib import Path

from launching import APPS, AVEC, environ, execute

PROGRAM = str(APPS / "caffe_program.py")
OUTPUT = """['data'] ['prob'] [('data', (2, 3, 6, 6)), ('conv', (2, 4, 1, 1)), ('prob', (2, 4, 1, 1))]
worst difference below 1e-6: True
forward_all: True
Exception: Input blob arguments do not match net inputs.
"""


def test_a_pycaffe_program_runs_unchanged(destination: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = (*AVEC, "run", "--on", destination, "--report", str(report), PROGRAM)
    assert execute(*command, cwd=tmp_path, variables=environ(AVEC_CACHE_DIR=str(tmp_path))) == (0, OUTPUT, "")
    cycles = json.loads(report.read_text())["cycles"]
    frames = [cycle for cycle in cycles if cycle["name"] == "caffe.forward"]
    assert len(frames) == 5 + 3
    assert all(f"{PROGRAM}:" in cycle["site"] for cycle in cycles)
