"""A process of a destination that is stopped or hangs, see `life`: it is found, ended, and its place is free."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avec.communication import tcp
from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.errors import DestinationUnreachable
from avec.host.session import Session, probe
from avec.protocol.codec import encode
from avec.protocol.messages import VERSION, Hello
from destinations import SLOW, SLOW_SHAPE, Destination, Net, alive, await_true, children, floats, relu, running
from hostile.test_boundaries import long

pytestmark = pytest.mark.usefixtures("tidy")

TIMEOUT_S = 3.0
FOUND_S = 40.0  # on a busy machine


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Hosts that find out soon what has become of their sessions, and rebuild nothing."""
    return replace(settings, recovery="off", resume_timeout_s=1.0, heartbeat_s=0.3)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination with two places that looks after its processes more often than it has to."""
    folder = tmp_path_factory.mktemp("watched")
    with running(folder, "--max-sessions", "2", AVEC_PROCESS_TIMEOUT_S=f"{TIMEOUT_S}") as destination:
        yield destination


def test_a_stopped_worker_leaves_its_place_when_its_host_has_gone(watched: Destination, patient: Settings) -> None:
    with Session(watched.url, patient, "other") as other:
        net = relu(other)
        before = watched.workers()
        session = Session(watched.url, patient, "test")
        worker = watched.new_worker(before)
        os.kill(worker, signal.SIGSTOP)
        session.close()
        await_true(lambda: probe(watched.url, patient).sessions == 1, "its place is free", FOUND_S)
        assert not alive(worker)
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


@long
def test_a_worker_that_computes_for_long_is_not_killed(watched: Destination, patient: Settings) -> None:
    with Session(watched.url, patient, "test") as session:
        net = Net(session, SLOW, SLOW_SHAPE)
        calls = [net.forward(np.zeros(SLOW_SHAPE, np.float32)) for _ in range(6)]
        for call in calls:
            call.wait()


@long
def test_a_stopped_upload_worker_leaves_its_place(watched: Destination, patient: Settings) -> None:
    with Session(watched.url, patient, "test"):
        before = watched.workers()
        host, port = watched.url.removeprefix("tcp://").split(":")
        with contextlib.closing(tcp.connect(host, int(port), 5.0)) as transport:
            transport.send(encode(Hello(VERSION, VERSION, "upload", "test")))
            await_true(lambda: len(watched.workers() - before) == 1, "it has a worker")
            worker = watched.new_worker(before)
            os.kill(worker, signal.SIGSTOP)
            await_true(lambda: probe(watched.url, patient).places.uploads == 0, "its place is free", FOUND_S)
            assert not alive(worker)


@long
def test_a_stopped_zygote_is_killed_who_waited_is_told_and_another_serves(
    watched: Destination, patient: Settings
) -> None:
    stopped = watched.zygote_pid
    restarts = probe(watched.url, patient).totals.zygote_restarts
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(DestinationUnreachable, match="no destination answers"):
        Session(watched.url, patient, "test")  # it waits until then
    await_true(lambda: probe(watched.url, patient).totals.zygote_restarts > restarts, "another is started", FOUND_S)
    assert not alive(stopped)
    with Session(watched.url, patient, "test") as session:
        assert relu(session).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
    assert "the zygote gives no sign of life for 3 s and is killed" in watched.log_text()


@long
def test_a_stopped_encryption_process_does_not_outlive_its_session(tmp_path: Path, patient: Settings) -> None:
    with running(tmp_path, "--listen", "tls://127.0.0.1:0", AVEC_PROCESS_TIMEOUT_S=f"{TIMEOUT_S}") as destination:
        settings = replace(patient, fingerprint=fingerprint_in(tmp_path / "secrets" / "certificate.pem"))

        def encryptions() -> list[int]:
            return [pid for pid in children(destination.process.pid) if pid != destination.zygote_pid]

        with Session(destination.url, settings, "test") as session:
            relu(session)
            (encryption,) = encryptions()
            os.kill(encryption, signal.SIGSTOP)
        await_true(lambda: not alive(encryption), "it is killed", FOUND_S)
        await_true(lambda: not destination.workers(), "its worker has ended", FOUND_S)
