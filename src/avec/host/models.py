"""Gets model bytes to a destination, each model once: offered by digest, uploaded only where it is missing.

An upload has a connection of its own, so that gigabytes never delay a call. Not here: what is in a model.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from avec.communication.channel import Channel, clock_ns
from avec.errors import DestinationUnreachable, SessionLost
from avec.host.greeting import greet
from avec.host.mending import Attempts
from avec.host.uploading import Answers, Sent, Source, name_of, send_missing
from avec.modelcache import DigestMemo, Manifest, manifest_of_bytes
from avec.profiling import ModelTransfer
from avec.protocol.messages import Goodbye

if TYPE_CHECKING:
    from avec.config import Settings
    from avec.host.session import Session


def provide(session: Session, source: Source, settings: Settings) -> str:
    """Make sure that the destination has a model; blocks while it is uploaded.

    Args:
        source: the model's file, or its bytes.

    Returns:
        The digest to name it by in `Session.load` and `Session.run`.

    Raises:
        OSError: the file cannot be read.
        CacheUnavailable: the destination has no room for it.
        SessionLost: connections broke, and none came about for the session's time to be resumed; the chunks that
            arrived are kept, so that the next try goes on there.
    """
    with Provider(session, settings) as provider:
        return provider.provide(source)


class Provider:
    """Gets models to a session's destination, all over one connection, which is opened when one is missing there.

    A context manager. Used by one thread at a time.
    """

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._open: ExitStack | None = None
        self._channel: Channel | None = None
        self._answers: Answers | None = None
        self._numbers = itertools.count(1)
        self._known: set[str] = set()  # digests of what is there, and stays for as long as the session's worker
        self._restarted = session.restarted

    def provide(self, source: Source, name: str | None = None) -> str:
        """Make sure that the destination has a model. As the function `provide`; `name` is for reports."""
        began_ns = clock_ns()
        manifest = _memo(self._settings).manifest_of(source) if isinstance(source, Path) else manifest_of_bytes(source)
        uploaded_nbytes = 0
        if self._restarted != self._session.restarted:  # another worker has been told of what it needed alone
            self._known, self._restarted = set(), self._session.restarted
        if manifest.digest not in self._known:
            chunks = np.frombuffer(manifest.chunks, np.uint8)
            if self._session.offer(manifest.digest, manifest.nbytes, chunks).wait().missing:
                uploaded_nbytes = self._upload(source, manifest)
                self._session.offer(manifest.digest, manifest.nbytes, chunks)  # so that it is kept for the session
            self._known.add(manifest.digest)
            self._session.remember(manifest, source)
        seconds = (clock_ns() - began_ns) / 1e9
        transfer = ModelTransfer(name or name_of(source), manifest.nbytes, uploaded_nbytes, seconds, began_ns)
        self._session.recorder.transfers.append(transfer)
        return manifest.digest

    def close(self) -> None:
        """End the connection, if there is one; the next upload opens another."""
        if self._channel is not None:
            with contextlib.suppress(SessionLost):
                self._channel.send(Goodbye())
        self._drop()

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = self._channel = self._answers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _connected(self) -> tuple[Channel, Answers]:
        if self._channel is None or self._answers is None:
            self._open = ExitStack()
            self._channel, _ = greet(self._session.url, self._settings, "upload")
            self._numbers = itertools.count(1)
            self._answers = self._open.enter_context(Answers(self._channel))
        return self._channel, self._answers

    def _upload(self, source: Source, manifest: Manifest) -> int:
        """Send the chunks that are missing, over another connection when one breaks; give their bytes."""
        sent = Sent()
        attempts = Attempts(self._session.resume_s, threading.Event())
        while True:
            before_nbytes = sent.nbytes
            try:
                channel, answers = self._connected()
                send_missing(channel, answers, next(self._numbers), source, manifest, sent)
                return sent.nbytes
            except (SessionLost, DestinationUnreachable) as exc:
                self._drop()
                if sent.nbytes > before_nbytes:  # the limit is for a time in which nothing gets through
                    attempts = Attempts(self._session.resume_s, threading.Event())
                if not (self._session.usable and attempts.once_more()):
                    raise SessionLost(f"a model did not get to {self._session.url}: {exc}") from exc
            except BaseException:  # perhaps in the middle of a frame
                self._drop()
                raise


def _memo(settings: Settings) -> DigestMemo:
    return DigestMemo(settings.cache_dir / "digests")
