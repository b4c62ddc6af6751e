"""Codecs in a session with a destination: the same results in fewer bytes, and nothing that was not agreed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from avec.config import CODECS, Settings
from avec.errors import ConfigurationError, ProtocolError, SessionLost
from avec.host import greeting
from avec.host.session import Session, probe
from avec.profiling import CodecUse
from avec.protocol import messages
from avec.protocol.codec import encode
from avec.tensor import Array, Codec, Encoded, PartSpec
from destinations import RELU, Destination, Net, await_true
from host.scripted import WELCOME, Peer, scripted
from protocol.frames import feed, trusted_reader
from relay import Relay

Open = Callable[..., Session]
SHAPE = (1, 3, 64, 96)
NBYTES = 4 * 3 * 64 * 96


def frame(seed: int = 0) -> Array:
    """An image's bytes as floats around 0, so that ReLU makes half of them 0."""
    pixels = np.linspace(0, 230, 64 * 96).reshape(64, 96) + np.random.default_rng(seed).integers(0, 25, SHAPE)
    return (pixels.astype(np.uint8) / np.float32(256)) - np.float32(0.5)


def send(session: Session, count: int = 3) -> list[CodecUse]:
    """Make calls with frames, and hold their results to what they have to be; how those were sent."""
    net = Net(session, RELU, SHAPE)
    for seed in range(count):
        into = np.empty(SHAPE, np.float32)
        (result,) = net.forward(frame(seed), into).wait().arrays
        assert result is into
        assert result.tobytes() == np.maximum(frame(seed), 0).tobytes()
    session.close()
    return [use for use in session.recorder.codecs if use.name == "caffe.forward"]


def uses_of(uses: list[CodecUse], direction: str) -> dict[str, int]:
    return {use.codec: use.calls for use in uses if use.direction == direction}


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_that_is_named_is_used_in_both_directions(open_session: Open, settings: Settings, codec: str) -> None:
    uses = send(open_session(settings=replace(settings, codec=codec)))
    wanted = {"mask": {"raw": 3}}.get(codec, {codec: 3})  # nothing in a frame is 0
    assert uses_of(uses, "frames") == wanted
    assert uses_of(uses, "results") == {codec: 3}
    assert all(use.wire_nbytes < 0.6 * use.nbytes for use in uses if use.codec != "raw")
    assert {use.nbytes for use in uses} == {3 * NBYTES}


def test_raw_sends_the_bytes_themselves(open_session: Open, settings: Settings) -> None:
    session = open_session(settings=replace(settings, codec="raw"))
    send(session)
    cycle = next(each for each in session.recorder.cycles if each.name == "caffe.forward")
    assert cycle.wire_nbytes_up > NBYTES < cycle.wire_nbytes_down


def test_bytes_on_the_wire_are_counted_as_they_are(open_session: Open, settings: Settings) -> None:
    session = open_session(settings=replace(settings, codec="palette"))
    uses = send(session)
    cycles = [each for each in session.recorder.cycles if each.name == "caffe.forward"]
    for direction, name in (("up", "frames"), ("down", "results")):
        (use,) = (use for use in uses if use.direction == name)
        wire = sum(getattr(cycle, f"wire_nbytes_{direction}") for cycle in cycles)
        assert use.wire_nbytes < wire < use.wire_nbytes + 3 * 300
    assert {cycle.tensor_nbytes_up for cycle in cycles} == {cycle.tensor_nbytes_down for cycle in cycles} == {NBYTES}


def test_each_direction_may_have_a_codec_of_its_own(open_session: Open, settings: Settings) -> None:
    uses = send(open_session(settings=replace(settings, codec="frames=palette, results=mask")))
    assert (uses_of(uses, "frames"), uses_of(uses, "results")) == ({"palette": 3}, {"mask": 3})


def test_half_precision_is_used_where_it_is_asked_for_and_recorded_as_lossy(
    open_session: Open, settings: Settings
) -> None:
    with open_session(settings=replace(settings, codec="results=fp16")) as session:
        net = Net(session, RELU, SHAPE)
        values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
        (result,) = net.forward(values).wait().arrays
    assert result.dtype == np.float32
    assert np.array_equal(result, np.maximum(values, 0).astype(np.float16))
    assert [use.lossy for use in session.recorder.codecs if use.codec == "fp16"] == [True]


def test_jpeg_frames_are_near_and_recorded_as_lossy(open_session: Open, settings: Settings) -> None:
    with open_session(settings=replace(settings, codec="frames=jpeg")) as session:
        net = Net(session, RELU, SHAPE)
        (result,) = net.forward(frame()).wait().arrays
    assert np.abs(result - np.maximum(frame(), 0)).mean() < 10 / 256
    assert [use.lossy for use in session.recorder.codecs if use.codec == "jpeg"] == [True]


def test_frames_that_were_encoded_are_sent_again_over_another_connection(
    destination: Destination, settings: Settings
) -> None:
    settings = replace(settings, codec="palette-zstd", resume_timeout_s=10.0)
    with Relay(destination.url) as relay, Session(relay.url, settings) as session:
        net = Net(session, RELU, SHAPE)
        net.forward(frame()).wait()
        for way in (relay.up, relay.down):
            way.cut_by, way.cut_at = "RST", way.nbytes + 1000  # in the middle of an encoded tensor
            for seed in range(3):
                (result,) = net.forward(frame(seed)).wait().arrays
                assert result.tobytes() == np.maximum(frame(seed), 0).tobytes()
            way.cut_at = -1
        assert session.mended == 2


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host of a release that knows no codecs."""
    monkeypatch.setattr(greeting, "available", lambda: ())
    yield


@pytest.mark.usefixtures("unable")
def test_a_host_that_reads_no_codec_gets_none(open_session: Open) -> None:
    session = open_session()
    assert session.welcome.codecs == ()
    assert {use.codec for use in send(session)} <= {"raw"}


def test_a_destination_that_agrees_to_no_codec_gets_none(settings: Settings) -> None:
    taken: list[messages.Message] = []

    def script(peer: Peer) -> None:
        peer.welcome()
        for _ in range(20):
            call = peer.receive_call()
            taken.append(call.message)
            peer.say(messages.Result(timings=messages.Timings(0, 0, 0, 0)), call.number)

    with scripted(script) as url, Session(url, settings) as session:
        for _ in range(20):
            session.run(1, "test", b"", [frame()]).wait()
    assert {part.codec for message in taken for part in message.parts} == {"raw"}
    assert {message.codecs for message in taken} == {()}


def test_a_codec_that_is_named_and_not_agreed_to_stops_the_program(settings: Settings) -> None:
    with scripted(lambda peer: peer.welcome()) as url:
        with pytest.raises(ConfigurationError, match="wants frames as palette, which not both ends can read"):
            Session(url, replace(settings, codec="palette"))


def test_a_result_that_no_codec_has_written_ends_the_session_and_the_call(settings: Settings) -> None:
    def script(peer: Peer) -> None:
        peer.welcome(msgspec.structs.replace(WELCOME, codecs=CODECS))
        number = peer.receive_call().number
        wrong = Encoded(PartSpec("float32", (64, 64), "palette", 5), np.arange(5, dtype=np.uint8))
        peer.say_bytes(b"".join(encode(messages.Result(), number, [wrong])))

    with scripted(script) as url, Session(url, settings) as session:
        with pytest.raises(SessionLost, match="that palette cannot have written"):
            session.run(1, "test", b"").wait()


@pytest.mark.parametrize("codec", ["palette", "mask", "shuffle-zstd", "fp16", "jpeg"])
def test_a_host_that_sends_what_no_codec_has_written_ends_its_session_alone(
    destination: Destination, settings: Settings, codec: Codec
) -> None:
    wrong = Encoded(PartSpec("float32", (64, 64), codec, 40), np.arange(40, dtype=np.uint8))
    channel, _ = greeting.greet(destination.url, settings, "session")
    channel.send(messages.Run(handle=1), 1, [wrong])
    with pytest.raises((SessionLost, ProtocolError)):
        channel.receive()
    channel.close()
    await_true(lambda: probe(destination.url, settings).sessions == 0, "the session has ended")
    assert f"that {codec} cannot have written" in destination.log_text()


@pytest.mark.parametrize("kind", [messages.Offer, messages.Chunk])
def test_only_tensors_of_calls_may_be_encoded(kind: type[messages.Parts]) -> None:
    part = Encoded(PartSpec("uint8", (100,), "mask", 5), np.arange(5, dtype=np.uint8))
    with pytest.raises(ProtocolError, match="which belongs in Load, Run, Result only"):
        feed(trusted_reader(), b"".join(encode(kind(), 0, [part])))
