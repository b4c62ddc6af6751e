"""One model's bytes on their way to a destination, over a connection of their own, in verified chunks.

What is missing there is asked first, so that an upload goes on where another ended. Not here: which models a session
needs (`models`).
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from avec.communication.channel import Channel
from avec.errors import AvecError, InvalidModel, ProtocolError, SessionLost, unpack
from avec.host.greeting import greet
from avec.modelcache import Manifest
from avec.protocol.codec import CHUNK_NBYTES
from avec.protocol.messages import Chunk, Failed, Goodbye, Message, Offer, Stored, Want
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.config import Settings

Source = Path | bytes | memoryview
M = TypeVar("M", bound=Message)
PROGRESS_NBYTES = 16 << 20  # smaller uploads are over before a bar could be read


def upload(url: str, settings: Settings, source: Source, manifest: Manifest) -> None:
    """Send a model's chunks that are missing at a destination; blocks until it has them.

    Raises:
        OSError: the file cannot be read.
        AvecError: it does not hold any more what the manifest says, or the destination has no room for it.
        SessionLost: the connection broke.
    """
    channel, _ = greet(url, settings, "upload")
    with Answers(channel) as answers:
        send_missing(channel, answers, 1, source, manifest, Sent())
        channel.send(Goodbye())


class Answers:
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
class Sent:
    """What was handed to the network, over all connections."""

    nbytes: int = 0


def send_missing(
    channel: Channel, answers: Answers, number: int, source: Source, manifest: Manifest, sent: Sent
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
        TextColumn(f"avec: uploading {name_of(source)}"), *columns, console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("upload", total=nbytes)
        yield lambda count: bar.advance(task, count)


def name_of(source: Source) -> str:
    return source.name if isinstance(source, Path) else "model"
