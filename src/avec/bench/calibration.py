"""Whether a link is what its name says: its round trip and goodput, measured before it is used.

The round trip that a link is named by is what a socket sees, 100 bytes there and back. Relaying itself takes a part of
it, and the relay's delay is what is left. A control, relayed without rate or delay, says how large that part is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from avec.bench.links import LinkProfile, relayed
from avec.bench.record import summary
from avec.errors import DestinationUnreachable

MESSAGE_NBYTES = 100
ROUND_TRIPS, ROUND_TRIPS_S = 200, 0.4  # whichever ends first
WARM_ROUND_TRIPS = 5
CONNECTIONS, CONNECT_TIMEOUT_S = 5, 5.0
STREAM_S = 0.25  # how long a stream takes at the link's rate
STREAM_NBYTES = (4 << 20, 256 << 20)  # bounds of it
CORRECTIONS, TOLERANCE = 3, 0.02  # at most so many, until the round trip is right to this fraction
CONTROL = LinkProfile("control", relayed=True)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a link was measured to be; goodput is 0 where it was not measured."""

    round_trip_ms: dict[str, float]  # a summary
    up_gbit_s: float
    down_gbit_s: float
    delay_ms: float  # how long the relay holds a byte, one way

    def behind(self, round_trip_s: float) -> Calibration:
        """The same link with a way to another machine at its end."""
        round_trip_ms = {name: ms + 1e3 * round_trip_s * (name != "n") for name, ms in self.round_trip_ms.items()}
        return replace(self, round_trip_ms=round_trip_ms)

    @property
    def round_trip_s(self) -> float:
        """The median."""
        return self.round_trip_ms["p50"] / 1e3

    @property
    def rates(self) -> tuple[float, float]:
        """Up and down, bytes per second."""
        return self.up_gbit_s * 1e9 / 8, self.down_gbit_s * 1e9 / 8


def calibrate_direct() -> Calibration:
    """Measure this machine's own loopback."""
    with _peer() as url:
        return _measured(url, LinkProfile("loopback", relayed=False), 0.0)


def calibrate_way(url: str) -> Calibration:
    """Measure the round trip to a destination on another machine, by connecting; goodput takes a peer there."""
    round_trips_ms = []
    for _ in range(CONNECTIONS):
        began_s = time.monotonic()
        with _connected(url):
            round_trips_ms.append(1e3 * (time.monotonic() - began_s))
    return Calibration(summary(round_trips_ms), 0.0, 0.0, 0.0)


def calibrate_relay(link: LinkProfile) -> Calibration:
    """Find the delay with which a relayed link has its round trip, and measure the link with that."""
    best = found = _relayed(link, link.round_trip_s / 2)
    for _ in range(CORRECTIONS if link.round_trip_s else 0):
        if _error_s(best, link) <= TOLERANCE * link.round_trip_s:
            break
        excess_s = found.round_trip_s - link.round_trip_s
        found = _relayed(link, max(0.0, found.delay_ms / 1e3 - excess_s / 2))
        best = min(best, found, key=lambda each: _error_s(each, link))
    return best


def _error_s(found: Calibration, link: LinkProfile) -> float:
    return abs(found.round_trip_s - link.round_trip_s)


def _relayed(link: LinkProfile, delay_s: float) -> Calibration:
    with _peer() as url, relayed(url, link, delay_s) as relay_url:
        return _measured(relay_url, link, delay_s)


def _measured(url: str, link: LinkProfile, delay_s: float) -> Calibration:
    nbytes = int(link.rate * STREAM_S) or STREAM_NBYTES[1]
    nbytes = min(max(nbytes, STREAM_NBYTES[0]), STREAM_NBYTES[1])
    round_trips_ms: list[float] = []
    with _connected(url) as sock:
        deadline_s = time.monotonic() + ROUND_TRIPS_S
        while len(round_trips_ms) < WARM_ROUND_TRIPS + ROUND_TRIPS:
            began_s = time.monotonic()
            sock.sendall(bytes(MESSAGE_NBYTES))
            _receive(sock, bytearray(MESSAGE_NBYTES))
            round_trips_ms.append(1e3 * (time.monotonic() - began_s))
            if began_s > deadline_s and len(round_trips_ms) > 2 * WARM_ROUND_TRIPS:
                break
    round_trip = summary(round_trips_ms[WARM_ROUND_TRIPS:])
    with _connected(url) as sock:
        sock.sendall(nbytes.to_bytes(MESSAGE_NBYTES, "little"))
        data, answer = bytearray(b"\1") * nbytes, bytearray(1)  # written once, so that its pages are there
        _receive(sock, answer)  # the peer has its own
        began_s = time.monotonic()
        sock.sendall(data)
        _receive(sock, answer)
        up_s = time.monotonic() - began_s - round_trip["p50"] / 1e3
        began_s = time.monotonic()
        sock.sendall(answer)
        _receive(sock, data)
        down_s = time.monotonic() - began_s - round_trip["p50"] / 1e3
    return Calibration(round_trip, 8e-9 * nbytes / up_s, 8e-9 * nbytes / down_s, 1e3 * delay_s)


@contextlib.contextmanager
def _peer() -> Iterator[str]:
    """A server for two connections: one whose messages it sends back, and one for streams, first up, then down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def _serve(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while message := sock.recv(MESSAGE_NBYTES):
            sock.sendall(message)
    sock, _ = listener.accept()
    with sock:
        head = bytearray(MESSAGE_NBYTES)
        _receive(sock, head)
        data = bytearray(b"\1") * int.from_bytes(head, "little")
        sock.sendall(b"!")
        _receive(sock, data)
        sock.sendall(b"!")
        _receive(sock, bytearray(1))
        sock.sendall(data)


@contextlib.contextmanager
def _connected(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    try:
        sock = socket.create_connection((parts.hostname, parts.port or 0), CONNECT_TIMEOUT_S)
    except OSError as exc:
        raise DestinationUnreachable(f"nobody answers at {url} ({exc}); is `avec serve` running there?") from exc
    with sock:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def _receive(sock: socket.socket, target: bytearray) -> None:
    """Fill memory.

    Raises:
        ConnectionError: the other end closed.
    """
    view = memoryview(target)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise ConnectionError("the link ended while it was being calibrated")
        view = view[count:]
