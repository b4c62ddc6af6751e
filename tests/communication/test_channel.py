"""A protocol connection over a transport: heartbeats, and how its end is told."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from avec.communication.channel import Channel, Heartbeat
from avec.communication.transport import Transport
from avec.errors import ProtocolError, SessionLost
from avec.protocol.codec import allocate_array, encode
from avec.protocol.connection import Connection
from avec.protocol.messages import VERSION, Draining, Goodbye, Message, Ping, Pong, Result, Run, Welcome
from communication.pairs import open_pair
from conformance.transport import receive_exactly

PATIENT = Heartbeat(interval_s=20.0, misses=3)
QUICK = Heartbeat(interval_s=0.1, misses=3)
PING_NBYTES = sum(map(len, encode(Ping(time.monotonic_ns()))))
WELCOME = Welcome(VERSION, "1", "test")


@contextlib.contextmanager
def host_channel(heartbeat: Heartbeat) -> Iterator[tuple[Channel, Transport]]:
    """A host's open channel, and the bare transport at the other end."""
    with open_pair() as (ours, theirs):
        channel = Channel(ours, "host", heartbeat)
        theirs.send(encode(WELCOME))
        assert channel.receive().message == WELCOME
        yield channel, theirs


def read_message(transport: Transport) -> Message:
    """Read one frame off a bare transport."""
    connection = Connection("destination", allocate_array)
    connection.send(WELCOME)
    while True:
        frame = connection.advance(transport.receive_into(connection.buffer()))
        if frame is not None:
            return frame.message


def test_a_ping_is_answered_with_its_own_reading_and_not_given_on() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        theirs.send([*encode(Ping(12345)), *encode(Draining("x"))])
        assert channel.receive().message == Draining("x")
        pong = read_message(theirs)
        assert isinstance(pong, Pong)
        assert pong.sent_ns == 12345
        assert pong.received_ns <= pong.answered_ns


def test_a_pong_measures_the_link_and_is_not_given_on() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        channel.measure()
        ping = read_message(theirs)
        assert isinstance(ping, Ping)
        theirs.send([*encode(Pong(ping.sent_ns, 7, 7)), *encode(Draining("x"))])
        assert channel.receive().message == Draining("x")
        assert channel.link.round_trip_ns > 0


def test_silence_is_asked_about_and_then_taken_for_a_cut() -> None:
    with host_channel(QUICK) as (channel, theirs):
        began_s = time.monotonic()
        with pytest.raises(SessionLost, match=r"nothing came from 127.0.0.1:\d+ for 0.3 s; the link is cut"):
            channel.receive()
        assert time.monotonic() - began_s >= QUICK.interval_s * QUICK.misses * 0.9
        assert isinstance(read_message(theirs), Ping)


def test_a_peer_that_answers_is_borne_for_as_long_as_it_takes() -> None:
    with host_channel(QUICK) as (channel, theirs):
        answering = threading.Thread(target=_answer_pings, args=(theirs, 8))
        answering.start()
        assert channel.receive().message == Draining("done")
        answering.join()


def _answer_pings(transport: Transport, count: int) -> None:
    for _ in range(count):
        ping = read_message(transport)
        assert isinstance(ping, Ping)
        transport.send(encode(Pong(ping.sent_ns, 1, 1)))
    transport.send(encode(Draining("done")))


def test_while_bytes_come_in_something_goes_out() -> None:
    # The sender of a frame that takes long hears nothing else: its own Ping waits behind that frame.
    frame = b"".join(encode(Result(), 1, [np.zeros(1000, np.uint8)]))
    with host_channel(PATIENT) as (channel, theirs):
        stop = threading.Event()

        def trickle() -> None:
            for byte in frame[:-1]:
                if stop.wait(0.001):
                    return
                theirs.send([bytes([byte])])
            stop.wait()

        def receive() -> None:
            with contextlib.suppress(SessionLost):
                channel.receive()

        threads = [threading.Thread(target=trickle), threading.Thread(target=receive)]
        for thread in threads:
            thread.start()
        assert isinstance(read_message(theirs), Ping)
        stop.set()
        channel.abort()
        for thread in threads:
            thread.join()


def test_the_peers_end_between_frames_is_a_lost_session() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        theirs.close()
        with pytest.raises(SessionLost, match=r"127.0.0.1:\d+ closed the connection$"):
            channel.receive()


def test_the_peers_end_within_a_frame_says_so() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        theirs.send([b"".join(encode(Draining("x")))[:-1]])
        theirs.close()
        with pytest.raises(SessionLost, match="in the middle of a message"):
            channel.receive()


def test_sending_after_the_peers_end_is_a_lost_session() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        theirs.close()
        with pytest.raises(SessionLost):
            channel.receive()
        with pytest.raises(SessionLost, match="closed the connection"):
            channel.send(Goodbye())


def test_what_the_protocol_does_not_allow_is_a_protocol_error() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        theirs.send(encode(WELCOME))
        with pytest.raises(ProtocolError, match="a second Welcome"):
            channel.receive()


def test_abort_from_another_thread_ends_a_receiver() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        aborting = threading.Thread(target=channel.abort)
        aborting.start()
        with pytest.raises(SessionLost):
            channel.receive()
        aborting.join()


def test_frames_of_many_threads_do_not_mix() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        payloads = [np.full(200_000, number, np.uint8) for number in range(8)]

        def send(number: int) -> None:
            channel.send(Run(handle=number), 0, [payloads[number]])

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        nbytes = sum(map(len, encode(Run(handle=1), 0, [payloads[0]])))
        data = receive_exactly(theirs, 8 * nbytes)
        for thread in threads:
            thread.join()
    frames = [data[place : place + nbytes] for place in range(0, len(data), nbytes)]
    expected = [b"".join(encode(Run(handle=number), 0, [payloads[number]])) for number in range(8)]
    assert sorted(frames) == sorted(expected)


def test_a_full_network_does_not_hold_up_the_receiver() -> None:
    # Were a Pong sent into a full window, both receivers could wait for one another forever.
    with host_channel(PATIENT) as (channel, theirs):
        sender = threading.Thread(target=_send_until_aborted, args=(channel,))
        sender.start()
        receive_exactly(theirs, 1)  # it is sending
        theirs.send([*encode(Ping(1)), *encode(Draining("x"))])
        assert channel.receive().message == Draining("x")
        channel.abort()
        sender.join()


def _send_until_aborted(channel: Channel) -> None:
    with pytest.raises(SessionLost):
        channel.send(Run(handle=1), 1, [np.zeros(64 << 20, np.uint8)])


def test_discarding_ends_when_the_peer_closes() -> None:
    with host_channel(PATIENT) as (channel, theirs):
        theirs.send([bytes(100_000)])
        theirs.close()
        began_s = time.monotonic()
        channel.discard(timeout_s=20.0)
        assert time.monotonic() - began_s < 10


def test_discarding_ends_after_its_time() -> None:
    with host_channel(PATIENT) as (channel, _):
        channel.discard(timeout_s=0.05)
