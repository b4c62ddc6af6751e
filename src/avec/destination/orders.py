"""What the server and its zygote say to each other: one JSON datagram each, a connection's descriptor beside it."""

from __future__ import annotations

from typing import Literal

import msgspec

from avec.protocol.messages import AcceleratorInfo

DATAGRAM_NBYTES = 8192  # larger than any of them


class Ready(msgspec.Struct, frozen=True, tag=True):
    """zygote → server: hosts may come."""

    accelerator: AcceleratorInfo
    formats: tuple[str, ...]
    confinement: dict[str, str] = {}  # measure → whether workers are under it


class Assignment(msgspec.Struct, frozen=True, tag=True):
    """server → zygote → worker: fork a worker for the connection whose descriptor comes along."""

    purpose: Literal["session", "upload"]
    session: str
    program: str
    numerics: Literal["strict", "fast"]
    sessions: int  # how many others there are
    user: str = ""  # whose models it may use; empty where nobody is asked
    peer: str = ""  # the host's address
    cache_limit_nbytes: int | None = None  # the user's own


class Ended(msgspec.Struct, frozen=True, tag=True):
    """zygote → server: a worker ended; a negative status is the signal that killed it."""

    session: str
    purpose: Literal["session", "upload"]
    status: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """server → zygote: tell every worker to finish."""


FromServer = Assignment | Drain
FromZygote = Ready | Ended
