"""Bytes that change on the way: TLS notices each of them; a plain connection notices what cannot be a message.

A plain connection has TCP's checksum alone: a changed tensor is another tensor there, and no test can ask for more than
that headers and bodies end in a right result or an error, while the destination goes on. `docs/reliability.md` says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.errors import AvecError, DestinationUnreachable, SessionLost
from avec.host.session import Session
from destinations import Destination, floats, relu, running
from hostile.conversation import converse, frames_of, fresh_models, recorded
from hostile.test_boundaries import ALL
from relay import Direction, Relay

PLACES = 150 if ALL else 8  # of each direction
STALL_S = 8.0  # then a connection is cut that waits for bytes which never come
BOUND_S = 40.0
RIGHT, STALLED, WRONG = "the right result", "the right result after a stall", "another result, of a changed tensor"

pytestmark = pytest.mark.timeout(600 if ALL else 120)


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a host that notices a silence after 1.5 s, in an opening too."""
    monkeypatch.setattr("avec.host.greeting.WELCOME_TIMEOUT_S", 3.0)
    return replace(settings, heartbeat_s=0.1, heartbeat_misses=15, connect_timeout_s=3.0, resume_timeout_s=10.0)


@pytest.fixture(scope="module")
def models_() -> Iterator[Iterator[bytes]]:
    yield fresh_models(Path(f"corruption {os.getpid()} {time.time_ns()}"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    # A session that was damaged beyond mending waits for its host for a while.
    with running(tmp_path_factory.mktemp("plain"), "--max-sessions", "200", AVEC_HELLO_TIMEOUT_S="2") as destination:
        yield destination


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Destination, str]]:
    folder = tmp_path_factory.mktemp("encrypted")
    with running(folder, "--listen", "tls://127.0.0.1:0", AVEC_HELLO_TIMEOUT_S="2") as destination:
        yield destination, fingerprint_in(folder / "secrets" / "certificate.pem")


def some(offsets: Sequence[int]) -> Sequence[int]:
    return offsets[:: max(1, len(offsets) // PLACES)]


def outcome_of(
    relay: Relay, way: Direction, offset: int, url: str, settings: Settings, model: bytes, expected: list[bytes]
) -> str:
    """Have the conversation, a byte of which changes; the error's code, or what came of it."""
    began_s = time.monotonic()
    stalled = threading.Event()

    def cut() -> None:
        stalled.set()
        relay.cut(reset=True)

    timer = threading.Timer(STALL_S, cut)
    timer.start()
    way.record = bytearray()
    way.damage_at = way.nbytes + offset
    try:
        brought = converse(url, settings, model)
    except AvecError as exc:
        return exc.code
    else:
        if brought != expected:
            # Heartbeats and what calls say of their answers move the places a little.
            frames = frames_of(bytes(way.record))
            assert offset < frames.nbytes
            assert offset not in frames.described, f"{way.name}, byte {offset}"
            return WRONG
        return STALLED if stalled.is_set() else RIGHT
    finally:
        way.record = None
        way.damage_at = -1
        timer.cancel()
        timer.join()
        assert time.monotonic() - began_s < BOUND_S


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_changed_byte_of_an_encrypted_conversation_is_noticed(
    encrypted: tuple[Destination, str], settings: Settings, models_: Iterator[bytes], name: str
) -> None:
    """Openings, calls and an upload: what it brings is right; where there is no session yet, nobody is there."""
    destination, fingerprint = encrypted
    own = replace(settings, fingerprint=fingerprint)
    with Relay(destination.url) as relay:
        url = relay.url.replace("tcp", "tls")
        way = relay.way(name)
        expected = converse(url, own, next(models_))
        before = way.nbytes
        converse(url, own, next(models_))
        outcomes = Counter(
            outcome_of(relay, way, offset, url, own, next(models_), expected)
            for offset in some(range(way.nbytes - before))
        )
    assert set(outcomes) <= {RIGHT, DestinationUnreachable.code}
    assert outcomes[RIGHT] and outcomes[DestinationUnreachable.code]
    assert destination.process.poll() is None


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_changed_byte_of_an_encrypted_resumption_is_a_failed_attempt(
    encrypted: tuple[Destination, str], settings: Settings, name: str
) -> None:
    destination, fingerprint = encrypted
    own = replace(settings, fingerprint=fingerprint)
    with Relay(destination.url) as relay, Session(relay.url.replace("tcp", "tls"), own) as session:
        way = relay.way(name)
        net = relu(session)

        def resume(offset: int) -> int:
            """Break the connection, damage what is said to resume; the bytes that this took."""
            net.forward(floats(1, -2, 3, 4)).wait()
            before, mended = way.nbytes, session.mended
            if offset >= 0:
                way.damage_at = before + offset
            relay.cut(reset=True)
            assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert session.mended > mended
            way.damage_at = -1
            return way.nbytes - before

        for offset in some(range(resume(-1))):
            resume(offset)


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_changed_byte_of_a_plain_header_or_body_is_an_error_or_nothing(
    plain: Destination, settings: Settings, models_: Iterator[bytes], name: str
) -> None:
    with Relay(plain.url) as relay:
        quiet = replace(settings, heartbeat_s=30.0, heartbeat_misses=1)  # so that the bytes are always the same
        frames = recorded(relay, quiet, next(models_))[name == "down"]
        way = relay.way(name)
        expected = converse(relay.url, settings, next(models_))
        outcomes: Counter[str] = Counter()
        for offset in some(frames.described):
            outcomes[outcome_of(relay, way, offset, relay.url, settings, next(models_), expected)] += 1
            assert plain.process.poll() is None
    assert outcomes[SessionLost.code], "what cannot be a message ends a plain session"
    assert outcomes[WRONG] <= sum(outcomes.values()) // 4
    with Session(plain.url, settings) as session:
        assert relu(session).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
