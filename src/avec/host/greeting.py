"""The first exchange on a connection, whatever it is for: connect, say hello, understand the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from avec import __version__
from avec.communication import connect
from avec.communication.channel import Channel, Heartbeat
from avec.errors import DestinationUnreachable, ProtocolError, SessionLost, unpack
from avec.host.credentials import credentials_for
from avec.protocol.codec import Allocate, allocate_array
from avec.protocol.messages import OLDEST_VERSION, VERSION, Hello, Refused, Status, Welcome

if TYPE_CHECKING:
    from typing import Literal

    from avec.config import Settings

WELCOME_TIMEOUT_S = 60.0  # making an accelerator's context takes seconds on a busy machine


def greet(
    url: str,
    settings: Settings,
    purpose: Literal["session", "upload", "status"],
    program: str = "",
    allocate: Allocate = allocate_array,
) -> tuple[Channel, Welcome | Status]:
    """Connect and say hello; blocks until the destination has answered.

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
    patience_s = settings.connect_timeout_s if purpose == "status" else WELCOME_TIMEOUT_S
    channel = Channel(transport, "host", Heartbeat(patience_s, misses=1), allocate)
    try:
        hello = Hello(OLDEST_VERSION, VERSION, purpose, f"avec {__version__}", program, settings.numerics)
        channel.send(msgspec.structs.replace(hello, token=credentials.token))
        answer = channel.receive().message
        match answer:
            case Welcome() | Status():
                channel.set_heartbeat(Heartbeat(settings.heartbeat_s, settings.heartbeat_misses))
                return channel, answer
            case Refused(error=error):
                raise unpack(error)
            case _:
                raise ProtocolError(f"{url} answered a hello with {type(answer).__name__}")
    except SessionLost as exc:
        channel.close()
        raise DestinationUnreachable(f"no destination answers at {url}: {exc}") from exc
    except BaseException:
        channel.close()
        raise
