"""A session survives a broken connection: same worker, same state, each call carried out once and answered once.

`docs/reliability.md` says what is promised; each promise is held to here.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from accumulator import Accumulator
from avec import private_files
from avec.communication.channel import Channel
from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.destination.guests import VACATE_S
from avec.destination.users import Users
from avec.errors import DestinationError, InvalidArgument, SessionLost
from avec.host import models, unanswered
from avec.host.greeting import Resumption, greet
from avec.host.session import Session, probe
from avec.modelcache import manifest_of_bytes
from avec.protocol.codec import CHUNK_NBYTES
from avec.protocol.messages import Failed, Goodbye, Run, Welcome
from destinations import SLOW, SLOW_SHAPE, Destination, Net, alive, await_true, children, floats, relu, running
from host.test_faults import (  # an interrupt is as harmless where frames are kept
    test_ctrl_c_in_a_large_send_tears_no_frame,  # noqa: F401
    test_ctrl_c_while_credit_lacks_takes_none,  # noqa: F401
    test_ctrl_c_while_waiting_leaves_the_session_usable,  # noqa: F401
)
from relay import Direction, Relay

Open = Callable[..., Session]
Fault = Literal["FIN", "RST", "silence"]
CALLS = 6
COUNT = 4  # floats in the state of a short conversation
LARGE = 2 << 20  # floats in a large one: 8 MiB, more than sockets and relay hold
NOTICED_S = 3.0  # for a busy machine
# The first frame of a conversation is cut at every so many bytes, the others at every so many; `make test` takes few.
EVERY = (1, 29) if os.environ.get("CUTS") == "all" else (7, 193)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of hosts that send no heartbeat of their own accord, so that a conversation always has the same bytes.

    The relay is gone before a session that goes through it is closed: its worker waits less long than the test's end.
    """
    return replace(settings, heartbeat_s=30.0, heartbeat_misses=1, resume_timeout_s=10.0)


@pytest.fixture
def relay(destination: Destination) -> Iterator[Relay]:
    with Relay(destination.url) as relay:
        yield relay


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Destination, str]]:
    """A destination that hosts reach over TLS, and its fingerprint."""
    folder = tmp_path_factory.mktemp("encrypted")
    with running(folder, "--listen", "tls://127.0.0.1:0") as destination:
        yield destination, fingerprint_in(folder / "secrets" / "certificate.pem")
        await_true(lambda: children(destination.process.pid) == [destination.zygote_pid], "no process encrypts on")
        assert destination.stop() == 0, destination.log_text()


def hasty(settings: Settings) -> Settings:
    """Settings under which 0.4 s of silence are a cut."""
    return replace(settings, heartbeat_s=0.1, heartbeat_misses=4)


def talk(session: Session) -> list[bytes]:
    """A short conversation with all kinds of calls, some waited for and some not; all that it brought."""
    state = Accumulator(session, COUNT)
    given = np.zeros(COUNT, np.float32)
    calls, brought = [], []
    for number in range(CALLS):
        given[:] = number
        calls.append(state.add(given))
        calls[-1].wait_sent()
        if number % 3 == 2:
            brought += [call.wait().arrays[0].tobytes() for call in calls]
            calls = []
        session.release(session.new_handle())
    with pytest.raises(InvalidArgument, match="handle 999 names nothing"):
        session.run(999, "test", b"").wait()
    assert session.offer(manifest_of_bytes(b"x").digest, 1, np.zeros(32, np.uint8)) is not None
    brought += [call.wait().arrays[0].tobytes() for call in calls]
    session.wait_all()
    return brought


@pytest.fixture
def undisturbed(destination: Destination, settings: Settings) -> list[bytes]:
    """What the short conversation brings where nothing happens."""
    with Session(destination.url, settings) as session:
        return talk(session)


def lengths(url: str, relay: Relay, settings: Settings) -> tuple[int, int]:
    """How many bytes the short conversation has, up and down, after the welcome."""
    with Session(url, settings) as session:
        up, down = quiet(relay)
        talk(session)
        return relay.up.nbytes - up, relay.down.nbytes - down


def quiet(relay: Relay) -> tuple[int, int]:
    """The bytes so far, once those of the opening have passed."""
    before = (-1, -1)
    while before != (now := (relay.up.nbytes, relay.down.nbytes)):
        before = now
        time.sleep(0.02)  # nothing else tells that nothing comes
    return now


def talk_cut(url: str, relay: Relay, settings: Settings, way: Direction, place: int, fault: Fault) -> list[bytes]:
    """The short conversation, whose connection breaks after so many bytes of one direction; all that it brought."""
    with Session(url, settings) as session:
        quiet(relay)
        way.cut_by, way.cut_at = fault, way.nbytes + place
        brought = talk(session)
        if way.cut_at < 0:
            await_true(lambda: session.mended == 1, "the cut, which was made, is mended")
        way.cut_at = -1
    return brought


@pytest.mark.parametrize("fault", ["FIN", "RST"])
@pytest.mark.parametrize("name", ["up", "down"])
def test_a_connection_cut_at_any_place_changes_nothing(
    settings: Settings, relay: Relay, undisturbed: list[bytes], name: str, fault: Fault
) -> None:
    way = relay.way(name)
    length = lengths(relay.url, relay, settings)[name == "down"]
    assert length > 60
    for place in (*range(0, 60, EVERY[0]), *range(60, length, EVERY[1])):
        assert talk_cut(relay.url, relay, settings, way, place, fault) == undisturbed, f"cut {name} after {place} bytes"


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_connection_that_falls_silent_at_any_place_changes_nothing(
    settings: Settings, relay: Relay, undisturbed: list[bytes], name: str
) -> None:
    way = relay.way(name)
    length = lengths(relay.url, relay, settings)[name == "down"]
    for place in range(0, length, length // 6):
        assert talk_cut(relay.url, relay, hasty(settings), way, place, "silence") == undisturbed


@pytest.mark.parametrize("name", ["up", "down"])
def test_an_encrypted_connection_cut_at_any_place_changes_nothing(
    encrypted: tuple[Destination, str], settings: Settings, undisturbed: list[bytes], name: str
) -> None:
    destination, fingerprint = encrypted
    own = replace(settings, fingerprint=fingerprint)
    with Relay(destination.url) as relay:
        url = relay.url.replace("tcp", "tls")
        way = relay.way(name)
        length = lengths(url, relay, own)[name == "down"]
        for place in range(0, length, max(1, length // 12)):
            assert talk_cut(url, relay, own, way, place, "RST") == undisturbed, f"cut {name} after {place} bytes"


@pytest.mark.parametrize("offset", [0, 1, 30, 200])
def test_a_second_break_while_the_first_is_mended_changes_nothing(
    settings: Settings, relay: Relay, undisturbed: list[bytes], offset: int
) -> None:
    for way in (relay.up, relay.down):
        with Session(relay.url, settings) as session:
            quiet(relay)
            relay.cut(reset=True)
            way.cut_at, way.cut_by = way.nbytes + offset, "RST"
            assert talk(session) == undisturbed
            assert session.mended >= 1
            way.cut_at = -1


def large_talk(session: Session, pause: Callable[[], None] = lambda: None) -> list[bytes]:
    """Large tensors in both directions at the same time; the program changes its memory as soon as it may."""
    state = Accumulator(session, LARGE)
    given = np.zeros(LARGE, np.float32)
    calls = []
    for number in range(8):
        given[:] = number
        calls.append(state.add(given))
        calls[-1].wait_sent()
        pause()
    return [call.wait().arrays[0].tobytes() for call in calls]


@pytest.mark.parametrize("fault", ["FIN", "RST"])
def test_breaks_amid_large_tensors_in_both_directions_change_nothing(
    destination: Destination, settings: Settings, relay: Relay, fault: Fault
) -> None:
    with Session(destination.url, settings) as session:
        expected = large_talk(session)
    rng = random.Random(fault)
    for _ in range(4):
        with Session(relay.url, settings) as session:
            for way in (relay.up, relay.down):
                way.cut_by = fault
                way.cut_at = way.nbytes + rng.randrange(100_000, 7 * 4 * LARGE)
            assert large_talk(session) == expected
            assert session.mended >= 1


def test_a_large_upload_is_sent_again_as_it_was_although_the_program_has_changed_its_memory(
    destination: Destination, settings: Settings, relay: Relay
) -> None:
    with Session(destination.url, settings) as session:
        expected = large_talk(session)
    with Session(relay.url, settings) as session:
        # What the network has taken is lost in the relay, which holds more than the destination has received.
        relay.up.in_flight_nbytes = 64 << 20
        relay.up.rate = 50_000_000
        assert large_talk(session, pause=lambda: relay.cut(reset=True)) == expected
        assert session.mended >= 1


def test_a_call_whose_memory_was_given_back_and_that_was_too_large_to_copy_is_a_lost_session(
    settings: Settings, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unanswered, "COPY_LIMIT_NBYTES", 1 << 20)
    with Session(relay.url, settings) as session:
        state = Accumulator(session, LARGE)
        relay.up.in_flight_nbytes = 64 << 20
        relay.up.rate = 1_000_000
        call = state.add(np.ones(LARGE, np.float32))
        call.wait_sent()
        relay.up.rate = 0.0
        relay.cut(reset=True)
        with pytest.raises(SessionLost, match=r"cannot be sent again, since the application has got the memory"):
            call.wait()


def test_thousands_of_stateful_calls_under_random_breaks_are_bit_equal(
    destination: Destination, settings: Settings, relay: Relay
) -> None:
    def run(url: str, breaks: Callable[[Session], None]) -> list[bytes]:
        rng = random.Random(3)
        brought: list[bytes] = []
        with Session(url, settings) as session:
            state = Accumulator(session, 1000)
            calls = []
            for _ in range(2500):
                calls.append(state.add(np.full(1000, rng.random(), np.float32)))
                breaks(session)
                while len(calls) > rng.randrange(1, 40):
                    brought.append(calls.pop(0).wait().arrays[0].tobytes())
            mended.append(session.mended)
            return brought + [call.wait().arrays[0].tobytes() for call in calls]

    mended: list[int] = []
    chance = random.Random(4)

    def break_now_and_then(session: Session) -> None:
        if chance.random() < 0.1:
            way = chance.choice((relay.up, relay.down))
            way.cut_by = chance.choice(("FIN", "RST"))
            way.cut_at = way.nbytes + chance.randrange(20_000)

    expected = run(destination.url, lambda session: None)
    assert run(relay.url, break_now_and_then) == expected
    assert mended[0] == 0
    assert mended[1] > 50, "there were too few breaks to show anything"


def test_a_worker_goes_on_with_a_long_call_while_its_host_is_away(
    destination: Destination, relay: Relay, open_session: Open, settings: Settings
) -> None:
    x = np.ones(SLOW_SHAPE, np.float32)
    session = open_session(url=relay.url)
    net = Net(session, SLOW, SLOW_SHAPE)
    first = net.forward(x).wait().arrays[0]
    call = net.forward(x)
    call.wait_sent()
    relay.cut()
    np.testing.assert_array_equal(call.wait().arrays[0], first)
    assert session.mended == 1


def test_a_break_is_told_in_one_line_and_the_session_stays_usable(settings: Settings, relay: Relay) -> None:
    lines: list[str] = []
    with Session(relay.url, settings, "test", lines.append) as session:
        net = relu(session)
        relay.cut()
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
        assert session.usable
    (line,) = lines
    assert "closed the connection; the session went on over a new connection after 0." in line


def test_released_handles_are_released_once_the_host_is_back(
    destination: Destination, relay: Relay, open_session: Open
) -> None:
    session = open_session(url=relay.url)
    net = relu(session)
    relay.silence()
    session.release(net.handle)
    relay.cut()
    relay.resume()
    with pytest.raises(InvalidArgument, match=f"handle {net.handle} names nothing"):
        net.forward(floats(1, 2, 3, 4)).wait()
    assert session.mended == 1


def test_closing_while_the_connection_is_broken_ends_the_worker(
    destination: Destination, settings: Settings, relay: Relay
) -> None:
    before = destination.workers()
    session = Session(relay.url, replace(settings, resume_timeout_s=1.0))
    call = relu(session).forward(floats(1, 2, 3, 4))
    worker = destination.new_worker(before)
    relay.cut()
    session.close()
    call.wait_ended()
    await_true(lambda: worker not in destination.workers(), "the worker has heard the goodbye, or waits in vain")


def test_an_upload_goes_on_over_another_connection(
    destination: Destination, relay: Relay, open_session: Open, settings: Settings
) -> None:
    model = random.Random(5).randbytes(3 * CHUNK_NBYTES + 17)
    session = open_session(url=relay.url)
    relay.up.cut_at, relay.up.cut_by = relay.up.nbytes + CHUNK_NBYTES * 3 // 2, "RST"
    digest = models.provide(session, model, settings)
    stored = destination.cache_dir / "models" / "models" / digest
    assert stored.read_bytes() == model
    assert session.mended == 1  # its own connection was cut too


def test_a_worker_that_was_killed_is_a_lost_session_at_once(
    destination: Destination, open_session: Open, settings: Settings
) -> None:
    before = destination.workers()
    session = open_session(settings=replace(settings, recovery="off"))
    worker = destination.new_worker(before)
    net = relu(session)
    os.kill(worker, signal.SIGKILL)
    began_s = time.monotonic()
    with pytest.raises(SessionLost, match="it was not resumed: no such session waits for this host"):
        net.forward(floats(1, 2, 3, 4)).wait()
    assert time.monotonic() - began_s < NOTICED_S


def test_a_worker_that_was_killed_while_its_host_was_away_is_a_lost_session_once_it_is_back(
    destination: Destination, open_session: Open, settings: Settings, relay: Relay
) -> None:
    before = destination.workers()
    session = open_session(url=relay.url, settings=replace(hasty(settings), recovery="off"))
    worker = destination.new_worker(before)
    call = relu(session).forward(floats(1, 2, 3, 4))
    call.wait()
    relay.silence()
    os.kill(worker, signal.SIGKILL)
    await_true(lambda: worker not in destination.workers(), "the worker is gone")
    relay.cut()
    relay.resume()
    with pytest.raises(SessionLost, match="no such session waits"):
        session.run(1, "test", b"").wait()


def test_a_destination_where_nobody_listens_any_more_is_a_lost_session_within_seconds(
    destination: Destination, settings: Settings
) -> None:
    with Relay(destination.url) as relay:
        session = Session(relay.url, replace(settings, recovery="off"))
    with closing(session):
        began_s = time.monotonic()
        with pytest.raises(SessionLost, match=r"could not be resumed: \d+ attempts in \d\.\d s, .*refused"):
            session.run(1, "test", b"").wait()
        assert time.monotonic() - began_s < NOTICED_S


def test_a_host_gives_up_after_its_time_and_says_what_it_tried(settings: Settings, relay: Relay) -> None:
    own = replace(hasty(settings), resume_timeout_s=1.0)
    with Session(relay.url, own) as session:
        relay.silence()
        began_s = time.monotonic()
        with pytest.raises(SessionLost, match=r"the link is cut; it could not be resumed: \d+ attempts in 1\.\d s"):
            session.run(1, "test", b"").wait()
        assert 1.0 < time.monotonic() - began_s < 1.0 + 0.4 + NOTICED_S
        relay.resume()


class Raw:
    """A session held by hand, whose host does nothing of its own accord."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.channel, welcome = greet(url, settings, "session")
        assert isinstance(welcome, Welcome)
        self.welcome = welcome

    def resume(self, epoch: int, secret: str = "", answered: int = 0) -> tuple[Channel, Welcome]:
        wish = Resumption(self.welcome.session, secret or self.welcome.secret, epoch, answered)
        channel, welcome = greet(self.url, self.settings, "resume", resumption=wish)
        assert isinstance(welcome, Welcome)
        return channel, welcome

    def away(self) -> None:
        """Break the connection and stay away."""
        self.channel.retire()

    def leave(self, channel: Channel) -> None:
        """Say goodbye, so that no worker waits."""
        channel.send(Goodbye())
        channel.discard(5.0)
        channel.retire()
        self.channel.close()


def call(channel: Channel, number: int, answered: int = 0) -> None:
    """Make a call that fails quickly."""
    channel.send(Run(handle=999, answered=answered), number)


def numbers(channel: Channel, count: int) -> list[int]:
    """The calls that the next answers are to."""
    frames = [channel.receive() for _ in range(count)]
    assert all(isinstance(frame.message, Failed) for frame in frames)
    return [frame.number for frame in frames]


@pytest.mark.parametrize("secret", ["x" * 43, "é", "x"])
def test_a_wrong_secret_is_refused_and_disturbs_nobody(
    destination: Destination, settings: Settings, secret: str
) -> None:
    raw = Raw(destination.url, settings)
    with pytest.raises(SessionLost, match="no such session waits for this host"):
        raw.resume(2, secret)
    call(raw.channel, 1)
    assert numbers(raw.channel, 1) == [1]
    raw.channel.retire()
    channel, _ = raw.resume(2, answered=1)
    call(channel, 2, answered=1)
    assert numbers(channel, 1) == [2]
    raw.leave(channel)


def test_a_session_that_never_was_is_refused_in_the_same_words(destination: Destination, settings: Settings) -> None:
    with pytest.raises(SessionLost, match="no such session waits for this host"):
        greet(destination.url, settings, "resume", resumption=Resumption("no such\nsession", "s", 2, 0))
    assert "no such\nsession" not in destination.log_text()


def test_an_older_connection_is_refused_and_the_newer_one_goes_on(destination: Destination, settings: Settings) -> None:
    raw = Raw(destination.url, settings)
    newer, _ = raw.resume(5)
    for epoch in (5, 4, 1, -1):
        with pytest.raises(SessionLost, match=f"connection {epoch} of the session comes after connection 5"):
            raw.resume(epoch)
    call(newer, 1)
    assert numbers(newer, 1) == [1]
    with pytest.raises(SessionLost):  # it is fenced off, and closed
        raw.channel.receive()
    raw.leave(newer)


def test_what_was_answered_is_answered_again_from_where_the_host_has_it_and_not_carried_out_again(
    destination: Destination, settings: Settings
) -> None:
    raw = Raw(destination.url, settings)
    for number in (1, 2, 3):
        call(raw.channel, number)
    assert numbers(raw.channel, 3) == [1, 2, 3]
    raw.away()
    first, welcome = raw.resume(2, answered=1)
    assert welcome.received == 3
    assert numbers(first, 2) == [2, 3]
    first.retire()
    second, _ = raw.resume(3, answered=3)
    call(second, 4, answered=3)
    assert numbers(second, 1) == [4]
    raw.leave(second)


def test_a_call_that_comes_a_second_time_ends_the_session(destination: Destination, settings: Settings) -> None:
    raw = Raw(destination.url, settings)
    call(raw.channel, 1)
    assert numbers(raw.channel, 1) == [1]
    raw.away()
    channel, _ = raw.resume(2, answered=1)
    with closing(channel):
        call(channel, 1)
        with pytest.raises(SessionLost):
            channel.receive()
    await_true(lambda: "call 1 a second time" in destination.log_text(), "the worker has said why")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Destination]:
    """A destination for one host, which waits 1.5 s for that."""
    with running(tmp_path, AVEC_MAX_SESSIONS="1", AVEC_RESUME_TIMEOUT_S="1.5") as destination:
        yield destination


def test_a_session_that_waits_for_its_host_counts_and_is_shown_and_ends_at_the_limit(
    small: Destination, settings: Settings
) -> None:
    raw = Raw(small.url, settings)
    worker = small.only_worker()
    assert raw.welcome.resume_s == 1.5
    raw.away()
    await_true(lambda: probe(small.url, settings).waiting == 1, "the server knows that it waits")
    assert probe(small.url, settings).places.sessions == 1
    await_true(lambda: not alive(worker), "the worker has waited in vain")
    await_true(lambda: probe(small.url, settings).sessions == 0, "its place is free")
    assert probe(small.url, settings).waiting == 0
    with pytest.raises(SessionLost, match="no such session waits"):
        raw.resume(2)
    assert "its host did not come back in 1.5 s" in small.log_text()


def test_a_session_that_waits_for_its_host_ends_when_its_user_needs_the_place(
    tmp_path: Path, settings: Settings
) -> None:
    with running(tmp_path / "destination", AVEC_MAX_SESSIONS="1") as destination:
        raw = Raw(destination.url, replace(settings, resume_timeout_s=60.0))
        worker = destination.only_worker()
        raw.away()
        began_s = time.monotonic()
        sessions: list[Session] = []

        def comes_in() -> bool:
            try:
                sessions.append(Session(destination.url, settings))
            except DestinationError as exc:
                assert "is full: it serves 1 sessions" in str(exc)
            return bool(sessions)

        await_true(comes_in, "the place is given to the next")
        assert time.monotonic() - began_s >= VACATE_S, "a host that is away for a moment keeps its place"
        with sessions[0] as session:
            assert relu(session).forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1
            await_true(lambda: not alive(worker), "the worker of the first has ended")
            with pytest.raises(SessionLost, match="no such session waits"):
                raw.resume(2)
            with pytest.raises(DestinationError, match="is full"):
                Session(destination.url, settings)  # whose host is there is never ended
            assert probe(destination.url, settings).totals.vacated == 1


def test_a_session_that_waits_for_its_host_ends_at_once_when_the_destination_drains(
    tmp_path: Path, settings: Settings
) -> None:
    with running(tmp_path / "destination") as destination:
        raw = Raw(destination.url, settings)
        raw.away()
        await_true(lambda: probe(destination.url, settings).waiting == 1, "the server knows that it waits")
        began_s = time.monotonic()
        assert destination.stop() == 0
        assert time.monotonic() - began_s < NOTICED_S
        assert "it is shutting down" in destination.log_text()


def test_a_host_that_is_not_known_for_a_moment_comes_back_when_it_is(tmp_path: Path, settings: Settings) -> None:
    users = Users(tmp_path / "secrets" / "users.json")
    with running(tmp_path, "--require-token") as destination, Relay(destination.url) as relay:
        own = replace(settings, token=users.add("ann"))
        with Session(relay.url, own) as session:
            net = relu(session)
            content = users.path.read_bytes()
            users.revoke("ann")
            relay.cut(reset=True)
            await_true(lambda: "does not know this host" in destination.log_text(), "it was refused")
            private_files.write(users.path, content)
            assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert session.mended == 1


def test_a_host_that_finds_no_place_to_rebuild_its_session_waits_for_one(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path, AVEC_MAX_SESSIONS="1") as destination, Relay(destination.url) as relay:
        with Session(relay.url, settings) as session:
            net = relu(session)
            worker = destination.only_worker()
            relay.silence()
            os.kill(worker, signal.SIGKILL)
            await_true(lambda: not alive(worker), "its worker is dead")
            await_true(lambda: probe(destination.url, settings).sessions == 0, "the place is free")
            with Session(destination.url, settings):
                relay.cut(reset=True)
                relay.resume()
                await_true(lambda: "is full" in destination.log_text(), "it was refused")
            assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert session.mended == 1


def test_with_resume_off_at_the_host_the_worker_waits_for_nobody(destination: Destination, settings: Settings) -> None:
    before = destination.workers()
    raw = Raw(destination.url, replace(settings, resume_timeout_s=0.0))
    worker = destination.new_worker(before)
    assert raw.welcome.resume_s == 0.0
    raw.away()
    await_true(lambda: worker not in destination.workers(), "the worker has ended")
    with pytest.raises(SessionLost, match="no such session waits"):
        raw.resume(2)


def test_with_resume_off_at_the_destination_a_break_is_a_lost_session(tmp_path: Path, settings: Settings) -> None:
    with (
        running(tmp_path / "destination", "--resume-timeout", "0") as destination,
        Relay(destination.url) as relay,
        Session(relay.url, settings) as session,
    ):
        assert session.resume_s == 0
        relay.cut()
        with pytest.raises(SessionLost, match=r"closed the connection(\n|$)"):
            session.run(1, "test", b"").wait()


def test_many_threads_notice_nothing(settings: Settings, relay: Relay) -> None:
    results: dict[int, list[float]] = {}
    with Session(relay.url, settings) as session:

        def work(number: int) -> None:
            net = relu(session)
            results[number] = [float(net.forward(floats(n, 0, 0, 0)).wait().arrays[0][0]) for n in range(60)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            relay.cut(reset=True)
            time.sleep(0.03)
        assert session.mended > 3
    assert all(each == [float(n) for n in range(60)] for each in results.values())
    assert len(results) == 6
