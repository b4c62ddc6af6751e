"""What TLS costs a session: the same calls and the same frame loop at tcp:// and at tls://, in turns, over links.

A session is opened, a call without tensors made, a frame sent up, and a pycaffe loop run whose outputs have to be equal
bit by bit. Host, relay, destination and the process that encrypts for it share this machine's cores, as beside a real
link they do not. Writes one record to benchmarks/results: `make bench-tls`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from processes import HERE, destination, over, run
from record import summary, write

from avec import config
from avec.bench.links import LOOPBACK
from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.host.session import Session

LINKS = (LOOPBACK, "10gbit-0.1ms", "1gbit-1ms", "1gbit-20ms")
SCHEMES = ("tcp", "tls")
CLIP = HERE.parent / "examples" / "openpose" / "media" / "people.mp4"
FRAME = np.random.default_rng(0).random((1, 3, 368, 656), dtype=np.float32)
CODECS = {"loop": "auto", "loop_raw": "raw"}  # the default, and every byte over the link
LEARNING = 10  # first frames of a loop, in which codecs are tried
BLOCK = 20  # calls of one scheme in a row, before it is the other's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", default=",".join(LINKS))
    parser.add_argument("--calls", type=int, default=400, help="without tensors, at each scheme")
    parser.add_argument("--frames", type=int, default=60, help="sent up, and of one loop")
    parser.add_argument("--turns", type=int, default=3, help="how often loops take turns")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    links = arguments.links.split(",")
    with destinations() as (urls, settings), tempfile.TemporaryDirectory() as folder:
        settings = {scheme: replace(each, cache_dir=Path(folder)) for scheme, each in settings.items()}
        found = {link: measured(urls, settings, link, arguments) for link in links}
    path = write(
        "tls-cpu", "cpu", ", ".join(links), {"links": found, "load_average": os.getloadavg()}, arguments.results
    )
    for line in lines(found):
        print(line)
    print(f"record: {path}")


@contextlib.contextmanager
def destinations() -> Iterator[tuple[dict[str, str], dict[str, Settings]]]:
    """One destination for each scheme: its URL, and the settings with which a host goes there."""
    own = config.load()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        variables = {"AVEC_SECRETS_DIR": folder}
        urls = {
            scheme: stack.enter_context(destination(variables=variables, listen=f"{scheme}://127.0.0.1:0"))
            for scheme in SCHEMES
        }
        yield urls, {"tcp": own, "tls": replace(own, fingerprint=fingerprint_in(Path(folder) / "certificate.pem"))}


def measured(
    urls: Mapping[str, str], settings: Mapping[str, Settings], link: str, arguments: argparse.Namespace
) -> dict[str, object]:
    """Everything over one link; the ratios are of medians, TLS to plain."""
    took_s, digests = {}, set()
    with contextlib.ExitStack() as stack:
        ways = {scheme: stack.enter_context(over(url, link)) for scheme, url in urls.items()}
        hosts = {scheme: (way[0], settings[scheme]) for scheme, way in ways.items()}
        took_s["open"] = in_turns({scheme: partial(opening, *host) for scheme, host in hosts.items()}, 15, 1)
        sessions = {scheme: stack.enter_context(Session(*host)) for scheme, host in hosts.items()}
        for name, arrays, count in (("call", (), arguments.calls), ("frame_up", (FRAME,), arguments.frames)):
            work = {scheme: partial(call, session, arrays) for scheme, session in sessions.items()}
            took_s[name] = in_turns(work, count, BLOCK)
        for name, codec in CODECS.items():
            took_s[name] = {scheme: [] for scheme in SCHEMES}
            for _ in range(arguments.turns):
                for scheme, host in hosts.items():
                    said = loop(*host, codec, arguments.frames)
                    took_s[name][scheme] += said["frame_s"][LEARNING:]
                    digests.add(said["digest"])
    milliseconds = {
        name: {scheme: summary([1e3 * each for each in values]) for scheme, values in schemes.items()}
        for name, schemes in took_s.items()
    }
    return {
        "link": {
            scheme: {"round_trip_ms": way.round_trip_ms, "up_gbit_s": way.up_gbit_s, "down_gbit_s": way.down_gbit_s}
            for scheme, (_, way) in ways.items()
        },
        "frame_nbytes": FRAME.nbytes,
        "ms": milliseconds,
        "ratio": {name: each["tls"]["p50"] / each["tcp"]["p50"] for name, each in milliseconds.items()},
        "same_bits": len(digests) == 1,
    }


def in_turns(works: Mapping[str, Callable[[], None]], count: int, block: int) -> dict[str, list[float]]:
    """Seconds of each work, `count` times; `block` times in a row before it is the next one's turn."""
    took_s: dict[str, list[float]] = {scheme: [] for scheme in works}
    for _ in range(count // block):
        for scheme, work in works.items():
            for _ in range(block):
                began_s = time.perf_counter()
                work()
                took_s[scheme].append(time.perf_counter() - began_s)
    return took_s


def opening(url: str, settings: Settings) -> None:
    """From connecting until the worker is ready, and its end, which is not waited for long."""
    Session(url, settings).close()


def call(session: Session, arrays: tuple[np.ndarray, ...]) -> None:
    """A call with these tensors: handle 0 names nothing, which is the quickest answer."""
    session.run(0, "nothing", b"", arrays).wait_ended()


def loop(url: str, settings: Settings, codec: str, frames: int) -> dict:
    """The frame loop, a process of its own under AVEC; what it said."""
    known = ["env", f"AVEC_FINGERPRINT={settings.fingerprint}"] if settings.fingerprint else []
    avec = ["-m", "avec", "run", "--on", url, "--codec", codec]
    return run([*avec, str(HERE / "codec_loop.py"), str(CLIP), "--frames", str(frames), "--noise", "2"], known)


def lines(found: dict) -> Iterator[str]:
    """The results for a person."""
    for link, each in found.items():
        yield f"{link}: same bits: {each['same_bits']}"
        for name, schemes in each["ms"].items():
            plain, encrypted = (schemes[scheme]["p50"] for scheme in SCHEMES)
            yield f"  {name:9} tcp {plain:8.3f} ms, tls {encrypted:8.3f} ms: {each['ratio'][name]:.2f}"


if __name__ == "__main__":
    main()
