"""The process between a host's encrypted connection and its worker, forked from the server that shook hands.

A TLS connection cannot be handed to another process by its descriptor, but a forked child has its keys. So strangers
are dealt with in the server and cost no process; the worker, which carries out what a host asks, never holds the
destination's private key nor anybody's token; and encrypting has a processor of its own. The price is one more copy.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import select
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable

from avec.communication.transport import Transport
from avec.destination import life
from avec.destination.worker_user import WorkerUser, become

PIECE_NBYTES = 256 * 1024
FAREWELL_S = 30.0  # for a host on a slow link to receive its worker's last results
_COUNT = struct.Struct("=Q")


class Encryption:
    """One such process, as the server knows it."""

    def __init__(self, pid: int, counts: mmap.mmap, life: socket.socket) -> None:
        self.pid = pid
        self.life = life  # where it answers
        self._counts = counts

    def counts(self) -> tuple[int, int]:
        """How many plain bytes the host has sent and received so far."""
        (received,), (sent,) = (_COUNT.unpack_from(self._counts, place * _COUNT.size) for place in range(2))
        return received, sent

    def close(self) -> None:
        """Release the counters and the socket."""
        self._counts.close()
        self.life.close()

    def kill(self) -> None:
        """End the process, before it is waited for."""
        os.kill(self.pid, signal.SIGKILL)


def start(outer: Transport, user: WorkerUser | None) -> tuple[Encryption, socket.socket]:
    """Fork the process for a connection; to be called from a process with one thread.

    Args:
        user: whose it shall be, where it is root's.

    Returns:
        What is known of it, and the plain end of the connection, for a worker. The caller closes that end and
        `outer` when the worker has its own.

    Raises:
        OSError: no process or no descriptor is left.
    """
    counts = mmap.mmap(-1, 2 * _COUNT.size)
    inner, plain = socket.socketpair()
    ours, its_life = life.pair()
    try:
        pid = os.fork()
    except OSError:
        counts.close()
        for each in (inner, plain, ours, its_life):
            each.close()
        raise
    if pid:
        inner.close()
        its_life.close()
        return Encryption(pid, counts, ours), plain
    status = 1
    try:
        _leave_server(outer.fileno(), inner.fileno(), its_life.fileno())
        if user is not None:
            with contextlib.suppress(OSError):  # as with workers, of whom `avec doctor --security` tells
                become(user)
        _Between(outer, inner, counts, its_life).run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class _Between:
    """Copies both ways until the worker has closed."""

    def __init__(self, outer: Transport, inner: socket.socket, counts: mmap.mmap, its_life: socket.socket) -> None:
        self._outer = outer
        self._inner = inner
        self._counts = counts
        self._life = its_life

    def run(self) -> None:
        to_worker = threading.Thread(target=self._copy, args=(self._to_worker,), daemon=True)
        to_host = threading.Thread(target=self._copy, args=(self._to_host,), daemon=True)
        to_worker.start()
        to_host.start()
        poll = select.poll()
        poll.register(self._inner, 0)  # POLLHUP alone: the worker has closed, or both directions have ended
        poll.register(self._life, select.POLLIN)
        while self._inner.fileno() not in dict(poll.poll()):
            if not life.answer(self._life):  # the server is gone, and the session ends in a moment
                poll.unregister(self._life)
        life.answer_always(self._life.detach())
        to_host.join(FAREWELL_S)
        self._outer.abort()

    def _copy(self, way: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):  # one side broke: the other is told by the end of its stream
            way()
        if way == self._to_worker:
            with contextlib.suppress(OSError):
                self._inner.shutdown(socket.SHUT_WR)
        else:
            self._outer.finish()

    def _to_worker(self) -> None:
        memory = memoryview(bytearray(PIECE_NBYTES))
        while nbytes := self._outer.receive_into(memory):
            self._count(0, nbytes)
            self._inner.sendall(memory[:nbytes])

    def _to_host(self) -> None:
        memory = memoryview(bytearray(PIECE_NBYTES))
        while nbytes := self._inner.recv_into(memory):
            self._count(1, nbytes)
            self._outer.send([memory[:nbytes]])

    def _count(self, place: int, nbytes: int) -> None:
        (before,) = _COUNT.unpack_from(self._counts, place * _COUNT.size)
        _COUNT.pack_into(self._counts, place * _COUNT.size, before + nbytes)


def _leave_server(*kept: int) -> None:
    """Let go of all that is the server's: its listening socket, its orders to the zygote, other strangers."""
    signal.set_wakeup_fd(-1)
    # The session goes on while the server drains; a terminal sends Ctrl-C to all.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    begin = 3  # after the standard streams
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.closerange(begin, limit if limit != resource.RLIM_INFINITY else 1 << 20)
