"""Every message of the wire, one frozen Struct each, in the order of an execution cycle; nothing else.

The codec, the protocol page of the docs and the golden-bytes test derive from TYPES. A change of any field changes
the golden bytes: raise VERSION with it. Tensors travel beside a message as `parts`: bytes that the specs describe.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from avec.errors import ErrorRecord
from avec.tensor import Codec, PartSpec

VERSION = 3  # the newest protocol version spoken here
OLDEST_VERSION = 3  # the oldest one still understood


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Parts(Message, frozen=True):
    """Base of the messages that carry tensors: one spec for each part of the frame's payload."""

    parts: tuple[PartSpec, ...] = ()


class Timings(msgspec.Struct, frozen=True, array_like=True):
    """The destination's share of one execution cycle, in nanoseconds on the destination's own clock."""

    received_ns: int  # when the call's last byte had arrived (clock reading)
    queue_ns: int  # from then until the executor began
    compute_ns: int  # the executor's time, transfers to and from the accelerator included
    sent_ns: int  # when the result was handed to the network (clock reading)
    kernels: int = 0  # operators that the executor launched on the accelerator
    decode_ns: int = 0  # of the queue's time: for the call's tensors that codecs had written
    encode_ns: int = 0  # before `sent_ns`: for those of the result


class AcceleratorInfo(msgspec.Struct, frozen=True, array_like=True):
    """One accelerator as a host sees it."""

    kind: Literal["cuda", "cpu"]
    name: str
    memory_nbytes: int


class SessionInfo(msgspec.Struct, frozen=True, array_like=True):
    """One session of a destination, as its worker shows it."""

    session: str
    user: str  # empty where nobody is asked
    program: str
    peer: str  # the host's address
    state: Literal["active", "waiting"]  # waiting: its connection broke, and its worker waits for its host
    age_s: float
    memory_nbytes: int = 0  # of the accelerator's, that its worker holds; beside a CPU of the machine's
    promised_nbytes: int = 0  # of that: what it has declared
    models: int = 0  # handles that are in use
    calls: int = 0  # runs carried out so far, those that failed among them
    failed: int = 0  # calls of any kind
    queued: int = 0  # messages of its host's that have arrived and wait
    used_s: float = 0.0  # for how long it has used the accelerator


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """What a destination has counted since it was started, over all users."""

    sessions: int = 0  # begun
    uploads: int = 0  # begun
    resumed: int = 0  # connections over which a host came back to its session
    calls: int = 0
    failed: int = 0  # of the calls
    refused: dict[str, int] = {}  # an error's code → connections that were refused with it
    vacated: int = 0  # waiting sessions that were ended because their user needed the place
    zygote_restarts: int = 0
    used_s: float = 0.0  # for how long the accelerator was used


class Places(msgspec.Struct, frozen=True, array_like=True):
    """What is taken, and how many there are."""

    sessions: int = 0
    sessions_limit: int = 0
    uploads: int = 0
    uploads_limit: int = 0
    strangers: int = 0  # connections that have not said hello
    strangers_limit: int = 0


class Hello(Message, frozen=True, forbid_unknown_fields=False):
    """host → destination, first on every connection: who I am and what this connection is for.

    Later versions may only append fields, so that any version understands enough to refuse another.
    """

    oldest: int
    newest: int
    purpose: Literal["session", "upload", "status", "resume"]
    software: str  # "avec 0.1.0"
    program: str = ""  # the application's name, for the destination's log
    numerics: Literal["strict", "fast"] = "strict"
    token: str = ""  # who the user is, for a destination that asks
    resume_s: float = 0.0  # of a session: for how long its worker shall wait after the connection broke
    session: str = ""  # to resume: the session's name and secret, as Welcome gave them
    secret: str = ""
    epoch: int = 0  # to resume: rises with each attempt, so that an attempt that comes late takes over nothing
    answered: int = 0  # to resume: the last call whose answer has arrived
    memory_nbytes: int = 0  # of a session: how much of the accelerator's memory it needs; 0: what is left
    codecs: tuple[str, ...] = ()  # that the host can read; names that are unknown here are passed over


class Welcome(Message, frozen=True):
    """destination → host: the connection is open; a session's has an accelerator and limits."""

    version: int
    session: str
    software: str
    accelerator: AcceleratorInfo | None = None
    formats: tuple[str, ...] = ()  # of the executors here
    credit_calls: int = 0  # unanswered calls that the host may have under way
    credit_nbytes: int = 0  # tensor bytes in them; a single larger call is allowed when none is under way
    sessions: int = 0  # others that share the accelerator now
    secret: str = ""  # shown by the host that resumes this session, beside its token
    resume_s: float = 0.0  # for how long the worker waits after the connection broke; 0: not at all
    received: int = 0  # to a host that resumes: the last call that has arrived here
    codecs: tuple[str, ...] = ()  # that both ends can read: what may be sent in either direction


class Refused(Message, frozen=True, forbid_unknown_fields=False):
    """destination → host, instead of Welcome; the connection ends. Like Hello it may only grow."""

    error: ErrorRecord


class Offer(Parts, frozen=True):
    """host → destination: do you have this model? The part holds the SHA-256 of each chunk, 32 bytes each.

    On a session connection it is a numbered call answered by Want in a Result's place, and pins what is there
    for the session; on an upload connection Chunks follow the Want.
    """

    digest: str = ""  # hex SHA-256 over the chunk digests: the model's name in the cache
    nbytes: int = 0
    answered: int = 0  # the last call whose answer has arrived, here as in Load and Run


class Want(Message, frozen=True):
    """destination → host: the chunks that are missing, as [start, stop) ranges; none when the model is there."""

    digest: str
    missing: tuple[tuple[int, int], ...]


class Chunk(Parts, frozen=True):
    """host → destination on an upload connection: one chunk's bytes."""

    digest: str = ""
    index: int = 0


class Stored(Message, frozen=True):
    """destination → host on an upload connection: every chunk arrived, was verified and is kept."""

    digest: str


class Load(Parts, frozen=True):
    """host → destination: make what `handle` will name from these files. Answered by Result or Failed."""

    handle: int = 0
    format: str = ""  # "caffe", "onnx", "torch": chooses the executor
    files: dict[str, str] = {}  # role → digest of a model in the cache
    body: bytes = b""  # the format's own request, see protocol/<format>.py
    answered: int = 0


class Run(Parts, frozen=True):
    """host → destination: one call on a handle. Answered by Result or Failed."""

    handle: int = 0
    files: dict[str, str] = {}
    body: bytes = b""
    handles: tuple[int, ...] = ()  # of other things that the call needs
    answered: int = 0
    codecs: tuple[Codec, ...] = ()  # for the result's tensors, by place, where they can write them; else raw


class Release(Message, frozen=True):
    """host → destination: these handles are no longer used. Not answered; twice is as once."""

    handles: tuple[int, ...]


class Result(Parts, frozen=True):
    """destination → host: what a Load or a Run gave. It carries the number of its call."""

    body: bytes = b""
    timings: Timings | None = None


class Failed(Message, frozen=True):
    """destination → host: a Load, a Run or an Offer failed. The session goes on."""

    error: ErrorRecord
    timings: Timings | None = None


class Ping(Message, frozen=True):
    """Either direction, when nothing else was sent for a heartbeat."""

    sent_ns: int  # the sender's clock


class Pong(Message, frozen=True):
    """The answer to Ping at once; the three readings give round trip and clock offset (RFC 5905 §8)."""

    sent_ns: int  # copied from the Ping
    received_ns: int  # the answerer's clock
    answered_ns: int


class Draining(Message, frozen=True):
    """destination → host: no new calls; what is under way will be answered, then the connection ends."""

    reason: str


class Goodbye(Message, frozen=True):
    """host → destination: the session is over; forget it at once."""


class Status(Message, frozen=True):
    """destination → host on a status connection: what the destination is doing."""

    accelerators: tuple[AcceleratorInfo, ...] = ()
    formats: tuple[str, ...] = ()
    software: str = ""
    sessions: int = 0
    models: int = 0
    models_nbytes: int = 0  # of this user, where the destination has users
    security: dict[str, str] = {}  # measure → what is on: "on", "off: WHY"
    waiting: int = 0  # of the sessions: their connection broke, and their worker waits for its host
    uptime_s: float = 0.0
    draining: bool = False
    places: Places = Places()
    models_limit_nbytes: int = 0
    disk_free_nbytes: int = 0  # where the models are
    memory_nbytes: int = 0  # of the accelerator's, that all sessions hold; beside a CPU of the machine's
    totals: Totals = Totals()
    listed: tuple[SessionInfo, ...] = ()  # the asking user's own sessions; all of them for the owner
    unlisted: int = 0  # others that this user may see, and for which there was no room


# The type number in a frame's header is the place in this list.
TYPES: tuple[type[Message], ...] = (
    Hello, Welcome, Refused, Offer, Want, Chunk, Stored, Load, Run, Release, Result, Failed, Ping, Pong, Draining,
    Goodbye, Status,
)  # fmt: skip
