"""Runs this folder's programs under AVEC while something is done to them: what they print, and what AVEC tells."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from destinations import POLL_S
from launching import AVEC, environ

PROGRAMS = Path(__file__).parent
TIMEOUT_S = 300.0
AT_ANOTHER_WORKER = re.compile(r"the session went on at another worker, where (\d+) calls were made again")
MENDED = "the session went on over a new connection"


@dataclass
class Output:
    """What a program has printed and what AVEC has told of it so far; both grow while it runs."""

    lines: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    over: bool = False

    @property
    def made_again(self) -> list[int]:
        """How many calls were made again, each time that another worker took over."""
        return [int(count) for line in list(self.told) for count in AT_ANOTHER_WORKER.findall(line)]

    @property
    def mended(self) -> int:
        """How often a broken connection was replaced."""
        return sum(MENDED in line for line in list(self.told))

    def await_lines(self, count: int) -> bool:
        """Block until the program has printed so many; False when it is over before."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(self.lines) < count and time.monotonic() < deadline_s:
            if self.over:
                return False
            time.sleep(POLL_S)
        return True


def run(
    url: str, program: str, *arguments: str, disturb: Callable[[Output], None] = lambda output: None, **variables: str
) -> Output:
    """Run a program of this folder to its end, which has to be a good one, with settings as `AVEC_*` variables."""
    command = [*AVEC, "run", "-v", "--on", url, str(PROGRAMS / program), *arguments]
    own = environ(OMP_NUM_THREADS="1", **variables)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    output = Output()
    with subprocess.Popen(command, env=own, text=True, **pipes) as process:

        def read() -> None:
            output.lines.extend(process.stdout or ())
            output.over = True

        readers = [
            threading.Thread(target=read),
            threading.Thread(target=lambda: output.told.extend(process.stderr or ())),
        ]
        for reader in readers:
            reader.start()
        try:
            disturb(output)
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
            for reader in readers:
                reader.join()
    assert process.returncode == 0, "".join(output.told)
    return output
