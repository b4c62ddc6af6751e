"""A TCP relay that stands between a host and a destination and does to their bytes what networks do.

It delays, slows down, slices, damages, falls silent and cuts, needs no root, and counts what it forwarded. In a test:

    with Relay(destination.url) as relay:
        relay.up.rate = 1_000_000           # bytes per second, host → destination
        session = Session(relay.url, ...)
        relay.up.wait_for(5_000_000)        # blocks until so many bytes went up
        relay.cut(reset=True)

As a link of an exact rate and delay, for measurements, there is `avec.bench.relay`.
"""

from __future__ import annotations

import heapq
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

READ_NBYTES = 256 * 1024
WAIT_TIMEOUT_S = 30.0  # for `wait_for`: a test that waits so long has failed


@dataclass
class Direction:
    """What happens to the bytes of one direction; may be changed at any time. Offsets count over all connections."""

    name: Literal["up", "down"]
    delay_s: float = 0.0
    rate: float = 0.0  # bytes per second; 0 is unlimited
    slice_nbytes: int = 0  # forward at most so many at a time; 0 is unlimited
    damage_at: int = -1  # flip all bits of the byte at this offset
    cut_at: int = -1  # cut all connections once so many bytes were forwarded
    cut_by: Literal["FIN", "RST", "silence"] = "FIN"
    in_flight_nbytes: int = 256 * 1024  # what the link holds before it pushes back
    nbytes: int = 0  # forwarded so far
    record: bytearray | None = None  # if given, what was forwarded is added to it
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _lane_free_s: float = 0.0

    def wait_for(self, nbytes: int) -> None:
        """Block until so many bytes were forwarded since the relay began."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self.nbytes >= nbytes, WAIT_TIMEOUT_S)
        assert arrived, f"the relay forwarded {self.nbytes} bytes {self.name}, not {nbytes}, in {WAIT_TIMEOUT_S:.0f} s"

    def _due_s(self, nbytes: int) -> float:
        """When bytes that are read now come out at the other end."""
        now_s = time.monotonic()
        self._lane_free_s = max(now_s, self._lane_free_s) + (nbytes / self.rate if self.rate else 0.0)
        return self._lane_free_s + self.delay_s

    def _count(self, nbytes: int) -> None:
        with self._changed:
            self.nbytes += nbytes
            self._changed.notify_all()


class _Pipe:
    """One direction of one connection: read from `source`, hold until due, write to `sink`."""

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.held: deque[tuple[float, memoryview]] = deque()
        self.held_nbytes = 0
        self.ended = False  # the source said that no more comes
        self.passed_end = False
        self.blocked = False  # the sink's window is full

    def wants_to_read(self) -> bool:
        return not self.ended and self.held_nbytes < self.direction.in_flight_nbytes

    def read(self) -> None:
        # A slow link is read in small pieces, so that its bytes come out evenly.
        nbytes = max(1, min(READ_NBYTES, int(self.direction.rate / 100))) if self.direction.rate else READ_NBYTES
        data = self.source.recv(nbytes)
        if not data:
            self.ended = True
            return
        self.held.append((self.direction._due_s(len(data)), memoryview(data)))
        self.held_nbytes += len(data)

    def write(self) -> bool:
        """Forward what is due; True when the direction's cut was reached."""
        direction = self.direction
        while self.held and self.held[0][0] <= time.monotonic():
            due_s, data = self.held.popleft()
            piece = data[: direction.slice_nbytes or len(data)]
            if 0 <= direction.cut_at < direction.nbytes + len(piece):
                # A heartbeat may have passed the place before it was set: then it is here.
                piece = piece[: max(0, direction.cut_at - direction.nbytes)]
            if not piece:
                return True
            place = self._damaged_place()
            try:
                sent = self.sink.send(_damaged(piece, place))
            except BlockingIOError:
                sent = 0
            if 0 <= place < sent:
                direction.damage_at = -1  # once
            self.held_nbytes -= sent
            if sent < len(data):
                self.held.appendleft((due_s, data[sent:]))
            self.blocked = not sent
            if direction.record is not None:
                direction.record += piece[:sent]
            direction._count(sent)
            if self.blocked:
                return False
        if self.ended and not self.held and not self.passed_end:
            self.passed_end = True
            self.sink.shutdown(socket.SHUT_WR)
        return 0 <= direction.cut_at <= direction.nbytes

    def _damaged_place(self) -> int:
        """Where in the next piece the damage lies; at its start when other bytes passed the place before it was set."""
        at = self.direction.damage_at
        return at if at < 0 else max(0, at - self.direction.nbytes)


class Relay:
    """Relays connections to one destination, on a thread of its own. A context manager; `url` is what hosts use."""

    def __init__(self, target: str, port: int = 0) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = Direction("up")
        self.down = Direction("down")
        self.connections = 0  # so far
        self._silent = False
        self._pipes: list[tuple[_Pipe, _Pipe]] = []
        self._dead: list[tuple[_Pipe, _Pipe]] = []  # connections that stay, and over which nothing comes any more
        self._cuts: deque[bool] = deque()  # to be made, each with a RST or without
        self._burials: deque[threading.Event] = deque()
        self._over = False
        self._wakeup, self._alarm = os.pipe()
        self._thread = threading.Thread(target=self._relay, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._wake()
        self._thread.join()
        os.close(self._wakeup)
        os.close(self._alarm)

    def way(self, name: str) -> Direction:
        """The direction "up" or "down"."""
        return {"up": self.up, "down": self.down}[name]

    def silence(self) -> None:
        """Forward nothing any more while all connections stay: a pulled cable."""
        self._silent = True
        self._wake()

    def resume(self) -> None:
        """End the silence."""
        self._silent = False
        self._wake()

    def cut(self, reset: bool = False) -> None:
        """End all connections, with a FIN or a RST; new ones may come."""
        self._cuts.append(reset)
        self._wake()

    def bury(self) -> None:
        """End, with a RST, the connections that a cut by silence has left; blocks until that is done."""
        done = threading.Event()
        self._burials.append(done)
        self._wake()
        assert done.wait(WAIT_TIMEOUT_S)

    def _wake(self) -> None:
        os.write(self._alarm, b"!")

    def _relay(self) -> None:
        while not self._over:
            while self._cuts:
                self._end_all(reset=self._cuts.popleft())
            while self._burials:
                for pipe, _ in self._dead:
                    _end(pipe.source, reset=True)
                    _end(pipe.sink, reset=True)
                self._dead = []
                self._burials.popleft().set()
            self._wait()
            if not self._silent:
                self._forward()
        self._pipes += self._dead
        self._end_all(reset=False)
        self._listener.close()

    def _wait(self) -> None:
        """Block until something can be done, and read what came."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ, self._take_wakeup)
            selector.register(self._listener, selectors.EVENT_READ, self._accept)
            if not self._silent:
                self._register_pipes(selector)
            for key, events in selector.select(self._patience_s()):
                if isinstance(key.data, _Pipe):
                    if events & selectors.EVENT_READ:
                        self._read(key.data)
                else:
                    key.data()

    def _register_pipes(self, selector: selectors.BaseSelector) -> None:
        for pair in self._pipes:
            events: dict[socket.socket, int] = {}
            for pipe in pair:
                if pipe.wants_to_read():
                    events[pipe.source] = events.get(pipe.source, 0) | selectors.EVENT_READ
                if pipe.blocked:
                    events[pipe.sink] = events.get(pipe.sink, 0) | selectors.EVENT_WRITE
            for sock, wanted in events.items():
                selector.register(sock, wanted, next(pipe for pipe in pair if pipe.source is sock))

    def _patience_s(self) -> float | None:
        if self._silent:
            return None
        due_s = [pipe.held[0][0] for pair in self._pipes for pipe in pair if pipe.held and not pipe.blocked]
        return max(0.0, heapq.nsmallest(1, due_s)[0] - time.monotonic()) if due_s else None

    def _take_wakeup(self) -> None:
        os.read(self._wakeup, 4096)

    def _accept(self) -> None:
        host, _ = self._listener.accept()
        try:
            destination = socket.create_connection(self._target)
        except OSError:
            host.close()
            return
        for sock in (host, destination):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._pipes.append((_Pipe(self.up, host, destination), _Pipe(self.down, destination, host)))

    def _read(self, pipe: _Pipe) -> None:
        try:
            pipe.read()
        except BlockingIOError:
            return
        except OSError:
            self._end_with(pipe, reset=True)  # what one side did the other shall see

    def _forward(self) -> None:
        for pair in list(self._pipes):
            for pipe in pair:
                try:
                    cut = pipe.write()
                except OSError:
                    self._end_with(pipe, reset=True)
                    break
                if cut:
                    pipe.direction.cut_at = -1  # once
                    if pipe.direction.cut_by == "silence":
                        self._dead += self._pipes
                        self._pipes = []
                    else:
                        self._end_all(reset=pipe.direction.cut_by == "RST")
                    return
            else:
                if all(pipe.passed_end for pipe in pair):
                    self._end_with(pair[0], reset=False)

    def _end_with(self, pipe: _Pipe, reset: bool) -> None:
        for pair in [pair for pair in self._pipes if pipe in pair]:
            self._pipes.remove(pair)
            for each in pair:
                _end(each.source, reset)

    def _end_all(self, reset: bool) -> None:
        for pair in list(self._pipes):
            self._end_with(pair[0], reset)


def _end(sock: socket.socket, reset: bool) -> None:
    if reset:  # closing without lingering sends a RST
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        _shutdown(sock)  # closing alone would send a RST if something unread lay there
    sock.close()


def _shutdown(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # the peer was first
        return


def _damaged(piece: memoryview, place: int) -> memoryview:
    if not 0 <= place < len(piece):
        return piece
    copy = bytearray(piece)
    copy[place] ^= 0xFF
    return memoryview(copy)
