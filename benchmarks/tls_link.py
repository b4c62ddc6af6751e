"""Measure what TLS 1.3 costs on a link: throughput and round trip of tls:// beside tcp://, on loopback.

`python benchmarks/tls_link.py` prints a table; `--output FILE` writes the record as JSON. Both ends are processes of
this machine, so with few cores they share them, which a real link does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import platform
import ssl
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

from avec import communication
from avec.communication import tls
from avec.communication.tcp import TcpTransport
from avec.communication.tls import TlsState, TlsTransport, Trust
from avec.communication.transport import Listener, Transport
from avec.destination.certificates import fingerprint_in, make_certificate

FRAME_NBYTES = 368 * 656 * 3 * 4  # one frame of OpenPose
SMALL_NBYTES = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--round-trips", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    record: dict[str, object] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores, {platform.system()}",
        "versions": f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "frame_nbytes": FRAME_NBYTES,
        "repeats": {"round_trips": options.round_trips, "frames": options.frames},
    }
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder) / "certificate.pem"
        certificate.write_bytes(make_certificate("benchmark"))
        for scheme in ("tcp", "tls"):
            record[scheme] = measured(scheme, certificate, options.round_trips, options.frames)
            print(f"{scheme}: {record[scheme]}")
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=2) + "\n")


def measured(scheme: str, certificate: Path, round_trips: int, frames: int) -> dict[str, float]:
    """Time a link of one scheme from the host's end."""
    with contextlib.closing(communication.listen(f"{scheme}://127.0.0.1:0")) as listener:
        answering = multiprocessing.get_context("fork").Process(
            target=answer, args=(listener, certificate, round_trips, frames)
        )
        answering.start()
        trust = Trust(fingerprint_in(certificate)) if scheme == "tls" else None
        began_s = time.perf_counter()
        transport = communication.connect(listener.url, 10.0, trust)
        connected_s = time.perf_counter() - began_s
        with contextlib.closing(transport):
            small, frame = bytearray(SMALL_NBYTES), bytearray(FRAME_NBYTES)
            times_s = []
            for _ in range(round_trips):
                began_s = time.perf_counter()
                transport.send([small])
                receive(transport, memoryview(small))
                times_s.append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            for _ in range(frames):
                transport.send([memoryview(frame)])
            receive(transport, memoryview(bytearray(1)))
            stream_s = time.perf_counter() - began_s
        answering.join()
    times_s.sort()
    return {
        "connect_ms": round(connected_s * 1e3, 3),
        "round_trip_p50_us": round(statistics.median(times_s) * 1e6, 1),
        "round_trip_p95_us": round(times_s[int(0.95 * len(times_s))] * 1e6, 1),
        "throughput_gb_s": round(frames * FRAME_NBYTES / stream_s / 1e9, 3),
    }


def answer(listener: Listener, certificate: Path, round_trips: int, frames: int) -> None:
    """The other end: echo what is small, count what is large."""
    transport: Transport = listener.accept()
    if listener.url.startswith("tls"):
        assert isinstance(transport, TcpTransport)
        state = TlsState(tls.destination_context(certificate), server_side=True)
        tls.shake_hands(transport, state, time.monotonic() + 10.0)
        transport = TlsTransport(transport, state)
    small, frame = bytearray(SMALL_NBYTES), bytearray(FRAME_NBYTES)
    for _ in range(round_trips):
        receive(transport, memoryview(small))
        transport.send([small])
    for _ in range(frames):
        receive(transport, memoryview(frame))
    transport.send([b"!"])


def receive(transport: Transport, view: memoryview) -> None:
    """Fill memory."""
    while view:
        view = view[transport.receive_into(view) :]


if __name__ == "__main__":
    main()
