"""How requests reach one thing at a destination: a net, a solver, or one of a solver's nets."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from avec.errors import SessionLost
from avec.host.journal import CHANGES, Effect
from avec.protocol.caffe import LoadNet, LoadSolver, NetRequest, SolverRequest, Within
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.host.calls import Call, Reply
    from avec.host.session import Session

FORMAT = "caffe"

_ENCODER = msgspec.msgpack.Encoder()


class Handle:
    """Owns the name of one net or solver at the destination; released when nobody refers to this object any more."""

    def __init__(self, session: Session, what: str) -> None:
        """Take a name for what is to be loaded.

        Args:
            what: for messages, "the net of lenet.prototxt".
        """
        self._session = session
        self._what = what
        self._process = os.getpid()
        self.number = session.new_handle()
        weakref.finalize(self, session.release, self.number).atexit = False

    def load(self, request: LoadNet | LoadSolver, parts: Sequence[Array], files: Mapping[str, str]) -> Reply:
        """Have it made; blocks until it is there."""
        return self._session.load(self.number, FORMAT, _ENCODER.encode(request), parts, files).wait()

    def run(
        self,
        name: str,
        request: NetRequest | SolverRequest | Within,
        contents: Sequence[Array] = (),
        files: Mapping[str, str] | None = None,
        into: Sequence[Array | None] = (),
        others: Sequence[Handle] = (),
        effect: Effect = CHANGES,
    ) -> Call:
        """Send a request without waiting; see Session.run.

        Raises:
            SessionLost: this is a child of the process that the session belongs to.
        """
        self.check_process()
        handles = [other.number for other in others]
        return self._session.run(self.number, name, _ENCODER.encode(request), contents, files, into, handles, effect)

    def check_process(self) -> None:
        """Raise SessionLost in a child of the process that loaded it."""
        if os.getpid() != self._process:
            raise SessionLost(
                f"{self._what} belongs to process {self._process}, and this is its child {os.getpid()}; "
                "make a caffe.Net in the process that uses it"
            )
