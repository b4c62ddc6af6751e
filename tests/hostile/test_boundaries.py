"""Faults at every boundary of every message of a conversation: what it brings is right, or there is one clear error.

Before a session is open there is nothing to mend, and the host says that nobody answers; from then on nothing changes.
`make test` takes a few of the places; `HOSTILE=all`, which `make test-hostile` sets, takes all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.errors import DestinationDraining, DestinationUnreachable, SessionLost
from avec.host.session import Session
from avec.protocol import messages
from destinations import Destination, await_true, floats, relu, running
from hostile.conversation import (
    Conversation,
    Frames,
    Place,
    be_refused,
    be_told,
    converse,
    converse_encoded,
    converse_torch,
    fresh_models,
    recorded,
)
from relay import Direction, Relay

Fault = Literal["FIN", "RST", "silence"]
ALL = os.environ.get("HOSTILE") == "all"
FEW = 5  # places of each kind of fault and direction, in `make test`
DIGITS = 3
BOUND_S = 30.0  # for one conversation with one fault, on a busy machine
pytestmark = pytest.mark.timeout(300)  # for all places of a direction
long = pytest.mark.skipif(not ALL, reason="one of the long tests of `make test-hostile`")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of hosts that send no heartbeat of their own accord, so that a conversation always has the same bytes."""
    return replace(settings, heartbeat_s=30.0, heartbeat_misses=1, resume_timeout_s=20.0)


@pytest.fixture(scope="module")
def models_() -> Iterator[Iterator[bytes]]:
    yield fresh_models(Path(f"{os.getpid()} {time.time_ns()}"))


@pytest.fixture
def relay(destination: Destination) -> Iterator[Relay]:
    with Relay(destination.url) as relay:
        yield relay


def some(places: Sequence[Place], few: int = FEW) -> Sequence[Place]:
    return places if ALL else places[:: max(1, len(places) // few)]


def hasty(settings: Settings, monkeypatch: pytest.MonkeyPatch, welcome_s: float = 2.0) -> Settings:
    """Settings under which 0.4 s of silence are a cut, and `welcome_s` in an opening."""
    monkeypatch.setattr("avec.host.greeting.WELCOME_TIMEOUT_S", welcome_s)
    return replace(settings, heartbeat_s=0.1, heartbeat_misses=4, connect_timeout_s=2.0)


def disturbed(
    relay: Relay, way: Direction, place: Place, fault: Fault, settings: Settings, model: bytes, having: Conversation
) -> list[bytes]:
    """A conversation, with a fault at a place of one direction."""
    began_s = time.monotonic()
    relay.bury()  # and has counted then all that came before
    way.cut_by, way.cut_at = fault, way.nbytes + place.offset
    try:
        return having(relay.url, settings, model)
    finally:
        way.cut_at = -1
        relay.bury()  # a worker would wait for what has fallen silent
        assert time.monotonic() - began_s < BOUND_S, f"{fault} {way.name} after {place.after} took too long"


def unanswered(frames: Frames, way: Direction, place: Place) -> bool:
    """Whether a fault there is noticed by a host that has no session yet."""
    if way.name == "up":
        return place.offset <= frames.opened
    return place.offset < frames.opened


def check(
    relay: Relay, way: Direction, frames: Frames, fault: Fault, settings: Settings, expected: list[bytes],
    models: Iterator[bytes], places: Sequence[Place], having: Conversation = converse,
) -> None:  # fmt: skip
    for place in places:
        if way.name == "down" and 0 <= place.offset - frames.opened <= DIGITS:
            continue  # a session's name may have a digit more by now, and the welcome end a byte later
        if unanswered(frames, way, place):
            with pytest.raises(DestinationUnreachable, match="no destination answers at"):
                disturbed(relay, way, place, fault, settings, next(models), having)
        else:
            brought = disturbed(relay, way, place, fault, settings, next(models), having)
            assert brought == expected, f"{fault} {way.name} after {place.after} ({place.offset} bytes)"


def test_the_conversation_has_every_message_of_a_session_and_an_upload(
    relay: Relay, settings: Settings, models_: Iterator[bytes]
) -> None:
    up, down = recorded(relay, settings, next(models_))
    said = {*up.kinds, *down.kinds}
    others = {messages.Status, messages.Refused, messages.Draining}
    assert set(messages.TYPES) - said == others, "these have tests of their own"


@pytest.mark.parametrize("fault", ["FIN", "RST"])
@pytest.mark.parametrize("name", ["up", "down"])
def test_a_break_at_any_boundary_of_any_message(
    relay: Relay, settings: Settings, models_: Iterator[bytes], name: str, fault: Fault
) -> None:
    frames = recorded(relay, settings, next(models_))[name == "down"]
    expected = converse(relay.url, settings, next(models_))
    way = relay.way(name)
    check(relay, way, frames, fault, settings, expected, models_, some(frames.places))


@pytest.mark.parametrize("having", [converse_torch, converse_encoded])
@pytest.mark.parametrize("fault", ["FIN", "RST"])
@pytest.mark.parametrize("name", ["up", "down"])
def test_a_break_at_any_boundary_of_tensors_by_digest_snapshots_and_codecs(
    relay: Relay, settings: Settings, models_: Iterator[bytes], name: str, fault: Fault, having: Conversation
) -> None:
    frames = recorded(relay, settings, next(models_), having)[name == "down"]
    way = relay.way(name)
    expected = having(relay.url, settings, next(models_))
    check(relay, way, frames, fault, settings, expected, models_, some(frames.places), having)


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_connection_half_open_from_any_boundary_of_any_message(
    relay: Relay, settings: Settings, models_: Iterator[bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = recorded(relay, settings, next(models_))[name == "down"]
    expected = converse(relay.url, settings, next(models_))
    way = relay.way(name)
    places = [place for place in frames.places if place.after.startswith(("before", "within"))]
    for welcome_s in (2.0, 5.0):  # the longer where a session has to be opened, however busy the machine is
        own = hasty(settings, monkeypatch, welcome_s)
        chosen = [place for place in some(places, few=2) if unanswered(frames, way, place) == (welcome_s == 2.0)]
        check(relay, way, frames, "silence", own, expected, models_, chosen)


def test_single_bytes_and_delays_change_nothing(relay: Relay, settings: Settings, models_: Iterator[bytes]) -> None:
    expected = converse(relay.url, settings, next(models_))
    relay.up.slice_nbytes = relay.down.slice_nbytes = 1
    assert converse(relay.url, settings, next(models_)) == expected
    relay.up.delay_s, relay.down.delay_s = 0.02, 0.03
    assert converse(relay.url, settings, next(models_)) == expected


@long
@pytest.mark.parametrize("ask", [be_told, be_refused])
@pytest.mark.parametrize("fault", ["FIN", "RST", "silence"])
def test_a_status_or_a_refusal_that_does_not_arrive_is_no_answer(
    destination: Destination,
    relay: Relay,
    settings: Settings,
    ask: Callable[[str, Settings], None],
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await_true(lambda: destination.sessions(settings) == 0, "no earlier session is left")  # a status would tell of it
    own = replace(hasty(settings, monkeypatch), heartbeat_s=0.5)  # and so much where an answer does arrive
    relay.down.record = bytearray()
    ask(relay.url, own)
    length = len(relay.down.record)
    for offset in (1, 24, length // 2, length * 3 // 4):  # the next one may be shorter
        relay.bury()  # and has counted then all that came before
        relay.down.cut_by, relay.down.cut_at = fault, relay.down.nbytes + offset
        with pytest.raises(DestinationUnreachable, match="no destination answers at"):
            ask(relay.url, own)


@long
@pytest.mark.parametrize("name", ["up", "down"])
def test_bytes_changed_anywhere_on_an_encrypted_connection_are_a_break(
    tmp_path: Path, settings: Settings, models_: Iterator[bytes], name: str
) -> None:
    with running(tmp_path, "--listen", "tls://127.0.0.1:0") as destination, Relay(destination.url) as relay:
        own = replace(settings, fingerprint=fingerprint_in(tmp_path / "secrets" / "certificate.pem"))
        url = relay.url.replace("tcp", "tls")
        way = relay.way(name)
        with Session(url, own) as session:
            net = relu(session)
            for offset in range(0, 200, 7):
                way.damage_at = way.nbytes + offset
                while way.damage_at >= 0:
                    assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert session.mended >= 3


@long
@pytest.mark.parametrize("fault", ["FIN", "RST", "silence"])
def test_a_break_while_the_destination_drains_is_one_error(
    tmp_path: Path, settings: Settings, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(hasty(settings, monkeypatch, 10.0), resume_timeout_s=3.0)  # nobody is there to come back to
    drain = {"AVEC_DRAIN_TIMEOUT_S": "3"}  # of which the destination needs all, where the silence hides who has left
    with running(tmp_path, **drain) as destination, Relay(destination.url) as relay, Session(relay.url, own) as session:
        net = relu(session)
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
        relay.down.cut_by, relay.down.cut_at = fault, relay.down.nbytes + 30  # in the frame of Draining, or a Pong
        destination.process.terminate()
        await_true(lambda: not session.usable, "the host knows that it is over")
        with pytest.raises((DestinationDraining, SessionLost)):
            net.forward(floats(1, -2, 3, 4))
        assert destination.wait() == 0
