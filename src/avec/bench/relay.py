"""A link in user space: relays connections, and holds what passes as long as a link of some rate and delay would.

    python -m avec.bench.relay HOST PORT --delay 0.01 --rate 125e6
    python -m avec.bench.relay HOST PORT --fault silence --after 3000000

It prints its own port on 127.0.0.1 and ends when its standard input does. It needs no root, and both directions have a
rate of their own, which connections share. A fault comes when so many bytes have gone up: all connections end by a FIN
or a RST and new ones may come, or they stay and nothing comes over them any more. A slow reader is a rate with a small
`--window`. Faults that a test controls as it goes are made by tests/relay.py.

Each direction of a connection has a thread, which is in a system call nearly all the time. At a rate, what is read is
let out evenly, in slices, as it would come off a wire; a message's last byte comes out when its length says.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import random
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

PIECE_NBYTES = 256 * 1024  # read at once
COPIED_NBYTES = 32 * 1024  # a smaller piece is copied, so that many small ones do not take a buffer each
HELD_NBYTES = 64 << 20  # that one direction of a connection holds; 6 GB/s and 10 ms
QUEUE_S = 0.002  # how far ahead of its rate a direction takes bytes, as a router's queue does
SLICE_S = 0.0001  # at a rate, bytes come out at such intervals
NAP_S = 0.0005  # a long wait ends so early, and a short one follows: the longer the wait, the later its end
SWITCH_INTERVAL_S = 0.0001  # for which a thread may keep the interpreter while another wants it
PR_SET_TIMERSLACK = 29  # Source: linux/prctl.h


Kind = Literal["", "fin", "rst", "silence"]
KINDS: tuple[Kind, ...] = ("fin", "rst", "silence")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # Source: socket(7), SO_LINGER


class Fault:
    """What happens, once, to all connections when so many bytes have gone up. Thread-safe."""

    def __init__(self, kind: Kind = "", after_nbytes: int = 0) -> None:
        self.happened = False
        self._kind = kind
        self._left_nbytes = after_nbytes
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def silent(self) -> bool:
        """Whether nothing comes over any connection any more."""
        return self.happened and self._kind == "silence"

    def watch(self, *ends: socket.socket) -> None:
        """Have it happen to a connection too."""
        with self._lock:
            self._ends += ends

    def room(self, nbytes: int) -> int:
        """How many of some bytes may go up before it happens."""
        return min(nbytes, self._left_nbytes) if self._kind and not self.happened else nbytes

    def count(self, nbytes: int) -> None:
        """Take note of bytes that went up; at the last one it happens."""
        with self._lock:
            self._left_nbytes -= nbytes
            if not self._kind or self.happened or self._left_nbytes > 0:
                return
            self.happened = True
            ends = self._ends.copy()  # those that come from now on are other connections'
            if self._kind != "silence":
                self._ends.clear()
        for end in ends:
            with contextlib.suppress(OSError):
                if self._kind == "rst":
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                # In silence threads wake to end, and nobody is told: the sockets stay open here.
                end.shutdown(socket.SHUT_RDWR if self._kind == "fin" else socket.SHUT_RD)


class Lane:
    """One direction of the link: says when bytes that come in go out. Thread-safe."""

    def __init__(self, delay_s: float, rate: float, jitter_s: float, window_nbytes: int, fault: Fault) -> None:
        self.window_nbytes = window_nbytes
        self.fault = fault
        self.delay_s = delay_s
        self.rate = rate
        self.jitter_s = jitter_s
        self._free_s = 0.0
        self._lock = threading.Lock()

    def enter(self, nbytes: int) -> tuple[float, float]:
        """When the first of so many bytes goes out, and when the last has; clock readings."""
        with self._lock:
            began_s = max(time.monotonic(), self._free_s)
            self._free_s = ended_s = began_s + (nbytes / self.rate if self.rate else 0.0)
        delay_s = self.delay_s + (random.uniform(-self.jitter_s, self.jitter_s) if self.jitter_s else 0.0)
        return began_s + delay_s, ended_s + delay_s

    def opens_s(self) -> float:
        """When it takes bytes again; a clock reading that may be past."""
        return self._free_s - QUEUE_S


@dataclass(slots=True)
class Piece:
    """Bytes on the link; they go out evenly between two clock readings."""

    data: memoryview
    began_s: float
    ended_s: float
    buffer: bytearray | None  # to be used again
    sent: int = 0

    def due(self, now_s: float, rate: float) -> int:
        """How many of its bytes have gone out by now."""
        if now_s >= self.ended_s:
            return len(self.data)
        return int((now_s - self.began_s) * rate) if now_s > self.began_s else 0


class Way:
    """One direction of one connection: reads from `source`, holds, writes to `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket, lane: Lane, upward: bool) -> None:
        self._upward = upward
        self._fault_before = lane.fault.happened  # to others, before this connection came
        self._source = source
        self._sink = sink
        self._lane = lane
        self._held: deque[Piece] = deque()
        self._held_nbytes = 0
        self._last_s = 0.0  # when the last byte so far goes out: jitter must not let a later one overtake it
        self._buffers: list[bytearray] = []
        self._slice_nbytes = int(lane.rate * SLICE_S)
        self._ended = False
        self._blocked = False

    def carry(self) -> None:
        """Relay until the source has ended and all was passed on, or either side is gone."""
        fault, before = self._lane.fault, self._fault_before
        try:
            while self._held or not self._ended:
                self._send(time.monotonic())
                if fault.happened != before:
                    return
                self._receive()
            if fault.happened == before:
                self._sink.shutdown(socket.SHUT_WR)
        except OSError:  # what happened to one side shall happen to the other
            for end in (self._source, self._sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _send(self, now_s: float) -> None:
        self._blocked = False
        while self._held:
            piece = self._held[0]
            due = piece.due(now_s, self._lane.rate)
            if due < len(piece.data) and due - piece.sent < max(1, self._slice_nbytes):
                return
            try:
                count = self._sink.send(piece.data[piece.sent : piece.sent + self._room(due - piece.sent)])
            except BlockingIOError:
                self._blocked = True
                return
            piece.sent += count
            self._held_nbytes -= count
            if self._upward:
                self._lane.fault.count(count)
                if self._lane.fault.happened != self._fault_before:
                    return
            if piece.sent == len(piece.data):
                self._held.popleft()
                if piece.buffer is not None:
                    self._buffers.append(piece.buffer)

    def _room(self, nbytes: int) -> int:
        return self._lane.fault.room(nbytes) if self._upward else nbytes

    def _receive(self) -> None:
        """Wait until something can be read or sent; read."""
        if not self._held and self._ended:
            return
        now_s = time.monotonic()
        opens_s = self._lane.opens_s() if self._lane.rate else 0.0
        takes = not self._ended and self._held_nbytes < self._lane.window_nbytes
        wakes_s = []
        if self._held and not self._blocked:
            piece = self._held[0]
            later_s = max(now_s, piece.began_s) + SLICE_S if self._lane.rate else piece.ended_s
            wakes_s.append(min(piece.ended_s, later_s))
        if takes and opens_s > now_s:
            takes = False
            wakes_s.append(opens_s)
        patience_s = max(0.0, min(wakes_s) - now_s) if wakes_s else None
        if patience_s is not None and patience_s > 2 * NAP_S:
            patience_s -= NAP_S
        sources, sinks = [self._source] if takes else [], [self._sink] if self._blocked else []
        if select.select(sources, sinks, (), patience_s)[0]:
            self._read()

    def _read(self) -> None:
        buffer = self._buffers.pop() if self._buffers else bytearray(PIECE_NBYTES)
        count = self._source.recv_into(buffer)
        if not count:
            self._ended = True
            return
        began_s, ended_s = self._lane.enter(count)
        began_s, ended_s = max(began_s, self._last_s), max(ended_s, self._last_s)
        self._last_s = ended_s
        self._held_nbytes += count
        if count < COPIED_NBYTES:
            self._held.append(Piece(memoryview(buffer[:count]), began_s, ended_s, None))
            self._buffers.append(buffer)
        else:
            self._held.append(Piece(memoryview(buffer)[:count], began_s, ended_s, buffer))


def relay(listener: socket.socket, target: tuple[str, int], up: Lane, down: Lane) -> None:
    """Relay what comes to a listener, until standard input ends."""
    while True:
        ready = select.select((listener, sys.stdin), (), ())[0]
        if sys.stdin in ready:
            return
        # Nothing here may keep the sockets: a connection is reset when the last who has them lets go.
        _carry(listener.accept()[0], target, up, down)


def _carry(host: socket.socket, target: tuple[str, int], up: Lane, down: Lane) -> None:
    if up.fault.silent:
        up.fault.watch(host)
        return
    try:
        destination = socket.create_connection(target)
    except OSError:  # the host sees a connection that ends at once
        host.close()
        return
    for end in (host, destination):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    up.fault.watch(host, destination)
    for way in (Way(host, destination, up, True), Way(destination, host, down, False)):
        threading.Thread(target=way.carry, daemon=True).start()


def wake_exactly() -> None:
    """Have timed waits of this thread, and of those that it starts, end when they should, not up to 50 µs later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)


def main() -> None:
    """Relay from a free port of 127.0.0.1, which is printed."""
    parser = argparse.ArgumentParser(description="A link in user space.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, one way")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes per second, each way; 0 is unlimited")
    parser.add_argument("--jitter", type=float, default=0.0, help="seconds, earlier or later")
    parser.add_argument("--window", type=int, default=HELD_NBYTES, help="bytes that a direction of a connection holds")
    parser.add_argument("--fault", choices=KINDS, default="", help="what is to happen to all connections, once")
    parser.add_argument("--after", type=int, default=0, help="bytes up, at the last of which it happens")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    wake_exactly()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        fault = Fault(options.fault, options.after)
        lanes = [Lane(options.delay, options.rate, options.jitter, options.window, fault) for _ in range(2)]
        relay(listener, (options.host, options.port), *lanes)


if __name__ == "__main__":
    main()
