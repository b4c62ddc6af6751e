"""Rebuilds a session's state at a fresh worker: models first, then the calls of the journal in their order.

What they give was delivered long ago: it is compared with what it was, where that is cheap, and forgotten. Numbers of
calls begin at 1 again. Not here: how the worker is come by (`mending`), which calls there are (`journal`).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avec.communication.channel import Channel
from avec.communication.compression import decode_parts
from avec.errors import AvecError, SessionLost
from avec.host.journal import Entry
from avec.host.uploading import Source, upload
from avec.modelcache import Manifest
from avec.protocol.codec import HEADER, Buffer, encode
from avec.protocol.messages import Failed, Offer, Release, Result, Want, Welcome
from avec.tensor import Array, bytes_view

if TYPE_CHECKING:
    from avec.config import Settings

CHECKED_NBYTES = 64 << 10  # results of more are not compared: that would take long at each call
_NUMBER = slice(HEADER.size - 8, HEADER.size)  # of a frame's call, in its header


class Unlike(SessionLost):
    """The state cannot be rebuilt: something was not as it had been."""


@dataclass(frozen=True, slots=True)
class Model:
    """Where a model that a session has named comes from."""

    manifest: Manifest
    source: Source | None  # None: from memory that may have changed since


def check_of(arrays: Sequence[Array]) -> int | None:
    """A number by which results are compared; None where they are too large for that."""
    if sum(array.nbytes for array in arrays) > CHECKED_NBYTES:
        return None
    check = 0
    for array in arrays:
        check = zlib.crc32(bytes_view(np.ascontiguousarray(array)), check)
    return check


def rebuild(
    channel: Channel,
    welcome: Welcome,
    url: str,
    settings: Settings,
    entries: Sequence[Entry],
    released: Sequence[int],
    models: Mapping[str, Model],
    digests: Iterable[str],
    numbers: Iterator[int],
) -> None:
    """Make calls again at a worker that has just said welcome; blocks until all are answered.

    Args:
        released: handles that those calls make and that are no longer used.
        models: of this session, by digest.
        digests: of models that other calls will name, which have not been answered.
        numbers: for calls, rising.

    Raises:
        Unlike: a call has failed that had not, or has given something else.
        SessionLost: the connection broke; that can be tried again at another worker.
    """
    replay = _Replay(channel, welcome, numbers)
    for digest in dict.fromkeys([*(each for entry in entries for each in entry.files), *digests]):
        if digest in models:
            _provide(replay, url, settings, digest, models[digest])
    for entry in entries:
        replay.again(entry)
    replay.settle()
    for handle in released:
        channel.send(Release(handles=(handle,)))


def _provide(replay: _Replay, url: str, settings: Settings, digest: str, model: Model) -> None:
    if not replay.missing(digest, model.manifest):
        return
    if model.source is None:
        raise Unlike(f"the destination has no longer the model {digest[:12]}, and this host neither")
    try:
        upload(url, settings, model.source, model.manifest)
    except SessionLost:
        raise
    except (AvecError, OSError) as exc:
        raise Unlike(f"the destination has no longer the model {digest[:12]}: {exc}") from exc
    replay.missing(digest, model.manifest)  # so that it is kept for the session


class _Replay:
    """Calls on their way over one connection, within the credit that was granted."""

    def __init__(self, channel: Channel, welcome: Welcome, numbers: Iterator[int]) -> None:
        self._channel = channel
        self._welcome = welcome
        self._numbers = numbers
        self._under_way: deque[tuple[int, Entry]] = deque()
        self._nbytes = 0

    def missing(self, digest: str, manifest: Manifest) -> bool:
        """Ask whether chunks of a model are missing."""
        number = next(self._numbers)
        chunks = np.frombuffer(manifest.chunks, np.uint8)
        self._channel.send_encoded(encode(Offer(digest=digest, nbytes=manifest.nbytes), number, [chunks]))
        answer = self._channel.receive()
        if not isinstance(answer.message, Want) or answer.number != number:
            raise Unlike(f"the offer of a model was answered with {_told(answer.message)}")
        return bool(answer.message.missing)

    def again(self, entry: Entry) -> None:
        """Make a call again; waits only for the credit that it takes."""
        while self._under_way and (
            len(self._under_way) >= self._welcome.credit_calls
            or self._nbytes + entry.nbytes > self._welcome.credit_nbytes
        ):
            self._take()
        number = next(self._numbers)
        self._channel.send_encoded(_renumbered(entry.frames, number))
        self._under_way.append((number, entry))
        self._nbytes += entry.nbytes

    def settle(self) -> None:
        """Wait until all are answered."""
        while self._under_way:
            self._take()

    def _take(self) -> None:
        answer = self._channel.receive()
        number, entry = self._under_way.popleft()
        self._nbytes -= entry.nbytes
        match answer.message:
            case Failed(error=error) if answer.number == number and entry.failed == error.code:
                return
            case Result(parts=parts) if answer.number == number and not entry.failed:
                tensors = decode_parts(parts, answer.arrays, lambda _, spec: np.empty(spec.shape, spec.dtype))
                if entry.check is not None and check_of(tensors) != entry.check:
                    raise Unlike(f"{entry.name}, made again at another worker, has given something else")
            case other:
                before = f"failed ({entry.failed})" if entry.failed else "succeeded"
                raise Unlike(f"{entry.name}, which had {before}, was answered with {_told(other)} when made again")


def _renumbered(frames: Sequence[Buffer], number: int) -> list[Buffer]:
    first = memoryview(frames[0])
    return [bytes(first[: _NUMBER.start]) + number.to_bytes(8, "little"), first[_NUMBER.stop :], *frames[1:]]


def _told(message: object) -> str:
    if isinstance(message, Failed):
        return f"an error ({message.error.code}): {message.error.message}"
    return type(message).__name__
