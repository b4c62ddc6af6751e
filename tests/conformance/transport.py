"""What any transport must do. A transport's own test calls `check_transport` with a way to make a connected pair."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from avec.communication.transport import Transport

MakePair = Callable[[], tuple[Transport, Transport]]
TICK_S = 0.05
FULL_NBYTES = 64 << 20  # more than any transport holds on its way
STUCK_S = 0.2  # a call that has not returned after this is taken to block


def check_transport(make_pair: MakePair) -> None:
    """Run every check on fresh pairs; an assertion says what the transport lacks."""
    for check in CHECKS:
        ours, theirs = make_pair()
        try:
            check(ours, theirs)
        finally:
            ours.close()
            theirs.close()


def receive_exactly(transport: Transport, nbytes: int) -> bytes:
    """Receive so many bytes."""
    data = bytearray(nbytes)
    view = memoryview(data)
    while view:
        count = transport.receive_into(view)
        assert count, f"the peer closed {view.nbytes} bytes too early"
        view = view[count:]
    return bytes(data)


def bytes_arrive_in_order_both_ways(ours: Transport, theirs: Transport) -> None:
    for number in range(100):
        ours.send([f"up {number:04}".encode()])
        theirs.send([f"dn {number:04}".encode()])
    assert receive_exactly(theirs, 700) == b"".join(f"up {number:04}".encode() for number in range(100))
    assert receive_exactly(ours, 700) == b"".join(f"dn {number:04}".encode() for number in range(100))


def many_buffers_are_gathered_in_order(ours: Transport, theirs: Transport) -> None:
    pieces = [bytes([number % 251]) * (number % 7) for number in range(3000)]  # empty ones among them
    ours.send([memoryview(piece) for piece in pieces])
    assert receive_exactly(theirs, sum(map(len, pieces))) == b"".join(pieces)


def a_large_send_is_whole_although_the_peer_reads_in_pieces(ours: Transport, theirs: Transport) -> None:
    data = np.random.default_rng(0).integers(0, 256, 8 << 20, np.uint8)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(ours.send, [b"head", data.data, b"tail"])
        assert receive_exactly(theirs, 4) == b"head"
        assert receive_exactly(theirs, data.nbytes) == data.tobytes()
        assert receive_exactly(theirs, 4) == b"tail"
        sent.result()


def a_full_peer_holds_the_sender_back(ours: Transport, theirs: Transport) -> None:
    data = memoryview(bytearray(FULL_NBYTES))
    sender = threading.Thread(target=ours.send, args=([data],))
    sender.start()
    sender.join(STUCK_S)
    assert sender.is_alive()
    assert not ours.writable()
    assert len(receive_exactly(theirs, FULL_NBYTES)) == FULL_NBYTES
    sender.join()
    assert ours.writable()


def silence_is_a_timeout_after_a_tick(ours: Transport, theirs: Transport) -> None:
    ours.set_tick(TICK_S)
    with pytest.raises(TimeoutError):
        ours.receive_into(memoryview(bytearray(1)))
    theirs.send([b"x"])
    assert receive_exactly(ours, 1) == b"x"


def readable_tells_what_receiving_would_do(ours: Transport, theirs: Transport) -> None:
    assert not ours.readable()
    theirs.send([b"x"])
    receive_exactly_after_readable(ours)
    assert not ours.readable()


def receive_exactly_after_readable(transport: Transport) -> None:
    """Wait for one byte by receiving in the kernel's time, then see that it was readable before."""
    deadline = threading.Event()
    while not transport.readable():
        assert not deadline.wait(0.001)
    assert receive_exactly(transport, 1) == b"x"


def abort_wakes_a_receiver(ours: Transport, theirs: Transport) -> None:
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(ours.receive_into, memoryview(bytearray(1)))
        theirs.send([b"x"])
        assert received.result() == 1  # the thread runs
        received = pool.submit(ours.receive_into, memoryview(bytearray(1)))
        ours.abort()
        assert received.result(timeout=5) == 0


def abort_wakes_a_sender(ours: Transport, theirs: Transport) -> None:
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(ours.send, [memoryview(bytearray(FULL_NBYTES))])
        receive_exactly(theirs, 1)  # it is sending
        ours.abort()
        with pytest.raises(ConnectionError):
            sent.result(timeout=5)


def abort_twice_is_harmless(ours: Transport, theirs: Transport) -> None:
    ours.abort()
    ours.abort()


def what_was_sent_before_closing_arrives(ours: Transport, theirs: Transport) -> None:
    theirs.send([b"last words"])
    theirs.close()
    assert receive_exactly(ours, 10) == b"last words"
    assert ours.receive_into(memoryview(bytearray(1))) == 0


def finishing_lets_what_was_sent_arrive_and_the_peer_answer(ours: Transport, theirs: Transport) -> None:
    ours.send([b"question"])
    ours.finish()
    assert receive_exactly(theirs, 8) == b"question"
    assert theirs.receive_into(memoryview(bytearray(1))) == 0
    theirs.send([b"answer"])
    assert receive_exactly(ours, 6) == b"answer"


def sending_to_a_closed_peer_is_a_connection_error(ours: Transport, theirs: Transport) -> None:
    theirs.close()
    with pytest.raises(ConnectionError):
        for _ in range(1000):  # the first may go out before the peer's refusal comes back
            ours.send([bytes(65536)])


def the_peer_has_an_address(ours: Transport, theirs: Transport) -> None:
    assert ours.peer
    assert ours.fileno() != theirs.fileno()


CHECKS = (
    bytes_arrive_in_order_both_ways,
    many_buffers_are_gathered_in_order,
    a_large_send_is_whole_although_the_peer_reads_in_pieces,
    a_full_peer_holds_the_sender_back,
    silence_is_a_timeout_after_a_tick,
    readable_tells_what_receiving_would_do,
    abort_wakes_a_receiver,
    abort_wakes_a_sender,
    abort_twice_is_harmless,
    what_was_sent_before_closing_arrives,
    finishing_lets_what_was_sent_arrive_and_the_peer_answer,
    sending_to_a_closed_peer_is_a_connection_error,
    the_peer_has_an_address,
)
