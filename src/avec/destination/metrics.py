"""Serves a destination's metrics in Prometheus's format on loopback, from a process of its own.

So no scraper, however slow, holds hosts up, and the server stays without threads, which it must be to fork. At each
scrape the process asks the server for its status over a pair of sockets. It tells sums alone: no user's name and no
program's, since everybody on this machine can read it. Needs the package prometheus-client.
Started as `python -m avec.destination.metrics FD PORT`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import msgspec

from avec.errors import ConfigurationError
from avec.protocol.messages import Status

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

ADDRESS = "127.0.0.1"
QUESTION = b"?"
ANSWER_NBYTES = 64 * 1024  # larger than any status
ANSWER_S = 5.0
START_S = 30.0
END_S = 5.0


class MetricsProcess:
    """The process as the server has it: started, answered, ended. A context manager."""

    def __init__(self, port: int) -> None:
        """Start it; blocks until it serves.

        Raises:
            ConfigurationError: the package is not installed, or the port cannot be listened at.
        """
        if importlib.util.find_spec("prometheus_client") is None:
            raise ConfigurationError("--metrics needs prometheus-client: pip install 'avec[destination-metrics]'")
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "avec.destination.metrics", str(theirs.fileno()), str(port)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.socket.settimeout(START_S)
        said = b""
        with contextlib.suppress(OSError):
            said = self.socket.recv(ANSWER_NBYTES)
        self.socket.settimeout(None)
        if said != QUESTION:
            self.__exit__()
            raise ConfigurationError(
                f"metrics cannot be served at {ADDRESS}:{port}: {said.decode() or 'the process that would ended'}"
            )

    def answer(self, status: Status) -> None:
        """Take a question and answer it. Never blocks.

        Raises:
            OSError: the process is gone, or does not take the answer.
        """
        if not self.socket.recv(len(QUESTION)):
            raise ConnectionError("the process that served them has ended")
        self.socket.send(msgspec.msgpack.encode(status), socket.MSG_DONTWAIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
            return
        self._process.kill()
        self._process.wait()


class Collector:
    """Asks the server and puts its answer in Prometheus's terms; see docs/operations.md for each."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._server.settimeout(ANSWER_S)
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """One scrape.

        Raises:
            OSError: the server does not answer; the scraper gets a 500.
        """
        with self._lock:
            self._server.send(QUESTION)
            status = msgspec.msgpack.decode(self._server.recv(ANSWER_NBYTES), type=Status)
        return families(status)


def families(status: Status) -> Iterator[Metric]:
    """The metrics of one status."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    places, totals = status.places, status.totals
    gauges = {
        "avec_sessions": ("Sessions that are open.", status.sessions),
        "avec_sessions_limit": ("Sessions that may be open.", places.sessions_limit),
        "avec_sessions_waiting": ("Sessions whose connection broke and whose worker waits.", status.waiting),
        "avec_uploads": ("Uploads under way.", places.uploads),
        "avec_uploads_limit": ("Uploads that may be under way.", places.uploads_limit),
        "avec_strangers": ("Connections that have not said hello.", places.strangers),
        "avec_strangers_limit": ("Connections that may not have said hello.", places.strangers_limit),
        "avec_models": ("Models in the cache.", status.models),
        "avec_models_bytes": ("Bytes of models in the cache.", status.models_nbytes),
        "avec_models_limit_bytes": ("Bytes of models that the cache may hold.", status.models_limit_nbytes),
        "avec_disk_free_bytes": ("Free bytes of the disk that the cache is on.", status.disk_free_nbytes),
        "avec_accelerator_held_bytes": ("Accelerator memory that sessions hold.", status.memory_nbytes),
        "avec_uptime_seconds": ("Since the destination was started.", status.uptime_s),
        "avec_draining": ("1 while it shuts down, else 0.", float(status.draining)),
    }
    counters = {
        "avec_sessions_begun": ("Sessions that were begun.", totals.sessions),
        "avec_uploads_begun": ("Uploads that were begun.", totals.uploads),
        "avec_sessions_resumed": ("Connections over which a host came back.", totals.resumed),
        "avec_sessions_vacated": ("Waiting sessions that were ended for their user's next.", totals.vacated),
        "avec_calls": ("Calls that were carried out.", totals.calls),
        "avec_calls_failed": ("Calls that failed.", totals.failed),
        "avec_accelerator_used_seconds": ("For how long sessions used the accelerator.", totals.used_s),
        "avec_zygote_restarts": ("How often the zygote died and was started again.", totals.zygote_restarts),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, value)
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(name, text, value)
    refused = CounterMetricFamily("avec_refused", "Connections that were refused.", labels=["reason"])
    for reason, count in sorted({"authentication": 0, **totals.refused}.items()):
        refused.add_metric([reason], count)
    yield refused
    accelerators = GaugeMetricFamily("avec_accelerator_memory_bytes", "Its memory.", labels=["kind", "name"])
    for each in status.accelerators:
        accelerators.add_metric([each.kind, each.name], each.memory_nbytes)
    yield accelerators


def main() -> None:
    """Entry point of the process: serve until the server has closed its end."""
    from prometheus_client import CollectorRegistry, start_http_server

    for number in (signal.SIGINT, signal.SIGTERM):  # the server alone decides; it is scraped while it drains, too
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as server:
        registry = CollectorRegistry()
        try:
            httpd, _ = start_http_server(int(sys.argv[2]), ADDRESS, registry)
        except OSError as exc:
            server.send((exc.strerror or str(exc)).encode())
            return
        registry.register(Collector(server))
        sys.stderr.write(f"avec: metrics at http://{ADDRESS}:{httpd.server_port}/metrics\n")
        sys.stderr.flush()
        server.send(QUESTION)
        poll = select.poll()
        poll.register(server, 0)  # POLLHUP alone
        poll.poll()
        os._exit(0)  # a scrape under way has nobody left to ask


if __name__ == "__main__":
    main()
