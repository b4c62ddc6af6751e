"""Links for measurements: their names, and that a relay delays and slows down as it says, and changes nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import avec.bench
from avec.bench.calibration import CONTROL, calibrate_relay
from avec.bench.links import LinkProfile, profile, relayed
from avec.errors import ConfigurationError

NBYTES = 3_000_000
SHAPED = Path(avec.bench.__file__).parent / "shaped_loopback.sh"
SHAPING_UNKNOWN = 77  # what the script ends with where the machine does not have what it takes
CALIBRATE = """
from avec.bench import calibration
calibration.STREAM_NBYTES = (64 << 20, 64 << 20)  # a second at the link's rate
print(calibration.calibrate_direct().up_gbit_s)
"""


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what one connection after another sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=send_back, args=(listener,))
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def send_back(listener: socket.socket) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:  # the test is over
            return
        with sock, contextlib.suppress(ConnectionError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)


def there_and_back(url: str, data: bytes) -> tuple[bytes, float]:
    """What comes back through a server that sends back, and after how long."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as sock:
        began_s = time.monotonic()
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        received = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        sender.join()
        return received, time.monotonic() - began_s


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loopback", LinkProfile("loopback", relayed=False)),
        ("1ms", LinkProfile("1ms", True, 0.001)),
        ("10gbit-0.1ms", LinkProfile("10gbit-0.1ms", True, 0.0001, 1.25e9)),
        ("100mbit-20ms~2ms", LinkProfile("100mbit-20ms~2ms", True, 0.02, 12.5e6, 0.002)),
    ],
)
def test_a_link_is_named_by_its_rate_and_its_round_trip(name: str, expected: LinkProfile) -> None:
    assert profile(name) == expected


@pytest.mark.parametrize("name", ["", "fast", "1s", "1gbit", "ms", "1kbit-1ms"])
def test_no_other_names_are_links(name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no link"):
        profile(name)


@pytest.mark.parametrize("name", ["0ms", "1gbit-2ms", "400mbit-1ms~1ms"])
def test_a_relay_passes_on_every_byte_in_order(echo: str, name: str) -> None:
    data = np.random.default_rng(0).bytes(NBYTES)
    link = profile(name)
    with relayed(echo, link, link.round_trip_s / 2) as url:
        assert there_and_back(url, data)[0] == data


def test_a_relay_holds_each_byte_for_its_delay(echo: str) -> None:
    with relayed(echo, profile("50ms"), 0.025) as url:
        assert 0.05 <= there_and_back(url, b"x")[1] < 0.25


def test_a_relay_lets_no_more_through_than_its_rate(echo: str) -> None:
    link = profile("100mbit-0ms")
    with relayed(echo, link, 0.0) as url:
        assert there_and_back(url, bytes(NBYTES))[1] >= NBYTES / link.rate


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    sock = socket.create_connection((str(parts.hostname), int(parts.port or 0)))
    sock.settimeout(10)
    return sock


def test_a_fault_ends_a_connection_at_its_byte_and_new_ones_may_come(echo: str) -> None:
    with relayed(echo, CONTROL, 0.0, ["--fault", "fin", "--after", "1000"]) as url:
        with connected(url) as sock:
            sock.sendall(bytes(3000))
            received = b"".join(iter(lambda: sock.recv(4096), b""))
        assert len(received) <= 1000
        assert there_and_back(url, b"again")[0] == b"again"


def test_a_fault_can_be_a_reset(echo: str) -> None:
    with relayed(echo, CONTROL, 0.0, ["--fault", "rst", "--after", "10"]) as url, connected(url) as sock:
        sock.sendall(bytes(10))
        with pytest.raises(ConnectionResetError):
            while sock.recv(4096):
                pass


def test_a_fault_can_leave_a_connection_over_which_nothing_comes(echo: str) -> None:
    with relayed(echo, CONTROL, 0.0, ["--fault", "silence", "--after", "5"]) as url, connected(url) as sock:
        sock.sendall(bytes(10))
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while sock.recv(4096):
                pass
        with connected(url) as other:
            other.sendall(b"x")
            other.settimeout(0.3)
            with pytest.raises(TimeoutError):
                other.recv(1)


def test_a_slow_reader_makes_the_sender_wait(echo: str) -> None:
    link = profile("8mbit-0ms")
    with relayed(echo, link, 0.0, ["--window", "65536"]) as url, connected(url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):  # a megabyte a second is read, and little waits in between
            sock.sendall(bytes(64 << 20))


def test_a_relay_to_nowhere_ends_its_connections() -> None:
    with relayed("tcp://127.0.0.1:1", CONTROL, 0.0) as url:
        parts = urlsplit(url)
        with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as sock:
            assert sock.recv(1) == b""


def test_calibration_finds_the_delay_that_makes_the_round_trip() -> None:
    found = calibrate_relay(profile("200mbit-20ms"))
    assert 19 < found.round_trip_ms["p50"] < 25  # relaying itself took a part of it, on a busy machine more than one
    assert 0 < found.delay_ms <= 10  # half the round trip is right to 2 % where relaying takes next to nothing
    assert found.up_gbit_s == pytest.approx(0.2, rel=0.2)
    assert found.down_gbit_s == pytest.approx(0.2, rel=0.2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network namespace")
def test_a_shaped_loopback_carries_its_rate() -> None:
    command = ["sh", str(SHAPED), "500mbit", sys.executable, "-c", CALIBRATE]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if finished.returncode == SHAPING_UNKNOWN:
        pytest.skip(finished.stderr.strip().splitlines()[-1])
    assert float(finished.stdout) == pytest.approx(0.5, rel=0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_loopback_is_not_shaped_without_root() -> None:
    text = SHAPED.read_text("utf-8")  # that user may not be able to read the file
    command = ["sh", "-s", "100mbit", "true"]
    finished = subprocess.run(command, input=text, capture_output=True, text=True, user=65534, cwd="/", timeout=60)
    assert finished.returncode == SHAPING_UNKNOWN
    assert "cannot make a network namespace here; it takes root" in finished.stderr
