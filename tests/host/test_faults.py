"""What a session does when the network, the worker, the user or the host's own process interferes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avec.config import Settings
from avec.errors import DestinationUnreachable, InvalidArgument, SessionLost
from avec.host.session import Session
from destinations import PYTHON, SLOW, SLOW_SHAPE, Destination, Net, await_true, floats, relu
from launching import environ
from relay import Relay

Open = Callable[..., Session]
MARGIN_S = 3.0  # for a busy machine


def hasty(settings: Settings) -> Settings:
    """Settings under which 0.6 s of silence are a cut."""
    return replace(settings, heartbeat_s=0.2, heartbeat_misses=3)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of hosts to whom a broken connection is a lost session; `test_resume.py` is about the others."""
    return replace(settings, resume_timeout_s=0.0)


@pytest.fixture
def relay(destination: Destination) -> Iterator[Relay]:
    with Relay(destination.url) as relay:
        yield relay


def interrupt(act: Callable[[], object], ready: Callable[[], object]) -> None:
    """Do something that blocks, and press Ctrl-C once `ready` has returned on another thread."""
    begun = threading.Event()
    main = threading.main_thread()
    state = Path(f"/proc/self/task/{main.native_id}/stat")

    def press() -> None:
        begun.wait()
        ready()
        # CPython misses a signal that comes between its last look for one and the beginning of a system call that
        # blocks, and this thread runs just then: give the main thread chances to run until it is seen to sleep.
        asleep = 0
        while asleep < 20:
            asleep = asleep + 1 if state.read_text().rpartition(") ")[2].startswith("S") else 0
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        begun.set()
        act()
    thread.join()


def fill(session: Session, nbytes: int) -> Callable[[], object]:
    """A call with so many bytes that fails quickly at the destination; gives its wait."""
    return session.run(999, "test.fill", b"", [np.zeros(nbytes, np.uint8)]).wait


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_cut_connection_is_a_lost_session_that_names_the_call(open_session: Open, relay: Relay, reset: bool) -> None:
    session = open_session(url=relay.url)
    net = Net(session, SLOW, SLOW_SHAPE)
    call = net.forward(np.zeros(SLOW_SHAPE, np.float32))
    call.wait_sent()
    relay.cut(reset)
    with pytest.raises(SessionLost, match=f"the session with {relay.url} was lost during caffe.forward: ") as caught:
        call.wait()
    assert any("The failing call was caffe.forward, made at " in note for note in caught.value.__notes__)


@pytest.mark.parametrize("offset", [1, 23, 24, 30, 4000])
def test_a_connection_cut_within_a_frame_is_a_lost_session(open_session: Open, relay: Relay, offset: int) -> None:
    session = open_session(url=relay.url)
    relay.up.cut_at = relay.up.nbytes + offset
    with pytest.raises(SessionLost):
        fill(session, 100_000)()


def test_after_a_loss_calls_are_refused_where_they_are_made(open_session: Open, relay: Relay) -> None:
    session = open_session(url=relay.url)
    relay.cut()
    await_true(lambda: not session.usable, "the cut is noticed")
    with pytest.raises(SessionLost, match=f"the session with {relay.url} is lost: .*closed the connection"):
        session.run(1, "x", b"")


def test_a_loss_ends_the_worker(destination: Destination, open_session: Open, relay: Relay) -> None:
    before = destination.workers()
    open_session(url=relay.url)
    worker = destination.new_worker(before)
    relay.cut(reset=True)
    await_true(lambda: worker not in destination.workers(), "the worker has ended")


def test_silence_is_a_loss_after_the_missed_heartbeats(open_session: Open, settings: Settings, relay: Relay) -> None:
    session = open_session(url=relay.url, settings=hasty(settings))
    net = relu(session)
    relay.silence()
    began_s = time.monotonic()
    with pytest.raises(SessionLost, match=r"nothing came from \S+ for 0.6 s; the link is cut"):
        net.forward(floats(1, 2, 3, 4)).wait()
    assert time.monotonic() - began_s < 0.6 + MARGIN_S


def test_silence_in_the_middle_of_a_large_send_is_a_loss(open_session: Open, settings: Settings, relay: Relay) -> None:
    session = open_session(url=relay.url, settings=hasty(settings))
    wait = fill(session, 64 << 20)
    relay.up.wait_for(100_000)
    relay.silence()
    with pytest.raises(SessionLost, match="the link is cut"):
        wait()


def test_a_long_call_is_no_silence(open_session: Open, settings: Settings) -> None:
    session = open_session(settings=replace(settings, heartbeat_s=0.1, heartbeat_misses=3))
    Net(session, SLOW, SLOW_SHAPE).forward(np.zeros(SLOW_SHAPE, np.float32)).wait()
    compute_s = session.recorder.cycles[-1].stages_ns[3] / 1e9
    assert compute_s > 0.3, "the call was too short to show anything"


def test_a_frame_that_takes_long_on_a_slow_link_is_no_silence(
    open_session: Open, settings: Settings, relay: Relay
) -> None:
    session = open_session(url=relay.url, settings=hasty(settings))
    relay.up.rate = 2_000_000
    began_s = time.monotonic()
    with pytest.raises(InvalidArgument, match="handle 999 names nothing"):
        fill(session, 3_000_000)()
    assert time.monotonic() - began_s > 1.2, "the link was too fast to show anything"


def test_a_result_that_takes_long_on_a_slow_link_is_no_silence(
    open_session: Open, settings: Settings, relay: Relay
) -> None:
    session = open_session(url=relay.url, settings=hasty(settings))
    net = relu(session, 750_000)
    relay.down.rate = 2_000_000
    x = np.ones(750_000, np.float32)
    np.testing.assert_array_equal(net.forward(x).wait().arrays[0], x)


def test_bytes_one_at_a_time_change_nothing(open_session: Open, relay: Relay) -> None:
    relay.up.slice_nbytes = relay.down.slice_nbytes = 1
    net = relu(open_session(url=relay.url))
    assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


def test_a_distant_destination_costs_one_round_trip_for_many_calls(open_session: Open, relay: Relay) -> None:
    net = relu(open_session(url=relay.url))
    relay.up.delay_s = relay.down.delay_s = 0.05
    began_s = time.monotonic()
    calls = [net.forward(floats(1, 2, 3, 4)) for _ in range(50)]
    calls[-1].wait()
    assert 0.1 <= time.monotonic() - began_s < 50 * 0.1 / 5


def test_the_measured_round_trip_is_the_links(open_session: Open, relay: Relay) -> None:
    relay.up.delay_s = relay.down.delay_s = 0.02
    session = open_session(url=relay.url)
    relu(session).forward(floats(1, 2, 3, 4)).wait()
    session.close()
    assert session.recorder.origin is not None
    assert 40 <= session.recorder.origin.round_trip_ms < 140


def test_a_damaged_header_ends_the_session_and_is_logged(
    destination: Destination, open_session: Open, relay: Relay
) -> None:
    session = open_session(url=relay.url)
    await_true(lambda: relay.down.nbytes > 0, "the welcome has passed")
    relu(session)
    relay.up.damage_at = relay.up.nbytes
    with pytest.raises(SessionLost):
        fill(session, 10)()
    await_true(lambda: "which is no AVEC frame" in destination.log_text(), "the worker has said why")


def test_a_stopped_worker_is_a_lost_session(destination: Destination, open_session: Open, settings: Settings) -> None:
    before = destination.workers()
    session = open_session(settings=hasty(settings))
    worker = destination.new_worker(before)
    os.kill(worker, signal.SIGSTOP)
    try:
        with pytest.raises(SessionLost, match="nothing came"):
            fill(session, 10)()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_killed_worker_is_lost_to_its_own_host_alone(destination: Destination, open_session: Open) -> None:
    other = relu(open_session())
    before = destination.workers()
    session = open_session()
    worker = destination.new_worker(before)
    call = Net(session, SLOW, SLOW_SHAPE, wait=False).forward(np.zeros(SLOW_SHAPE, np.float32))
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(SessionLost):
        call.wait()
    assert other.forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1
    assert relu(open_session()).forward(floats(5, 6, 7, 8)).wait().arrays[0][0] == 5
    await_true(lambda: "killed by SIGKILL" in destination.log_text(), "the destination has logged it")


def test_ctrl_c_while_waiting_leaves_the_session_usable(
    destination: Destination, open_session: Open, settings: Settings
) -> None:
    before = destination.workers()
    net = relu(open_session(settings=replace(settings, heartbeat_s=60.0)))
    worker = destination.new_worker(before)
    os.kill(worker, signal.SIGSTOP)
    call = net.forward(floats(1, 2, 3, 4))
    try:
        interrupt(call.wait, call.wait_sent)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert call.wait().arrays[0][0] == 1
    assert net.forward(floats(5, 6, 7, 8)).wait().arrays[0][0] == 5


def test_ctrl_c_in_a_large_send_tears_no_frame(relay: Relay, open_session: Open, settings: Settings) -> None:
    session = open_session(url=relay.url, settings=replace(settings, heartbeat_s=60.0))
    net = relu(session, 8 << 20)
    x = np.full(8 << 20, 3, np.float32)
    relay.up.rate = 20_000_000
    begun = relay.up.nbytes
    call = net.forward(x)
    interrupt(call.wait_sent, lambda: relay.up.wait_for(begun + 1_000_000))
    assert not call.done
    relay.up.rate = 0.0
    np.testing.assert_array_equal(call.wait().arrays[0], x)
    np.testing.assert_array_equal(net.forward(x + 1).wait().arrays[0], x + 1)


def test_ctrl_c_while_credit_lacks_takes_none(destination: Destination, open_session: Open, settings: Settings) -> None:
    before = destination.workers()
    session = open_session(settings=replace(settings, heartbeat_s=60.0))
    worker = destination.new_worker(before)
    whole = np.zeros(session.welcome.credit_nbytes, np.uint8)
    os.kill(worker, signal.SIGSTOP)
    try:
        call = session.run(999, "test.fill", b"", [whole])
        interrupt(lambda: session.run(999, "test.fill", b"", [whole]), lambda: None)
    finally:
        os.kill(worker, signal.SIGCONT)
    for wait in (call.wait, fill(session, 10), session.run(999, "test.fill", b"", [whole]).wait):
        with pytest.raises(InvalidArgument):
            wait()


def test_a_destination_that_says_nothing_is_unreachable(
    destination: Destination, settings: Settings, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avec.host.greeting.WELCOME_TIMEOUT_S", 0.2)
    relay.silence()
    with pytest.raises(DestinationUnreachable, match=f"no destination answers at {relay.url}: nothing came"):
        Session(relay.url, settings)


def test_a_destination_that_hangs_up_is_unreachable(settings: Settings, relay: Relay) -> None:
    relay.up.cut_at = 1
    with pytest.raises(DestinationUnreachable, match=f"no destination answers at {relay.url}: "):
        Session(relay.url, settings)


PREAMBLE = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
import numpy as np
from avec.errors import SessionLost
from avec.host.session import Session
from destinations import SLOW, SLOW_SHAPE, Net, floats, host_settings, relu
session = Session({url!r}, host_settings(Path({folder!r}), resume_timeout_s=0.0))
"""


def run_program(destination: Destination, settings: Settings, code: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a session of its own."""
    preamble = PREAMBLE.format(
        tests=os.path.dirname(os.path.dirname(__file__)), url=destination.url, folder=str(settings.cache_dir)
    )
    return subprocess.run(
        [PYTHON, "-c", preamble + code], env=environ(), capture_output=True, text=True, timeout=30, check=False
    )


def test_a_forked_child_has_no_session_and_the_parents_goes_on(destination: Destination, settings: Settings) -> None:
    done = run_program(
        destination,
        settings,
        """
net = relu(session)
pid = os.fork()
if not pid:
    session.forget()
    try:
        net.forward(floats(1, 2, 3, 4))
    except SessionLost as exc:
        os._exit(7 if "belongs to the parent process" in str(exc) else 8)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print(net.forward(floats(1, 2, 3, 4)).wait().arrays[0].tolist())
session.close()
""",
    )
    assert (done.returncode, done.stdout) == (0, "[1.0, 2.0, 3.0, 4.0]\n"), done.stderr


def test_a_program_ends_promptly_although_calls_are_under_way(destination: Destination, settings: Settings) -> None:
    began_s = time.monotonic()
    done = run_program(
        destination,
        settings,
        """
net = Net(session, SLOW, SLOW_SHAPE)
for _ in range(7):
    net.forward(np.zeros(SLOW_SHAPE, np.float32))
print("over")
""",
    )
    took_s = time.monotonic() - began_s
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
    assert took_s < 3.0
    await_true(lambda: not destination.workers(), "the worker does not finish what nobody waits for")


def test_a_program_that_is_killed_leaves_no_worker(destination: Destination, settings: Settings) -> None:
    before = destination.workers()
    done = run_program(
        destination,
        settings,
        """
net = Net(session, SLOW, SLOW_SHAPE)
net.forward(np.zeros(SLOW_SHAPE, np.float32))
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert done.returncode == -signal.SIGKILL
    await_true(lambda: not destination.workers() - before, "the worker has ended")
