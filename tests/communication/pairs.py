"""Two ends of one TCP connection on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from avec.communication import connect, listen
from avec.communication.transport import Transport


def tcp_pair() -> tuple[Transport, Transport]:
    """A connected pair of TCP transports."""
    with contextlib.closing(listen("tcp://127.0.0.1:0")) as listener:
        ours = connect(listener.url, 5.0)
        return ours, listener.accept()


@contextlib.contextmanager
def open_pair() -> Iterator[tuple[Transport, Transport]]:
    """A connected pair that is closed afterwards."""
    ours, theirs = tcp_pair()
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()
