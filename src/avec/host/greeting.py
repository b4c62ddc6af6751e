"""The first exchange on a connection, whatever it is for: connect, say hello, understand the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from avec import __version__
from avec.communication import connect
from avec.communication.channel import Channel, Heartbeat
from avec.communication.compression import available
from avec.errors import DestinationUnreachable, ProtocolError, SessionLost, unpack
from avec.host.credentials import credentials_for
from avec.protocol.codec import Allocate, allocate_array
from avec.protocol.messages import OLDEST_VERSION, VERSION, Hello, Message, Refused, Status, Welcome

if TYPE_CHECKING:
    from typing import Literal

    from avec.config import Settings

WELCOME_TIMEOUT_S = 60.0  # making an accelerator's context takes seconds on a busy machine


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a host says to be let into its session again."""

    session: str
    secret: str = field(repr=False)
    epoch: int
    answered: int  # the last call whose answer has arrived


def greet(
    url: str,
    settings: Settings,
    purpose: Literal["session", "upload", "status", "resume"],
    program: str = "",
    allocate: Allocate = allocate_array,
    resumption: Resumption | None = None,
    patience_s: float = math.inf,
) -> tuple[Channel, Welcome | Status]:
    """Connect and say hello; blocks until the destination has answered.

    Args:
        patience_s: how long to wait for the answer where a worker may have to be started, at most.

    Returns:
        The open channel, beating at the settings' pace, and what the destination said.

    Raises:
        DestinationUnreachable: nobody answered, or not in time.
        DestinationUntrusted: it is not, or may not be, the destination that was meant.
        AuthenticationFailed: it does not know this host.
        AvecError: the destination refused; the class and the text say why.
    """
    credentials = credentials_for(url, settings)
    transport = connect(url, settings.connect_timeout_s, credentials.trust)
    beat = Heartbeat(settings.heartbeat_s, settings.heartbeat_misses)
    channel = Channel(transport, "host", Heartbeat(_patience_s(purpose, settings, patience_s), misses=1), allocate)
    try:
        hello = Hello(OLDEST_VERSION, VERSION, purpose, f"avec {__version__}", program, settings.numerics)
        hello = msgspec.structs.replace(
            hello,
            token=credentials.token,
            resume_s=settings.resume_timeout_s,
            memory_nbytes=settings.memory or 0,
            codecs=available(),
        )
        if resumption is not None:
            hello = msgspec.structs.replace(
                hello,
                session=resumption.session,
                secret=resumption.secret,
                epoch=resumption.epoch,
                answered=resumption.answered,
            )
        answer = _answer(channel, hello, url)
        match answer:
            case Welcome() | Status():
                channel.set_heartbeat(beat)
                return channel, answer
            case Refused(error=error):
                raise unpack(error)
            case _:
                raise ProtocolError(f"{url} answered a hello with {type(answer).__name__}")
    except BaseException:
        channel.close()
        raise


def _answer(channel: Channel, hello: Hello, url: str) -> Message:
    try:
        channel.send(hello)
        return channel.receive().message
    except SessionLost as exc:
        raise DestinationUnreachable(f"no destination answers at {url}: {exc}") from exc


def _patience_s(purpose: str, settings: Settings, patience_s: float) -> float:
    if purpose == "resume":  # there is a worker already; a connection that does not get through is tried again
        return settings.heartbeat_s * settings.heartbeat_misses
    return settings.connect_timeout_s if purpose == "status" else min(WELCOME_TIMEOUT_S, patience_s)
