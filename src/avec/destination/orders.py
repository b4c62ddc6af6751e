"""What the server, its zygote and the workers say to each other: one JSON datagram each, descriptors beside it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from avec.protocol.messages import AcceleratorInfo

DATAGRAM_NBYTES = 8192  # larger than any of them


class Ready(msgspec.Struct, frozen=True, tag=True):
    """zygote → server: hosts may come."""

    accelerator: AcceleratorInfo
    formats: tuple[str, ...]
    confinement: dict[str, str] = {}  # measure → whether workers are under it


class Assignment(msgspec.Struct, frozen=True, tag=True):
    """server → zygote → worker: fork a worker for the connection whose descriptor comes along.

    Last comes the worker's end of a pair of sockets where it answers for its life. A session's worker gets two more in
    between: its end of a pair over which it is given turns and its session is resumed, and the page of its board.
    """

    purpose: Literal["session", "upload"]
    session: str
    program: str
    numerics: Literal["strict", "fast"]
    sessions: int  # how many others there are
    user: str = ""  # whose models it may use; empty where nobody is asked
    peer: str = ""  # the host's address
    cache_limit_nbytes: int | None = None  # the user's own
    secret: str = ""  # of the session, for its host
    resume_s: float = 0.0  # for how long to wait for the host after the connection broke
    memory_nbytes: int | None = None  # of the accelerator, that it may have
    max_models: int | None = None
    codecs: tuple[str, ...] = ()  # that the host can read


class Ended(msgspec.Struct, frozen=True, tag=True):
    """zygote → server: a worker ended; a negative status is the signal that killed it."""

    session: str
    purpose: Literal["session", "upload"]
    status: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """server → zygote: tell every worker to finish."""


class Kill(msgspec.Struct, frozen=True, tag=True):
    """server → zygote: end a worker that gives no sign of life."""

    session: str


class Resumed(msgspec.Struct, frozen=True, tag=True):
    """server → worker: the host has come back over the connection whose descriptor comes along."""

    epoch: int  # higher than those before
    answered: int  # the last call whose answer the host has
    peer: str


class Broken(msgspec.Struct, frozen=True, tag=True):
    """worker → server: the connection of an epoch broke, and the worker waits for its host."""

    epoch: int


class Vacate(msgspec.Struct, frozen=True, tag=True):
    """server → worker that waits for its host: end now, the place is needed."""

    reason: str


class Turn(msgspec.Struct, frozen=True, tag=True):
    """server → worker: the accelerator is yours until you give it back."""


class Recall(msgspec.Struct, frozen=True, tag=True):
    """server → worker: somebody waits; give the turn back when it is idle or has lasted long enough."""


class Ask(msgspec.Struct, frozen=True, tag=True):
    """worker → server: there is a call to carry out."""


class GiveBack(msgspec.Struct, frozen=True, tag=True):
    """worker → server: the turn is over, and the accelerator has done what was asked of it."""

    used_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # as its board says it now
    again: bool = False  # there is more to do


class Knock(msgspec.Struct, frozen=True, tag=True):
    """worker → server: it has waited for its turn for a while; is anybody there?"""


class Here(msgspec.Struct, frozen=True, tag=True):
    """server → worker: yes, and what it asked for before is known."""


FromServer = Assignment | Drain | Kill
FromZygote = Ready | Ended
ToWorker = Resumed | Vacate | Turn | Recall | Here
FromWorker = Broken | Ask | GiveBack | Knock
