"""The process that serves one connection and owns its accelerator context; forked from the zygote.

Whatever happens here ends with this process: its host sees a closed connection, nobody else sees anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from avec import __version__
from avec.communication.channel import Channel, Heartbeat
from avec.communication.tcp import adopt
from avec.communication.transport import Transport
from avec.destination.accelerators import Accelerator
from avec.destination.buffers import BufferPool
from avec.destination.executors import Executor
from avec.destination.life import answer_always
from avec.destination.orders import (
    DATAGRAM_NBYTES,
    Ask,
    Assignment,
    Broken,
    FromWorker,
    GiveBack,
    Here,
    Knock,
    Recall,
    Resumed,
    ToWorker,
    Turn,
    Vacate,
)
from avec.destination.session import CREDIT_CALLS, CREDIT_NBYTES, IDLE_BUFFERS_NBYTES, Session
from avec.destination.sharing.board import Board
from avec.destination.sharing.turns import Turns
from avec.destination.tenants import confine_to, model_cache
from avec.destination.uploads import Uploads
from avec.errors import AvecError, SessionLost, pack
from avec.protocol.codec import Allocate
from avec.protocol.messages import VERSION, Refused, Welcome

if TYPE_CHECKING:
    from avec.config import Settings
    from avec.modelcache import ModelCache

ExecutorFactory = Callable[[Accelerator], Executor]

log = logging.getLogger("avec.destination")


def work(
    descriptors: Sequence[int], assignment: Assignment, factories: Mapping[str, ExecutorFactory], settings: Settings
) -> int:
    """Serve one connection, and those that take its place, to the end.

    Args:
        descriptors: of the connection, for a session of the socket that leads to the server and of its board, and of
            the socket where it answers for its life.

    Returns:
        The process's exit status: 0 when the host left or was lost, 1 when it was refused or broke the protocol.
    """
    try:
        confine_to(settings, assignment.user)
        answer_always(descriptors[-1])
        cache = model_cache(settings, assignment.user, assignment.cache_limit_nbytes)
        if assignment.purpose == "upload":
            _serve_uploads(descriptors[0], assignment, cache, settings)
        else:
            server = socket.socket(fileno=descriptors[1])
            board = Board(descriptors[2])
            os.close(descriptors[2])
            _serve_session(descriptors[0], server, board, assignment, cache, factories, settings)
    except AvecError as exc:
        return _conclude(assignment, exc)
    return 0


def _conclude(assignment: Assignment, exc: AvecError) -> int:
    """Log why a connection ended; give the process's exit status."""
    lost = isinstance(exc, SessionLost)
    log.log(logging.INFO if lost else logging.WARNING, "%s %s: %s", assignment.purpose, assignment.session, exc)
    return 0 if lost else 1


def _serve_uploads(descriptor: int, assignment: Assignment, cache: ModelCache, settings: Settings) -> None:
    uploads = Uploads(cache)
    transport = adopt(descriptor, assignment.peer)
    # One thread receives and sends, so a host that does not read would be waited for, whatever else it does.
    transport.limit_sending(settings.idle_host_timeout_s)
    channel = _open(transport, settings, uploads.allocate)
    channel.send(Welcome(version=VERSION, session=assignment.session, software=f"avec {__version__}"))
    uploads.serve(channel)


def _serve_session(
    descriptor: int,
    server: socket.socket,
    board: Board,
    assignment: Assignment,
    cache: ModelCache,
    factories: Mapping[str, ExecutorFactory],
    settings: Settings,
) -> None:
    accelerator = Accelerator(
        assignment.numerics, settings.cudnn_workspace_mb, settings.cpu_accelerators, assignment.memory_nbytes
    )
    accelerator.replay_nbytes = lambda: board["replay_nbytes"]
    if accelerator.device.type == "cpu":
        accelerator.models = cache
    pool = BufferPool(accelerator.host_buffer, IDLE_BUFFERS_NBYTES, accelerator.messages_nbytes)

    def open_channel(descriptor: int, peer: str) -> Channel:
        transport = adopt(descriptor, peer, before_waiting=lambda: accelerator.turns.pause())
        return _open(transport, settings, lambda number, message, index, spec: pool.take(spec))

    channel = open_channel(descriptor, assignment.peer)
    try:
        accelerator.warm_up()
        executors = {name: factory(accelerator) for name, factory in factories.items()}
    except Exception as exc:  # no context, no memory: the host is told why, with type and traceback
        channel.send(Refused(pack(exc)))
        raise

    def end(exc: AvecError) -> None:
        # On the receiving thread: nothing is left to do, however long the call under way would take.
        os._exit(_conclude(assignment, exc))

    def tell_broken(epoch: int) -> None:
        _say(server, Broken(epoch))

    turns = accelerator.turns = Turns(
        board,
        accelerator,
        settings.turn_ms / 1e3,
        _Server(server, assignment.session),
        Heartbeat(settings.heartbeat_s, settings.heartbeat_misses),
    )
    session = Session(channel, pool, cache, executors, end, assignment.resume_s, tell_broken, turns)
    session.max_models = assignment.max_models
    threading.Thread(target=_heed, args=(server, session, turns, open_channel, tell_broken, end), daemon=True).start()
    turns.ask()  # who is alone computes from the first call on without the server
    signal.signal(signal.SIGTERM, lambda number, frame: session.drain("it is shutting down"))
    session.serve(
        Welcome(
            version=VERSION,
            session=assignment.session,
            software=f"avec {__version__}",
            accelerator=accelerator.info,
            formats=tuple(executors),
            credit_calls=CREDIT_CALLS,
            credit_nbytes=CREDIT_NBYTES,
            sessions=assignment.sessions,
            secret=assignment.secret,
            resume_s=assignment.resume_s,
            codecs=assignment.codecs,
        )
    )


@dataclass(frozen=True, slots=True)
class _Server:
    """The server, as this worker's turns see it. It is told a few things at most before it answers, so none waits."""

    socket: socket.socket
    session: str

    def ask(self) -> None:
        _say(self.socket, Ask())

    def give_back(self, used_ns: int, again: bool) -> None:
        _say(self.socket, GiveBack(used_ns, again))

    def knock(self) -> None:
        _say(self.socket, Knock())

    def note_silence(self, silence_s: float) -> None:
        log.warning(
            "session %s: the server has given neither a turn nor a sign of life for %g s; until it does, calls are "
            "carried out without turns; see whether avec serve is stopped or overloaded",
            self.session,
            silence_s,
        )

    def note_life(self) -> None:
        log.warning("session %s: the server answers again; calls wait for their turns", self.session)


def _say(server: socket.socket, what: FromWorker) -> None:
    with contextlib.suppress(OSError):  # the server is gone, and the zygote ends this process in a moment
        server.send(msgspec.json.encode(what))


def _heed(
    server: socket.socket,
    session: Session,
    turns: Turns,
    open_channel: Callable[[int, str], Channel],
    tell_broken: Callable[[int], None],
    end: Callable[[AvecError], None],
) -> None:
    """Do what the server says: take turns, connections over which the host comes back, or end."""
    poll = select.poll()
    poll.register(server, select.POLLIN)
    while True:
        patience_s = turns.pause_in_s()
        if not poll.poll(None if patience_s is None else 1e3 * patience_s):
            turns.pause()
            continue
        data = b""
        with contextlib.suppress(ConnectionError):
            data, descriptors, _, _ = socket.recv_fds(server, DATAGRAM_NBYTES, maxfds=1)
        if not data:  # nobody would give it a turn any more; its host gets another worker
            end(SessionLost("the server hears this worker no longer"))
        match msgspec.json.decode(data, type=ToWorker):
            case Vacate(reason):
                session.vacate(reason)
                return
            case Turn():
                turns.grant()
                continue
            case Recall():
                turns.recall()
                continue
            case Here():
                turns.answer()
                continue
            case Resumed() as resumed:
                pass
        try:
            channel = open_channel(descriptors[0], resumed.peer)
        except OSError as exc:  # it broke on its way here; the host comes again
            log.info(
                "session's connection %d from %s broke before it was taken up: %s", resumed.epoch, resumed.peer, exc
            )
            tell_broken(resumed.epoch)
        else:
            session.resume(channel, resumed.epoch, resumed.answered)


def _open(transport: Transport, settings: Settings, allocate: Allocate) -> Channel:
    # A host may hold its interpreter lock for long, so it gets far more patience than it has with us.
    misses = max(1, round(settings.idle_host_timeout_s / settings.heartbeat_s))
    return Channel(transport, "destination", Heartbeat(settings.heartbeat_s, misses), allocate)
