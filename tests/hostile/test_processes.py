"""Each process of a destination killed and stopped in each state of a session: the right result, or one clear error.

Long: `make test-hostile`. What a host sees of its own worker's and server's end is in `make test` (`host/test_faults`,
`host/test_resume`, `destination/test_status`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from avec.config import Settings
from avec.errors import AvecError, DestinationUnreachable, SessionLost
from avec.host import models
from avec.host.session import Session, probe
from destinations import PYTHON, SLOW, SLOW_SHAPE, Destination, Net, alive, await_true, children, floats, relu, start
from hostile.test_boundaries import ALL
from launching import environ
from relay import Relay

pytestmark = [
    pytest.mark.skipif(not ALL, reason="one of the long tests of `make test-hostile`"),
    pytest.mark.usefixtures("nothing_left_open"),
]

Victim = Literal["worker", "zygote", "server"]
LARGE = 4 << 20  # floats: 16 MiB
SLOW_LINK = 2_000_000  # bytes per second: what is under way when a process ends would take many seconds more
BEGUN_NBYTES = 200_000  # after which it is under way
RESUME_S = 4.0
BOUND_S = 40.0  # for any outcome: heartbeats, the time to resume, and a busy machine
RIGHT = "the right result"


class Keeper:
    """Has a destination ready, and starts another where a test has ended it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self._destination: Destination | None = None

    def get(self) -> Destination:
        if self._destination is None or self._destination.process.poll() is not None:
            self.end()
            self._started += 1
            variables = {"AVEC_HEARTBEAT_S": "0.2", "AVEC_IDLE_HOST_TIMEOUT_S": "4", "AVEC_DRAIN_TIMEOUT_S": "15"}
            self._destination = start(self._folder / str(self._started), **variables)
        return self._destination

    def end(self) -> None:
        if self._destination is not None:
            with contextlib.suppress(ProcessLookupError):
                self._destination.process.send_signal(signal.SIGCONT)
            self._destination.process.kill()
            self._destination.process.wait()
            self._destination = None


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path_factory.mktemp("processes"))
    yield keeper
    keeper.end()


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """A host that notices a silence after 3 s, which no busy machine keeps, and rebuilds nothing."""
    return replace(
        settings, heartbeat_s=0.2, heartbeat_misses=15, resume_timeout_s=RESUME_S, connect_timeout_s=2.0, recovery="off"
    )


@dataclass
class Scene:
    """A session in some state, and how it comes to its end: True if what it brings is right."""

    session: Session
    relay: Relay
    destination: Destination
    finish: Callable[[], bool] = lambda: True

    def end(self) -> bool:
        """What was slowed down goes on at full speed."""
        self.relay.up.rate = self.relay.down.rate = 0.0
        return self.finish()


def idle(scene: Scene) -> None:
    net = relu(scene.session)
    scene.finish = lambda: net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


def calling(scene: Scene) -> None:
    net = Net(scene.session, SLOW, SLOW_SHAPE)
    scene.relay.down.rate = SLOW_LINK  # or a fast accelerator's result is here before a busy test has ended the process
    call = net.forward(np.zeros(SLOW_SHAPE, np.float32))
    call.wait_sent()
    scene.finish = lambda: not call.wait().arrays[0].any()


def sending(scene: Scene) -> None:
    net = relu(scene.session, LARGE)
    x = np.arange(LARGE, dtype=np.float32)
    scene.relay.up.rate = SLOW_LINK
    begun = scene.relay.up.nbytes
    call = net.forward(x)
    scene.relay.up.wait_for(begun + BEGUN_NBYTES)
    scene.finish = lambda: bool(np.array_equal(call.wait().arrays[0], x))


def answering(scene: Scene) -> None:
    net = relu(scene.session, LARGE)
    x = np.arange(LARGE, dtype=np.float32)
    scene.relay.down.rate = SLOW_LINK
    begun = scene.relay.down.nbytes
    call = net.forward(x)
    scene.relay.down.wait_for(begun + BEGUN_NBYTES)
    scene.finish = lambda: bool(np.array_equal(call.wait().arrays[0], x))


def uploading(scene: Scene) -> None:
    scene.relay.up.rate = SLOW_LINK
    begun = scene.relay.up.nbytes
    model = os.urandom(12 << 20)
    ended: list[AvecError | str] = []
    settings = scene.session._settings

    def upload() -> None:
        try:
            ended.append(models.provide(scene.session, model, settings))
        except AvecError as exc:
            ended.append(exc)

    thread = threading.Thread(target=upload)
    thread.start()
    scene.relay.up.wait_for(begun + BEGUN_NBYTES)

    def finish() -> bool:
        thread.join()
        (end,) = ended
        if isinstance(end, AvecError):
            raise end
        return relu(scene.session).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]

    scene.finish = finish


def away(scene: Scene) -> None:
    net = relu(scene.session)
    call = net.forward(floats(1, -2, 3, 4))
    call.wait()
    scene.relay.silence()
    scene.relay.cut()  # made once the silence is over
    later = net.forward(floats(5, -6, 7, 8))

    def finish() -> bool:
        scene.relay.resume()
        return later.wait().arrays[0].tolist() == [5, 0, 7, 8]

    scene.finish = finish


def draining(scene: Scene) -> None:
    calling(scene)
    scene.destination.process.terminate()
    await_true(lambda: "draining" in scene.destination.log_text(), "it drains")


STATES = [idle, calling, sending, answering, uploading, away, draining]
STOPPED_LOSES = {("server", "away"), ("worker", "*")}  # where a stopped process is needed for going on


def expected(victim: Victim, number: signal.Signals, state: str) -> type[AvecError] | str:
    if number == signal.SIGKILL:
        return SessionLost
    return SessionLost if {(victim, state), (victim, "*")} & STOPPED_LOSES else RIGHT


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
@pytest.mark.parametrize("victim", ["worker", "zygote", "server"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_process_that_ends_or_stops_leaves_the_right_result_or_one_error(
    keeper: Keeper, hasty: Settings, state: Callable[[Scene], None], victim: Victim, number: signal.Signals
) -> None:
    destination = keeper.get()
    server = destination.process.pid
    await_true(lambda: len(children(server)) == 1, "there is a zygote")
    zygote = destination.zygote_pid
    await_true(lambda: not destination.workers(), "no earlier session is left")
    with Relay(destination.url) as relay:
        session = Session(relay.url, hasty, "hostile")
        worker = destination.only_worker()
        scene = Scene(session, relay, destination)
        state(scene)
        pid = {"worker": worker, "zygote": zygote, "server": server}[victim]
        os.kill(pid, number)
        if number == signal.SIGKILL:
            await_true(lambda: not alive(worker), "the worker ends with those above it")
        began_s = time.monotonic()
        try:
            outcome: type[AvecError] | str = RIGHT if scene.end() else "a wrong result"
        except AvecError as exc:
            outcome = type(exc)
        finally:
            took_s = time.monotonic() - began_s
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                if victim == "worker":
                    os.kill(pid, signal.SIGKILL)
            session.close()
    assert outcome == expected(victim, number, state.__name__)
    assert took_s < BOUND_S
    if state is draining or (victim, number) == ("server", signal.SIGKILL):
        destination.wait()
        return
    with Session(destination.url, hasty) as after:
        assert relu(after).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


@pytest.mark.parametrize("victim", ["worker", "zygote"])
@pytest.mark.parametrize("state", [idle, calling, sending, answering], ids=lambda state: state.__name__)
def test_a_session_whose_worker_ends_is_rebuilt(
    keeper: Keeper, hasty: Settings, state: Callable[[Scene], None], victim: Victim
) -> None:
    destination = keeper.get()
    await_true(lambda: len(children(destination.process.pid)) == 1, "there is a zygote")
    await_true(lambda: not destination.workers(), "no earlier session is left")
    patient = replace(hasty, resume_timeout_s=30.0, recovery="resume")  # in which a zygote starts on any machine
    with Relay(destination.url) as relay, Session(relay.url, patient, "hostile") as session:
        worker = destination.only_worker()
        scene = Scene(session, relay, destination)
        state(scene)
        os.kill(worker if victim == "worker" else destination.zygote_pid, signal.SIGKILL)
        await_true(lambda: not alive(worker), "the worker has ended")
        assert scene.end()
        assert session.restarted == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
@pytest.mark.parametrize("victim", ["zygote", "server"])
def test_a_destination_that_ends_or_stops_before_its_welcome_is_unreachable(
    keeper: Keeper, hasty: Settings, victim: Victim, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avec.host.greeting.WELCOME_TIMEOUT_S", 2.0)
    destination = keeper.get()
    await_true(lambda: len(children(destination.process.pid)) == 1, "there is a zygote")
    pid = destination.zygote_pid if victim == "zygote" else destination.process.pid
    os.kill(pid, signal.SIGSTOP)
    killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    if number == signal.SIGKILL:
        killer.start()
    began_s = time.monotonic()
    try:
        with pytest.raises(DestinationUnreachable, match="no destination answers at"):
            Session(destination.url, hasty)
    finally:
        if number == signal.SIGKILL:
            killer.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began_s < BOUND_S
    if (victim, number) == ("server", signal.SIGKILL):
        destination.wait()


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
import numpy as np
from avec.host.session import Session
from destinations import SLOW, SLOW_SHAPE, Net, floats, host_settings, relu
session = Session({url!r}, host_settings(Path({folder!r}), resume_timeout_s=1.0, heartbeat_s=0.2))
{code}
print("ready", flush=True)
input()
"""
CALLING = "call = Net(session, SLOW, SLOW_SHAPE).forward(np.zeros(SLOW_SHAPE, np.float32)); call.wait_sent()"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
@pytest.mark.parametrize("code", ["relu(session)", CALLING], ids=["idle", "calling"])
def test_a_host_that_ends_or_stops_leaves_no_worker(
    keeper: Keeper, settings: Settings, number: signal.Signals, code: str
) -> None:
    destination = keeper.get()
    await_true(lambda: probe(destination.url, settings).sessions == 0, "no earlier session is left")
    text = PROGRAM.format(
        tests=str(Path(__file__).parents[1]), url=destination.url, folder=str(settings.cache_dir), code=code
    )
    with subprocess.Popen(
        [PYTHON, "-c", text], env=environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        try:
            assert host.stdout is not None and host.stdout.readline() == "ready\n"
            assert probe(destination.url, settings).sessions == 1
            host.send_signal(number)
            await_true(lambda: probe(destination.url, settings).sessions == 0, "its worker has ended", BOUND_S)
        finally:
            host.kill()
