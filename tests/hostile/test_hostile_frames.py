"""Hostile bytes are refused by name, at once, and nothing is allocated on their word."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avec.errors import ProtocolError, ProtocolMismatch
from avec.protocol import messages
from avec.protocol.codec import allocate_array
from avec.protocol.connection import Connection
from hostile.bad_frames import FRAMES, STRANGERS
from protocol.frames import feed, header, raw_frame, trusted_reader
from protocol.golden import EXAMPLES, frame_bytes

REFUSAL_S = 0.001
MEMORY_NBYTES = 1 << 20  # what refusing may take: a decoded message of 64 KiB, an error's text


@pytest.mark.parametrize("name", FRAMES)
def test_a_hostile_frame_is_refused_by_name(name: str) -> None:
    data, reason = FRAMES[name]
    with pytest.raises(ProtocolError, match=reason):
        feed(trusted_reader(), data)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_hostile_stranger_is_refused_by_name(name: str) -> None:
    data, reason = STRANGERS[name]
    with pytest.raises(ProtocolError, match=reason):
        feed(Connection("destination", allocate_array), data)


def _refusal_s(data: bytes) -> float:
    reader = trusted_reader()
    began_s = time.perf_counter()
    with pytest.raises(ProtocolError):
        feed(reader, data)
    return time.perf_counter() - began_s


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "too many tensors"])
def test_a_refusal_takes_less_than_a_millisecond(name: str) -> None:
    data, _ = FRAMES[name]
    assert min(_refusal_s(data) for _ in range(20)) < REFUSAL_S  # the best of many: others use this machine too


@pytest.mark.parametrize("name", FRAMES)
def test_a_refusal_takes_no_memory_to_speak_of(name: str) -> None:
    data, _ = FRAMES[name]
    reader = trusted_reader()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            feed(reader, data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_NBYTES
    finally:
        tracemalloc.stop()


def _feed_until_refused(connection: Connection, data: bytes) -> None:
    # Anything but these two fails the test: they are what the threads that receive turn into an end of the connection.
    try:
        feed(connection, data)
    except (ProtocolError, ProtocolMismatch):
        return


HEADERS = st.builds(
    header,
    st.integers(0, 255),
    st.integers(0, 200),
    st.one_of(st.integers(0, 64), st.integers(0, 2**64 - 1)),
    st.integers(0, 2**64 - 1),
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
        st.sampled_from(["uint8", "float32", "session", "strict"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)
FRAMES_OF_VALUES = st.builds(
    raw_frame, st.sampled_from(messages.TYPES), st.lists(VALUES, max_size=7), st.binary(max_size=64), st.integers(0, 9)
)
GOLDEN = st.sampled_from([frame_bytes(*example) for example in EXAMPLES])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good frame with a few bytes changed, removed or added."""
    data = bytearray(draw(GOLDEN))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                data[place] = draw(st.integers(0, 255))
            case 1 if len(data) > 1:
                del data[place]
            case _:
                data.insert(place, draw(st.integers(0, 255)))
    return bytes(data)


STREAMS = st.lists(st.one_of(damaged(), FRAMES_OF_VALUES, HEADERS, st.binary(max_size=64)), max_size=4).map(b"".join)
CHEAP = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CHEAP
@given(STREAMS)
def test_nothing_that_a_stranger_sends_raises_anything_but_protocol_errors(data: bytes) -> None:
    _feed_until_refused(Connection("destination", allocate_array), data)


@CHEAP
@given(STREAMS)
def test_nothing_that_a_known_host_sends_raises_anything_but_protocol_errors(data: bytes) -> None:
    connection = Connection("destination", allocate_array)
    connection.send(messages.Welcome(messages.VERSION, "1", "test"))
    _feed_until_refused(connection, data)


@CHEAP
@given(STREAMS)
def test_nothing_that_a_destination_sends_raises_anything_but_protocol_errors(data: bytes) -> None:
    connection = Connection("host", allocate_array)
    feed(connection, frame_bytes(messages.Welcome(messages.VERSION, "1", "test"), 0, ()))
    _feed_until_refused(connection, data)
