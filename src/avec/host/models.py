"""Gets model bytes to a destination, each model once: offered by digest, uploaded only where it is missing.

An upload has a connection of its own, so that gigabytes never delay a call. Not here: what is in a model.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from avec.communication.channel import Channel, clock_ns
from avec.errors import AvecError, DestinationUnreachable, InvalidModel, ProtocolError, SessionLost, unpack
from avec.host.greeting import greet
from avec.host.mending import Attempts
from avec.modelcache import DigestMemo, Manifest, manifest_of_bytes
from avec.profiling import ModelTransfer
from avec.protocol.codec import CHUNK_NBYTES
from avec.protocol.messages import Chunk, Failed, Goodbye, Message, Offer, Stored, Want
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.config import Settings
    from avec.host.session import Session

Source = Path | bytes | memoryview
M = TypeVar("M", bound=Message)
PROGRESS_NBYTES = 16 << 20  # smaller uploads are over before a bar could be read


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
        self._answers: _Answers | None = None
        self._numbers = itertools.count(1)
        self._known: set[str] = set()  # digests of what is there, and stays for as long as the session

    def provide(self, source: Source, name: str | None = None) -> str:
        """Make sure that the destination has a model. As the function `provide`; `name` is for reports."""
        began_ns = clock_ns()
        manifest = _memo(self._settings).manifest_of(source) if isinstance(source, Path) else manifest_of_bytes(source)
        uploaded_nbytes = 0
        if manifest.digest not in self._known:
            chunks = np.frombuffer(manifest.chunks, np.uint8)
            if self._session.offer(manifest.digest, manifest.nbytes, chunks).wait().missing:
                uploaded_nbytes = self._upload(source, manifest)
                self._session.offer(manifest.digest, manifest.nbytes, chunks)  # so that it is kept for the session
            self._known.add(manifest.digest)
        seconds = (clock_ns() - began_ns) / 1e9
        transfer = ModelTransfer(name or _name(source), manifest.nbytes, uploaded_nbytes, seconds, began_ns)
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

    def _connected(self) -> tuple[Channel, _Answers]:
        if self._channel is None or self._answers is None:
            self._open = ExitStack()
            self._channel, _ = greet(self._session.url, self._settings, "upload")
            self._numbers = itertools.count(1)
            self._answers = self._open.enter_context(_Answers(self._channel))
        return self._channel, self._answers

    def _upload(self, source: Source, manifest: Manifest) -> int:
        """Send the chunks that are missing, over another connection when one breaks; give their bytes."""
        sent = _Sent()
        attempts = Attempts(self._session.resume_s, threading.Event())
        while True:
            before_nbytes = sent.nbytes
            try:
                channel, answers = self._connected()
                _send_missing(channel, answers, next(self._numbers), source, manifest, sent)
                return sent.nbytes
            except (SessionLost, DestinationUnreachable):
                self._drop()
                if sent.nbytes > before_nbytes:  # the limit is for a time in which nothing gets through
                    attempts = Attempts(self._session.resume_s, threading.Event())
                if not (self._session.usable and attempts.once_more()):
                    raise
            except BaseException:  # perhaps in the middle of a frame
                self._drop()
                raise


def _name(source: Source) -> str:
    return source.name if isinstance(source, Path) else "model"


def _memo(settings: Settings) -> DigestMemo:
    return DigestMemo(settings.cache_dir / "digests")


class _Answers:
    """What a destination says during an upload, received on a thread of its own: a heartbeat is answered and a refusal
    or a cut link is noticed while chunks are being sent. A context manager that ends the connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._received: queue.SimpleQueue[Message | AvecError] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._receive_all, name="avec-upload", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether there is something that `expect` would take at once."""
        return not self._received.empty()

    def expect(self, kind: type[M]) -> M:
        """Block until the next answer; raise what the destination refused, or how the connection ended."""
        message = self._received.get()
        if isinstance(message, AvecError):
            raise message
        if isinstance(message, Failed):
            raise unpack(message.error)
        if not isinstance(message, kind):
            raise ProtocolError(f"{self._channel.peer} answered {type(message).__name__} to an upload")
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._channel.abort()
        self._thread.join()
        self._channel.close()

    def _receive_all(self) -> None:
        try:
            while True:
                self._received.put(self._channel.receive().message)
        except (SessionLost, ProtocolError) as exc:
            self._received.put(exc)
            self._channel.abort()  # wakes a sender that the network does not let go on


@dataclass(slots=True)
class _Sent:
    """What was handed to the network, over all connections."""

    nbytes: int = 0


def _send_missing(
    channel: Channel, answers: _Answers, number: int, source: Source, manifest: Manifest, sent: _Sent
) -> None:
    chunk_digests = np.frombuffer(manifest.chunks, np.uint8)
    channel.send(Offer(digest=manifest.digest, nbytes=manifest.nbytes), number, [chunk_digests])
    want = answers.expect(Want)
    indices = [index for start, stop in want.missing for index in range(start, stop)]
    with _progress(source, sum(manifest.chunk_nbytes(index) for index in indices)) as advance:
        for index, array in _chunks(source, manifest, indices):
            if answers.waiting:  # nothing is due before the last chunk but a refusal
                break
            try:
                channel.send(Chunk(digest=manifest.digest, index=index), arrays=[array])
            except SessionLost:
                break  # the receiving thread knows why
            sent.nbytes += array.nbytes
            advance(array.nbytes)
    answers.expect(Stored)


def _chunks(source: Source, manifest: Manifest, indices: Sequence[int]) -> Iterator[tuple[int, Array]]:
    """Give the chunks one at a time, never more than one in memory; each is valid until the next is asked for."""
    if not isinstance(source, Path):
        whole = np.frombuffer(source, np.uint8)
        for index in indices:
            yield index, whole[index * CHUNK_NBYTES :][: manifest.chunk_nbytes(index)]
        return
    buffer = np.empty(CHUNK_NBYTES, np.uint8)
    with open(source, "rb", buffering=0) as file:
        for index in indices:
            chunk = buffer[: manifest.chunk_nbytes(index)]
            file.seek(index * CHUNK_NBYTES)
            if file.readinto(chunk.data) != chunk.nbytes:
                raise InvalidModel(
                    f"{source} became shorter while it was being uploaded; try again when it is complete"
                )
            yield index, chunk


@contextmanager
def _progress(source: Source, nbytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr where a person may be looking; give the function that moves it."""
    if nbytes < PROGRESS_NBYTES or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn(f"avec: uploading {_name(source)}"), *columns, console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("upload", total=nbytes)
        yield lambda count: bar.advance(task, count)
