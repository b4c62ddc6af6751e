"""The links that a measurement goes over: how they are named, and the relay that makes one of them.

Not here: what a relay does to bytes (`relay`), and whether it does that exactly (`calibration`).
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from avec.errors import AvecError, ConfigurationError

LOOPBACK, DIRECT = "loopback", "direct"  # the link that is there anyway: on this machine, and to another one
RATE_UNITS = {"gbit": 1e9 / 8, "mbit": 1e6 / 8}  # bytes a second
_NAME = re.compile(
    r"(?:(?P<rate>\d+(?:\.\d+)?)(?P<unit>gbit|mbit)-)?(?P<round_trip>\d+(?:\.\d+)?)ms(?:~(?P<jitter>\d+(?:\.\d+)?)ms)?"
)
ALLOWED = "loopback, or a round trip with or without a rate and a jitter, such as 1ms, 10gbit-0.1ms, 100mbit-20ms~2ms"


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What a link is to be like, each way alike; a rate of 0 is unlimited, and counts what TCP carries."""

    name: str
    relayed: bool
    round_trip_s: float = 0.0
    rate: float = 0.0  # bytes per second
    jitter_s: float = 0.0  # a piece is up to so much earlier or later, but never overtakes another


def profile(name: str) -> LinkProfile:
    """Read a link's name.

    Raises:
        ConfigurationError: it is not the name of one.
    """
    if name in (LOOPBACK, DIRECT):
        return LinkProfile(name, relayed=False)
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigurationError(f"there is no link {name!r}; allowed is {ALLOWED}")
    rate = float(found["rate"]) * RATE_UNITS[found["unit"]] if found["rate"] else 0.0
    return LinkProfile(name, True, float(found["round_trip"]) / 1e3, rate, float(found["jitter"] or 0) / 1e3)


@contextlib.contextmanager
def relayed(url: str, link: LinkProfile, delay_s: float, more: Sequence[str] = ()) -> Iterator[str]:
    """Put a relay, in a process of its own, before the server at `url`; give the URL to go to in its place.

    Args:
        delay_s: how long the relay holds what passes; half the link's round trip, less what relaying takes anyway.
        more: options of the relay's, such as a fault.
    """
    parts = urlsplit(url)
    options = ["--delay", repr(delay_s), "--rate", repr(link.rate), "--jitter", repr(link.jitter_s), *more]
    command = [sys.executable, "-P", "-m", "avec.bench.relay", str(parts.hostname), str(parts.port), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # for mypy
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise AvecError(f"the relay to {url} did not start; its status is {process.wait()}")
            yield f"{parts.scheme}://127.0.0.1:{port}"
        finally:
            process.stdin.close()  # which ends it
