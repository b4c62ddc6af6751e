"""Where hosts arrive: connections are accepted and heard until they have said hello, in bounded number and time.

Not here: what one costs and says (`stranger`), how many may wait (`waiting_room`), who is let in (`server`).
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from functools import partial

from avec.communication.tcp import TcpListener
from avec.destination.audit import Line
from avec.destination.refusals import Refusals
from avec.destination.stranger import Stranger
from avec.destination.waiting_room import WaitingRoom
from avec.destination.watch import Watch
from avec.errors import AvecError, ConfigurationError
from avec.protocol.messages import Hello

log = logging.getLogger("avec.destination")


class Reception:
    """Owns the listening socket, once it is `open`, and those who wait."""

    def __init__(
        self,
        listener: TcpListener,
        context: ssl.SSLContext | None,
        hello_timeout_s: float,
        watch: Watch,
        refusals: Refusals,
        greet: Callable[[Stranger, Hello], None],
    ) -> None:
        """Prepare; nobody is accepted yet.

        Args:
            context: for encrypted connections; None: they are plain.
            greet: called with who has said hello; what AvecError it raises is told to him. He is dropped then.
        """
        self._listener = listener
        self._context = context
        self._hello_timeout_s = hello_timeout_s
        self._watch = watch
        self._refusals = refusals
        self._greet = greet
        self._strangers = WaitingRoom()

    def __len__(self) -> int:
        """How many have not said hello."""
        return len(self._strangers)

    def open(self) -> None:
        """Begin to accept."""
        self._watch.add(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept nobody any more, so that hosts are refused at once, rather than wait for a hello."""
        with contextlib.suppress(KeyError, ValueError):  # not open yet, or stopped already
            self._watch.remove(self._listener.fileno())
        self._listener.close()

    def close(self) -> None:
        """Let go of all who wait."""
        for stranger in self._strangers:
            stranger.transport.close()

    def deadline_s(self) -> float | None:
        """When `look` has to be called next, of the monotonic clock; None: not before somebody comes."""
        return self._strangers.deadline_s()

    def look(self) -> None:
        """Drop those who have said nothing for too long."""
        for stranger in self._strangers.overdue(time.monotonic()):
            text = f"said no hello in {self._hello_timeout_s:.1f} s"
            self._refusals.note(stranger.transport.peer, "silence", text)
            self._drop(stranger)

    def refuse(self, stranger: Stranger, exc: AvecError, line: Line | None = None) -> None:
        """Tell somebody why he is not let in, and the log."""
        # What is wrong with the destination's own files is for its log, and not for the stranger.
        why = f"{exc} ({exc.__cause__})" if isinstance(exc.__cause__, ConfigurationError) else str(exc)
        self._refusals.note(stranger.transport.peer, exc.code, f"refused: {why}", line)
        stranger.refuse(exc)

    def _accept(self) -> None:
        try:
            transport = self._listener.accept()
        except OSError as exc:  # it left while it was being accepted, or descriptors have run out
            self._refusals.note("a connection", "unaccepted", f"was not accepted: {exc}")
            return
        stranger = Stranger(transport, self._context, time.monotonic() + self._hello_timeout_s)
        hear, drop = partial(self._hear, stranger), partial(self._drop, stranger)
        self._watch.add_peer(transport.fileno(), hear, drop, transport.peer)
        if (crowded_out := self._strangers.enter(stranger)) is not None:
            text = "had to make room: too many connections have not said hello"
            self._refusals.note(crowded_out.transport.peer, "crowd", text)
            self._drop(crowded_out)

    def _hear(self, stranger: Stranger) -> None:
        if stranger not in self._strangers:  # it had to make room in the same moment
            return
        try:
            hello = stranger.receive()
            if hello is None:
                return
            self._greet(stranger, hello)
        except AvecError as exc:
            self.refuse(stranger, exc)
        except OSError as exc:
            log.debug("%s left: %s", stranger.transport.peer, exc)
        self._drop(stranger)

    def _drop(self, stranger: Stranger) -> None:
        """Let go of a connection here; a worker that took it over holds it by a descriptor of its own."""
        self._strangers.leave(stranger)
        self._watch.remove(stranger.transport.fileno())
        stranger.transport.close()
