"""The process that serves one connection and owns its accelerator context; forked from the zygote.

Whatever happens here ends with this process: its host sees a closed connection, nobody else sees anything.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from avec import __version__
from avec.communication.channel import Channel, Heartbeat
from avec.communication.tcp import adopt
from avec.destination.accelerators import Accelerator
from avec.destination.buffers import BufferPool
from avec.destination.executors import Executor
from avec.destination.orders import Assignment
from avec.destination.session import CREDIT_CALLS, CREDIT_NBYTES, IDLE_BUFFERS_NBYTES, Session
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


def work(descriptor: int, assignment: Assignment, factories: Mapping[str, ExecutorFactory], settings: Settings) -> int:
    """Serve one connection to its end.

    Returns:
        The process's exit status: 0 when the host left or was lost, 1 when it was refused or broke the protocol.
    """
    try:
        confine_to(settings, assignment.user)
        cache = model_cache(settings, assignment.user, assignment.cache_limit_nbytes)
        if assignment.purpose == "upload":
            _serve_uploads(descriptor, assignment, cache, settings)
        else:
            _serve_session(descriptor, assignment, cache, factories, settings)
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
    channel = _open(descriptor, assignment, settings, uploads.allocate)
    channel.send(Welcome(version=VERSION, session=assignment.session, software=f"avec {__version__}"))
    uploads.serve(channel)


def _serve_session(
    descriptor: int,
    assignment: Assignment,
    cache: ModelCache,
    factories: Mapping[str, ExecutorFactory],
    settings: Settings,
) -> None:
    accelerator = Accelerator(assignment.numerics, settings.cudnn_workspace_mb, settings.cpu_accelerators)
    pool = BufferPool(accelerator.host_buffer, IDLE_BUFFERS_NBYTES)
    channel = _open(descriptor, assignment, settings, lambda number, message, index, spec: pool.take(spec))
    try:
        accelerator.warm_up()
        executors = {name: factory(accelerator) for name, factory in factories.items()}
    except Exception as exc:  # no context, no memory: the host is told why, with type and traceback
        channel.send(Refused(pack(exc)))
        raise

    def end(exc: AvecError) -> None:
        # On the receiving thread: nothing is left to do, however long the call under way would take.
        os._exit(_conclude(assignment, exc))

    session = Session(channel, pool, cache, executors, on_lost=end)
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
        )
    )


def _open(descriptor: int, assignment: Assignment, settings: Settings, allocate: Allocate) -> Channel:
    # A host may hold its interpreter lock for long, so it gets far more patience than it has with us.
    misses = max(1, round(settings.idle_host_timeout_s / settings.heartbeat_s))
    return Channel(adopt(descriptor, assignment.peer), "destination", Heartbeat(settings.heartbeat_s, misses), allocate)
