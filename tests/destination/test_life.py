"""Processes of a destination that are stopped: they are found, killed, and hold no place any more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avec.communication import tcp
from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.destination.life import QUESTIONS, Lives, answer, pair
from avec.errors import DestinationUnreachable
from avec.host.session import Session, probe
from avec.protocol.codec import encode
from avec.protocol.messages import VERSION, Hello
from destinations import SLOW, SLOW_SHAPE, Destination, Net, alive, await_true, children, floats, relu, running

pytestmark = pytest.mark.usefixtures("tidy")

TIMEOUT_S = 3.0
FOUND_S = 40.0  # on a busy machine


class Clock:
    """Stands still until the test moves it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def lives() -> Iterator[tuple[Lives, Clock, socket.socket, list[str]]]:
    """One process is watched, which answers when the test does."""
    clock, ended = Clock(), list[str]()
    lives = Lives(QUESTIONS, clock)  # one question a second
    ours, theirs = pair()
    with ours, theirs:
        lives.watch("one", ours, lambda: ended.append("one"))
        yield lives, clock, theirs, ended


def test_who_answers_is_asked_again_and_never_ended(lives: tuple[Lives, Clock, socket.socket, list[str]]) -> None:
    watching, clock, theirs, ended = lives
    for second in range(20):
        assert answer(theirs)
        assert watching.deadline_s() == second + 1
        clock.now_s += 1.0
        watching.look()
    assert not ended


def test_who_is_silent_is_ended_and_until_it_is_forgotten(lives: tuple[Lives, Clock, socket.socket, list[str]]) -> None:
    watching, clock, _, ended = lives
    for _ in range(QUESTIONS):
        clock.now_s += 1.0
        watching.look()
        assert not ended
    for _ in range(2):
        clock.now_s += 1.0
        watching.look()
    assert ended == ["one", "one"]
    watching.forget("one")
    assert watching.deadline_s() is None


def test_a_server_that_was_stopped_itself_takes_nobody_for_silent(
    lives: tuple[Lives, Clock, socket.socket, list[str]],
) -> None:
    watching, clock, theirs, ended = lives
    clock.now_s += 1000.0
    watching.look()
    assert answer(theirs)
    clock.now_s += 1.0
    watching.look()
    assert not ended


def test_silence_counts_from_when_a_process_could_be_started(
    lives: tuple[Lives, Clock, socket.socket, list[str]],
) -> None:
    watching, clock, _, ended = lives
    for _ in range(20):
        clock.now_s += 1.0
        watching.pardon()
        watching.look()
    assert not ended


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


def test_a_worker_that_computes_for_long_is_not_killed(watched: Destination, patient: Settings) -> None:
    with Session(watched.url, patient, "test") as session:
        net = Net(session, SLOW, SLOW_SHAPE)
        calls = [net.forward(np.zeros(SLOW_SHAPE, np.float32)) for _ in range(6)]
        for call in calls:
            call.wait()


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
