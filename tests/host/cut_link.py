"""A session whose link swallows everything for a while. To be run in a network namespace of its own: it is the loopback
there that is cut.

Prints as JSON whether the results were as without that, and what the session said of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from accumulator import Accumulator
from avec.host.session import Session
from destinations import host_settings, running

CUT_S = 2.5  # less than silence is borne for where nothing tells that the link is cut
COUNT = 4


def swallow(*action: str) -> None:
    """Swallow everything that is sent over loopback ("add", "blackhole"), or no longer ("del")."""
    verb, *discipline = action
    subprocess.run(["tc", "qdisc", verb, "dev", "lo", "root", *discipline], check=True)


def results(url: str, folder: Path, cut: bool, said: list[str]) -> list[bytes]:
    """What a conversation gives; in its middle the link is cut, and a call made meanwhile."""
    with Session(url, host_settings(folder), "cut", said.append) as session:
        accumulator = Accumulator(session, COUNT)
        calls = [accumulator.add(np.full(COUNT, 0.5, np.float32)) for _ in range(3)]
        calls[-1].wait()
        if cut:
            swallow("add", "blackhole")
            threading.Timer(CUT_S, swallow, ["del"]).start()
        calls += [accumulator.add(np.full(COUNT, 0.25, np.float32)) for _ in range(3)]
        began_s = time.monotonic()
        given = [call.wait().arrays[0].tobytes() for call in calls]
        assert not cut or time.monotonic() - began_s > 1.0, "the link was not cut"
        return given


if __name__ == "__main__":
    folder, said = Path(sys.argv[1]), list[str]()
    with running(folder / "destination") as destination:
        undisturbed = results(destination.url, folder / "host", False, said)
        disturbed = results(destination.url, folder / "host", True, said)
    print(json.dumps({"equal": disturbed == undisturbed, "said": said}))
