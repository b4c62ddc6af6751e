"""Receives models on an upload connection into the model cache: Offer, Want, Chunks, Stored, and again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from avec.communication.channel import LIFE_NS, Channel
from avec.errors import CacheUnavailable, InvalidArgument, ProtocolError, pack
from avec.modelcache import Manifest, ModelCache, Upload
from avec.protocol.messages import Chunk, Failed, Goodbye, Message, Offer, Stored, Want
from avec.tensor import Array, TensorSpec

REFUSAL_TIMEOUT_S = 5.0  # for the host to read why, and to close


class Uploads:
    """One host's uploads, one model at a time; chunks are received straight into the cache's own buffers."""

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache
        self._upload: Upload | None = None
        self._expected = 0  # chunks still to come

    def allocate(self, number: int, message: Message, index: int, spec: TensorSpec) -> Array:
        """Give a chunk the cache's memory; what comes before the first offer is small."""
        if isinstance(message, Chunk) and self._upload is not None and index == 0 and spec.dtype == "uint8":
            return self._upload.buffer(spec.nbytes)
        return np.empty(spec.shape, spec.dtype)

    def serve(self, channel: Channel) -> None:
        """Receive models until the host says goodbye; what failed is told, and ends the connection.

        Raises:
            SessionLost: the host is gone; complete chunks are kept for it to resume.
            ProtocolError: the host broke the protocol.
        """
        try:
            with _signs_of_life(channel):
                self._receive_all(channel)
        except (CacheUnavailable, InvalidArgument) as exc:
            channel.send(Failed(pack(exc)))
            channel.discard(REFUSAL_TIMEOUT_S)
        finally:
            if self._upload is not None:
                self._upload.close()

    def _receive_all(self, channel: Channel) -> None:
        while True:
            frame = channel.receive()
            match frame.message:
                case Offer() as offer:
                    self._begin(channel, offer, frame.arrays)
                case Chunk() as chunk:
                    self._take(channel, chunk, frame.arrays)
                case Goodbye():
                    return
                case _:
                    raise ProtocolError(f"{type(frame.message).__name__} is not expected in an upload")

    def _begin(self, channel: Channel, offer: Offer, arrays: Sequence[Array]) -> None:
        if self._upload is not None:
            self._upload.close()
        chunks = arrays[0].tobytes() if arrays else b""
        self._upload = self._cache.upload(Manifest(offer.digest, offer.nbytes, chunks))
        missing = self._upload.missing
        self._expected = sum(stop - start for start, stop in missing)
        channel.send(Want(offer.digest, missing))
        if not missing:
            self._finish(channel, self._upload)

    def _take(self, channel: Channel, chunk: Chunk, arrays: Sequence[Array]) -> None:
        upload = self._upload
        wanted = upload is not None and chunk.digest == upload.manifest.digest and self._expected > 0
        if upload is None or not wanted or [array.dtype for array in arrays] != [np.uint8]:
            raise ProtocolError(f"chunk {chunk.index} of model {chunk.digest[:64]!r} was not asked for")
        upload.submit(chunk.index, arrays[0])
        self._expected -= 1
        if not self._expected:
            self._finish(channel, upload)

    def _finish(self, channel: Channel, upload: Upload) -> None:
        upload.finish()
        channel.send(Stored(upload.manifest.digest))


@contextlib.contextmanager
def _signs_of_life(channel: Channel) -> Iterator[None]:
    """Send a Ping now and then: while a slow disk holds up receiving, no heartbeat of the host's would be answered."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(LIFE_NS / 1e9):
            channel.measure()

    thread = threading.Thread(target=beat, name="avec-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
