"""tcp:// is a transport, and URLs name it."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from avec import communication
from avec.communication import tcp
from avec.errors import ConfigurationError, DestinationUnreachable
from communication.pairs import open_pair, tcp_pair
from conformance.transport import CHECKS, MakePair, check_transport, receive_exactly

LARGE_NBYTES = 32 << 20  # more than kernels hold for a peer that does not read


def _adopted_pair() -> tuple[tcp.TcpTransport, tcp.TcpTransport]:
    """As a worker has it: by a descriptor that was passed on."""
    ours, theirs = tcp_pair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        return tcp.adopt(socket.dup(ours.fileno())), tcp.adopt(socket.dup(theirs.fileno()))


@pytest.mark.parametrize("make_pair", [tcp_pair, _adopted_pair])
def test_tcp_conforms(make_pair: MakePair) -> None:
    check_transport(make_pair)


def test_every_check_of_the_conformance_test_is_in_its_table() -> None:
    import conformance.transport as conformance

    taken = {each.__name__ for each in CHECKS}
    defined = {
        name
        for name, each in vars(conformance).items()
        if callable(each) and getattr(each, "__annotations__", {}).get("theirs")
    }
    assert defined == taken


def test_small_frames_are_not_delayed() -> None:
    with open_pair() as pair:
        for transport in pair:
            with socket.socket(fileno=socket.dup(transport.fileno())) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_the_tick_can_be_below_a_second_and_taken_back() -> None:
    with open_pair() as (ours, theirs):
        ours.set_tick(0.01)
        ours.set_tick(0)
        theirs.send([b"x"])
        assert receive_exactly(ours, 1) == b"x"


def test_who_has_to_wait_for_the_peer_to_read_is_told_once_for_each_time() -> None:
    ours, theirs = tcp_pair()
    waits: list[threading.Thread] = []

    def read() -> None:
        receive_exactly(theirs, LARGE_NBYTES + 1)

    def begin_reading() -> None:
        waits.append(threading.Thread(target=read))
        waits[-1].start()

    with contextlib.closing(ours), contextlib.closing(theirs):
        with contextlib.closing(tcp.adopt(socket.dup(ours.fileno()), before_waiting=begin_reading)) as adopted:
            adopted.send([b"x"])
            assert not waits
            adopted.send([bytes(LARGE_NBYTES)])
        (reading,) = waits
        reading.join()


def test_a_listener_says_the_port_that_it_was_given() -> None:
    with contextlib.closing(communication.listen("tcp://127.0.0.1:0")) as listener:
        assert listener.url.startswith("tcp://127.0.0.1:")
        assert not listener.url.endswith(":0")


def test_ipv6_is_spoken() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = communication.listen("tcp://[::1]:0")
    except ConfigurationError as exc:
        pytest.skip(f"this machine has no IPv6 loopback: {exc}")
    with contextlib.closing(listener), contextlib.closing(communication.connect(listener.url, 5.0)) as ours:
        with contextlib.closing(listener.accept()) as theirs:
            ours.send([b"x"])
            assert receive_exactly(theirs, 1) == b"x"


def test_nobody_at_the_url_is_unreachable_with_what_to_check() -> None:
    with contextlib.closing(communication.listen("tcp://127.0.0.1:0")) as listener:
        url = listener.url
    with pytest.raises(DestinationUnreachable, match=f"{url} .*refused.*; is `avec serve` running there"):
        communication.connect(url, 5.0)


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(DestinationUnreachable, match="tcp://no-such-host.invalid:1"):
        communication.connect("tcp://no-such-host.invalid:1", 5.0)


def test_an_address_in_use_is_a_configuration_error() -> None:
    with contextlib.closing(communication.listen("tcp://127.0.0.1:0")) as listener:
        with pytest.raises(ConfigurationError, match=f"cannot listen at {listener.url}"):
            communication.listen(listener.url)


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://box:1", "tcp://box", "tcp://:1", "tcp://box:99999", "tcp://box:1/x", "tcp://[::1"]
)
def test_a_url_that_names_no_destination_is_a_configuration_error_with_an_example(url: str) -> None:
    with pytest.raises(ConfigurationError, match="for example tcp://127.0.0.1:7700"):
        communication.connect(url, 1.0)
