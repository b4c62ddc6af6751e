"""A link that swallows everything is noticed by what the kernel knows, before the time that silence is borne for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launching import environ

PROGRAM = Path(__file__).parent / "cut_link.py"
IN_A_NAMESPACE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def _can_cut() -> bool:
    if os.geteuid() or not all(map(shutil.which, ("unshare", "ip", "tc"))):
        return False
    cutting = (*IN_A_NAMESPACE, "tc", "qdisc", "add", "dev", "lo", "root", "blackhole")
    return subprocess.run(cutting, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_cut(), reason="cutting a link takes root, network namespaces and tc")
def test_a_cut_link_is_noticed_and_the_session_goes_on_when_it_is_back(tmp_path: Path) -> None:
    variables = environ(PYTHONPATH=os.pathsep.join((str(Path(__file__).parents[1]), environ()["PYTHONPATH"])))
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, str(PROGRAM), str(tmp_path)],
        capture_output=True, text=True, timeout=60, env=variables, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equal"]
    (said,) = found["said"]
    assert "acknowledges nothing any more; the link is cut" in said
