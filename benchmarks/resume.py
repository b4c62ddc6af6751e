"""Measure how long a broken connection takes to be mended, and what being able to costs the calls.

`python benchmarks/resume.py` prints a table; `--output FILE` writes the record as JSON. Host, destination and the relay
that resets connections are processes and threads of this machine, on loopback: on a link a mend takes two round trips
more, three over TLS. The costs are measured by two sessions in turns, one with resume and one without. How long
it takes to notice a link that swallows everything is measured in a network namespace whose loopback is cut, which takes
root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from avec import config
from avec.bench import processes
from avec.config import Settings
from avec.host.session import Session

LARGE_NBYTES = 8 << 20
BLOCK = 200  # small calls in a row, before it is the other session's turn
PIECE_NBYTES = 64 * 1024
CUT_S = 2.5
TOOK = re.compile(r"after (\d+\.\d+) s")  # in what a session says when it goes on, since it noticed the break


class Resetting:
    """Relays to a destination, and resets all connections when told to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{parts.scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Reset the connections that there are; new ones may come."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown(socket.SHUT_RD)  # wakes the thread that copies
            sock.close()

    def _accept(self) -> None:
        while True:
            host, destination = self._listener.accept()[0], socket.create_connection(self._target)
            for sock in (host, destination):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [host, destination]
            for ends in ((host, destination), (destination, host)):
                threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(PIECE_NBYTES):
                sink.sendall(data)
        except OSError:
            return  # it was reset


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resets", type=int, default=200)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--here", action="store_true", help="cut this machine's loopback, and measure nothing else")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(noticed(config.load(), options.cuts)))
        return
    record: dict[str, object] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": f"Python {platform.python_version()}, numpy {np.__version__}",
        "repeats": {"resets": options.resets, "calls": options.calls, "cuts": options.cuts},
        "cut_noticed_s": in_a_namespace(options.cuts),
    }
    with tempfile.TemporaryDirectory() as folder, processes.destination() as url:
        settings = replace(config.load(), cache_dir=Path(folder))
        record["mend_ms"] = mended(url, settings, options.resets)
        record["small_call_us"] = small_calls(url, settings, options.calls)
        record["call_of_8_MiB_ms"] = large_calls(url, settings)
    for name, values in record.items():
        print(f"{name}: {values}")
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=2) + "\n")


def spread(times_s: list[float], unit: float, digits: int = 1) -> dict[str, float]:
    """Median and 95th percentile of times."""
    times_s = sorted(times_s)
    return {
        "median": round(unit * statistics.median(times_s), digits),
        "p95": round(unit * times_s[int(0.95 * len(times_s))], digits),
        "most": round(unit * times_s[-1], digits),
    }


def in_a_namespace(cuts: int) -> dict[str, float] | str:
    """`noticed`, in a network namespace of its own; why not, where that cannot be."""
    script = f'ip link set lo up && exec "{sys.executable}" "{__file__}" --here --cuts {cuts}'
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    found: dict[str, float] | str = json.loads(done.stdout) if not done.returncode else done.stderr.strip()[-200:]
    return found


def noticed(settings: Settings, cuts: int) -> dict[str, float]:
    """From when everything that is sent is swallowed until an idle session begins to look for another way."""
    times_s: list[float] = []
    said: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, processes.destination() as url:
        settings = replace(settings, cache_dir=Path(folder))
        with Session(url, settings, on_mended=lambda line: said.put((line, time.perf_counter()))) as session:
            for _ in range(cuts):
                small_call(session)
                time.sleep(random.uniform(1.0, 1.0 + settings.heartbeat_s))  # at any time between two heartbeats
                subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "blackhole"], check=True)
                began_s = time.perf_counter()
                time.sleep(CUT_S)
                subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)
                line, ended_s = said.get(timeout=30.0)
                times_s.append(ended_s - float(TOOK.findall(line)[-1]) - began_s)
    return spread(times_s, 1.0, 2)


def mended(url: str, settings: Settings, resets: int) -> dict[str, float]:
    """From a reset to the answer of a call that was made after it."""
    relay, times_s = Resetting(url), []
    with Session(relay.url, settings) as session:
        for _ in range(resets):
            small_call(session)
            began_s = time.perf_counter()
            relay.reset()
            small_call(session)
            times_s.append(time.perf_counter() - began_s)
        assert session.mended == resets
    return spread(times_s, 1e3)


def small_call(session: Session) -> None:
    """A call without tensors: handle 0 names nothing, which is the quickest answer."""
    session.run(0, "nothing", b"").wait_ended()


def small_calls(url: str, settings: Settings, calls: int) -> dict[str, dict[str, float]]:
    """One small call after another, with resume and without."""
    times_s: dict[str, list[float]] = {"with resume": [], "without": []}
    with Session(url, settings) as able, closing(Session(url, replace(settings, resume_timeout_s=0.0))) as unable:
        for _ in range(calls // BLOCK):
            for name, session in (("with resume", able), ("without", unable)):
                for _ in range(BLOCK):
                    began_s = time.perf_counter()
                    small_call(session)
                    times_s[name].append(time.perf_counter() - began_s)
    return {name: spread(each, 1e6) for name, each in times_s.items()}


def large_calls(url: str, settings: Settings) -> dict[str, dict[str, float]]:
    """Calls with a large tensor whose memory the program wants back before it goes on."""
    times_s: dict[str, list[float]] = {"with resume": [], "without": []}
    x = np.zeros(LARGE_NBYTES, np.uint8)
    with Session(url, settings) as able, closing(Session(url, replace(settings, resume_timeout_s=0.0))) as unable:
        for _ in range(20):
            for name, session in (("with resume", able), ("without", unable)):
                began_s = time.perf_counter()
                calls = []
                for _ in range(10):
                    calls.append(session.run(0, "nothing", b"", [x]))
                    calls[-1].wait_sent()
                calls[-1].wait_ended()
                times_s[name].append((time.perf_counter() - began_s) / 10)
    return {name: spread(each, 1e3) for name, each in times_s.items()}


if __name__ == "__main__":
    main()
