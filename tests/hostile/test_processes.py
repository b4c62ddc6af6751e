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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from accumulator import Accumulator
from avec.config import Settings
from avec.destination.certificates import fingerprint_in
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
CALLS, COUNT = 100, 20_000  # of a state that is rebuilt: 8 MB that are sent again
SLOW_LINK = 2_000_000  # bytes per second: what is under way when a process ends would take many seconds more
BEGUN_NBYTES = 200_000  # after which it is under way
LONG_TO_LOAD = (
    'type: "InnerProduct" inner_product_param '
    '{ num_output: 4096 bias_term: false weight_filler { type: "gaussian" std: 1 } }'
)
LONG_SHAPE = (1, 16384)  # 67 million random numbers: half a second and more
RESUME_S = 4.0
BOUND_S = 40.0  # for any outcome: heartbeats, the time to resume, and a busy machine
RIGHT = "the right result"


class Keeper:
    """Has a destination ready, and starts another where a test has ended it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._started = 0
        self._destination: Destination | None = None

    def get(self) -> Destination:
        if self._destination is None or self._destination.process.poll() is not None:
            self.end()
            self._started += 1
            variables = {"AVEC_HEARTBEAT_S": "0.2", "AVEC_IDLE_HOST_TIMEOUT_S": "4", "AVEC_DRAIN_TIMEOUT_S": "15"}
            self._destination = start(self._folder / str(self._started), *self._options, **variables)
        return self._destination

    @property
    def fingerprint(self) -> str:
        """Of the destination's certificate."""
        return fingerprint_in(self._folder / str(self._started) / "secrets" / "certificate.pem")

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


@pytest.fixture(scope="module")
def encrypting_keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path_factory.mktemp("encrypting"), "--listen", "tls://127.0.0.1:0")
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
    leave: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # what else ends with it

    def end(self) -> bool:
        """What was slowed down goes on at full speed."""
        self.relay.up.rate = self.relay.down.rate = 0.0
        return self.finish()


def _end(pid: int) -> None:
    """End a process that may be stopped, or be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


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


def loading(scene: Scene) -> None:
    before = scene.relay.up.nbytes
    net = Net(scene.session, LONG_TO_LOAD, LONG_SHAPE, wait=False)
    net.load.wait_sent()
    scene.relay.up.wait_for(before + 1)
    assert not net.load.done

    def finish() -> bool:
        net.load.wait()
        return bool(net.forward(np.zeros(LONG_SHAPE, np.float32)).wait().arrays[0].shape == (1, 4096))

    scene.finish = finish


def waiting_for_a_turn(scene: Scene) -> None:
    """Another session's worker has the accelerator and is stopped: it may keep it for a second."""
    net = relu(scene.session, LARGE)
    before = scene.destination.workers()
    other = scene.leave.enter_context(Session(scene.destination.url, scene.session._settings, "other"))
    (worker,) = scene.destination.workers() - before
    relu(other).forward(floats(1, 2, 3, 4)).wait()
    os.kill(worker, signal.SIGSTOP)
    scene.leave.callback(_end, worker)  # before the session is closed, which would wait for it
    x = np.arange(LARGE, dtype=np.float32)
    scene.relay.down.rate = SLOW_LINK
    call = net.forward(x)
    call.wait_sent()
    assert not call.done
    scene.finish = lambda: bool(np.array_equal(call.wait().arrays[0], x))


def resuming(scene: Scene) -> None:
    """The host has connected anew, and what it says then is on its way for half a second."""
    net = relu(scene.session)
    net.forward(floats(1, -2, 3, 4)).wait()
    connections = scene.relay.connections
    scene.relay.up.delay_s = 0.5
    scene.relay.cut(reset=True)
    await_true(lambda: scene.relay.connections > connections, "the host has connected anew")

    def finish() -> bool:
        scene.relay.up.delay_s = 0.0
        return net.forward(floats(5, -6, 7, 8)).wait().arrays[0].tolist() == [5, 0, 7, 8]

    scene.finish = finish


def saving(scene: Scene) -> None:
    """A snapshot is on its way to the host; what the tensor holds afterwards shows whether anything got lost."""
    expected = _accumulated(scene.destination, scene.session._settings, LARGE)
    state = Accumulator(scene.session, LARGE)
    state.add(np.ones(LARGE, np.float32)).wait()
    scene.relay.down.rate = SLOW_LINK
    begun = scene.relay.down.nbytes
    call = state.save()
    scene.relay.down.wait_for(begun + BEGUN_NBYTES)

    def finish() -> bool:
        call.wait()
        return state.add(np.ones(LARGE, np.float32)).wait().arrays[0].tobytes() == expected

    scene.finish = finish


def _accumulated(destination: Destination, settings: Settings, count: int, calls: int = 2) -> bytes:
    """What an accumulator has after some calls with ones."""
    before = destination.workers()
    with Session(destination.url, settings, "undisturbed") as session:
        state = Accumulator(session, count)
        last = [state.add(np.ones(count, np.float32)).wait() for _ in range(calls)][-1]
        data = last.arrays[0].tobytes()
    await_true(lambda: destination.workers() == before, "its worker has ended")
    return data


def draining(scene: Scene) -> None:
    calling(scene)
    scene.destination.process.terminate()
    await_true(lambda: "draining" in scene.destination.log_text(), "it drains")


STATES = [
    idle, loading, waiting_for_a_turn, calling, sending, answering, uploading, saving, away, resuming, draining
]  # fmt: skip
STOPPED_LOSES = {
    ("server", "away"),
    ("server", "resuming"),
    ("worker", "*"),
}  # where a stopped process is needed for going on


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
            scene.leave.close()
            session.close()
    assert outcome == expected(victim, number, state.__name__)
    assert took_s < BOUND_S
    if state is draining or (victim, number) == ("server", signal.SIGKILL):
        destination.wait()
        return
    with Session(destination.url, hasty) as after:
        assert relu(after).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


@pytest.mark.parametrize("victim", ["worker", "zygote"])
@pytest.mark.parametrize(
    "state",
    [idle, loading, waiting_for_a_turn, calling, sending, answering, saving, resuming],
    ids=lambda state: state.__name__,
)
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
        with scene.leave:
            assert scene.end()
        assert session.restarted == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
@pytest.mark.parametrize("victim", ["worker", "zygote", "server"])
def test_a_process_that_ends_or_stops_while_a_session_is_rebuilt(
    keeper: Keeper, hasty: Settings, victim: Victim, number: signal.Signals
) -> None:
    """The first worker is killed, and the next is being given the state when it, or what it needs, ends too."""
    destination = keeper.get()
    await_true(lambda: len(children(destination.process.pid)) == 1, "there is a zygote")
    await_true(lambda: not destination.workers(), "no earlier session is left")
    patient = replace(hasty, resume_timeout_s=30.0, recovery="resume")
    expected = _accumulated(destination, hasty, COUNT, CALLS + 1)
    with Relay(destination.url) as relay, Session(relay.url, patient, "hostile") as session:
        state = Accumulator(session, COUNT)
        given = np.ones(COUNT, np.float32)
        for _ in range(CALLS):
            state.add(given).wait()
        first = destination.only_worker()
        relay.up.rate = SLOW_LINK
        begun = relay.up.nbytes
        os.kill(first, signal.SIGKILL)
        call = state.add(given)
        relay.up.wait_for(begun + BEGUN_NBYTES)
        pid = {"worker": destination.only_worker, "zygote": lambda: destination.zygote_pid}.get(
            victim, lambda: destination.process.pid
        )()
        assert pid != first
        os.kill(pid, number)
        relay.up.rate = 0.0
        try:
            if (victim, number) == ("server", signal.SIGKILL):
                with pytest.raises(SessionLost, match="no session could be opened in its place: .*"):
                    call.wait()
                return
            assert call.wait().arrays[0].tobytes() == expected
            assert session.restarted == 1, "the worker that had a part of the state is not counted"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                if victim == "worker":
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
def test_an_upload_whose_worker_ends_or_stops_goes_on_at_another(
    keeper: Keeper, hasty: Settings, number: signal.Signals
) -> None:
    destination = keeper.get()
    await_true(lambda: not destination.workers(), "no earlier session is left")
    with Relay(destination.url) as relay, Session(relay.url, replace(hasty, resume_timeout_s=20.0)) as session:
        worker = destination.only_worker()
        scene = Scene(session, relay, destination)
        uploading(scene)
        (uploader,) = destination.workers() - {worker}
        os.kill(uploader, number)
        try:
            assert scene.end()
            assert session.restarted == 0
            assert alive(worker)
        finally:
            _end(uploader)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
@pytest.mark.parametrize(
    "state", [idle, calling, sending, answering, uploading, resuming], ids=lambda state: state.__name__
)
def test_an_encrypting_process_that_ends_or_stops_is_a_break(
    encrypting_keeper: Keeper, hasty: Settings, state: Callable[[Scene], None], number: signal.Signals
) -> None:
    destination = encrypting_keeper.get()
    server = destination.process.pid
    own = replace(hasty, fingerprint=encrypting_keeper.fingerprint, resume_timeout_s=20.0)
    await_true(lambda: children(server) == [destination.zygote_pid], "no earlier connection is left")
    with Relay(destination.url) as relay:
        session = Session(relay.url.replace("tcp", "tls"), own, "hostile")
        scene = Scene(session, relay, destination)
        state(scene)
        # The latest is the upload's, where there is one. A connection that is being resumed has none yet.
        victim = children(server)[-1]
        if state is resuming:
            await_true(lambda: children(server) == [destination.zygote_pid], "that of the reset connection has ended")
            await_true(lambda: len(children(server)) == 2, "that of the new one is there")
            victim = children(server)[-1]
        assert victim != destination.zygote_pid
        os.kill(victim, number)
        try:
            assert scene.end()
            assert session.mended >= (0 if state is uploading else 1)
            assert session.restarted == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
            session.close()
    await_true(lambda: children(server) == [destination.zygote_pid], "no process encrypts on", BOUND_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["KILL", "STOP"])
def test_a_worker_that_ends_or_stops_before_its_welcome_is_no_destination(
    keeper: Keeper, hasty: Settings, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avec.host.greeting.WELCOME_TIMEOUT_S", 3.0)
    destination = keeper.get()
    await_true(lambda: len(children(destination.process.pid)) == 1, "there is a zygote")
    await_true(lambda: not destination.workers(), "no earlier session is left")
    zygote = destination.zygote_pid
    forked = Path(f"/proc/{zygote}/task/{zygote}/children")  # read at once, which all of /proc is not
    before = forked.read_text().split()
    hit: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            new = [pid for pid in forked.read_text().split() if pid not in before]
            if new:
                os.kill(int(new[0]), number)
                hit.append(int(new[0]))
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    began_s = time.monotonic()
    try:
        with pytest.raises(DestinationUnreachable, match="no destination answers at"):
            Session(destination.url, hasty)
    finally:
        over.set()
        watcher.join()
        _end(hit[0])
    assert time.monotonic() - began_s < BOUND_S
    await_true(lambda: destination.sessions(hasty) == 0, "it takes no place any more")
    with Session(destination.url, hasty) as after:
        assert relu(after).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


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
