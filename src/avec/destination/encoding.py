"""The tensors of a session's calls as codecs wrote them, and its results as the host wants them written.

The host chooses, see `host.encoding`. Not here: what a codec does (`communication.compression`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from avec.communication.compression import LEAST_NBYTES, Learned, available, decode_parts, encode
from avec.destination.buffers import BufferPool
from avec.protocol.codec import Frame, Part
from avec.protocol.messages import Message, Parts, Run
from avec.tensor import Array, Codec, TensorSpec

LEARNED_LIMIT = 32  # results whose palettes are remembered; one takes up to 2 MB


class Encodings:
    """Decodes and encodes for one session. Not thread-safe: for the thread that carries out calls."""

    def __init__(self, pool: BufferPool) -> None:
        """Begin a session; tensors are decoded into memory of the pool."""
        self._pool = pool
        self._available = frozenset[Codec](available())
        self._learned: OrderedDict[tuple[int, int], Learned] = OrderedDict()

    def decode(self, frame: Frame) -> Frame:
        """The same frame with all its tensors as they were; those that codecs had written are given back to the pool.

        Raises:
            ProtocolError: no codec has written that.
        """
        message = frame.message
        if not isinstance(message, Parts) or all(spec.codec == "raw" for spec in message.parts):
            return frame
        made: list[Array] = []

        def allocate(place: int, spec: TensorSpec) -> Array:
            made.append(self._pool.take(spec))
            return made[-1]

        try:
            arrays = decode_parts(message.parts, frame.arrays, allocate)
        except BaseException:
            self._pool.give_back(made)
            raise
        encoded = [array for array, spec in zip(frame.arrays, message.parts, strict=True) if spec.codec != "raw"]
        self._pool.give_back(encoded)
        return msgspec.structs.replace(frame, arrays=arrays)

    def encode(self, message: Message, arrays: Sequence[Array]) -> Sequence[Part]:
        """Write the result of a call as that asks; what a codec does not apply to stays as it is."""
        if not isinstance(message, Run) or not message.codecs:
            return arrays
        parts: list[Part] = list(arrays)
        for place, (codec, array) in enumerate(zip(message.codecs, arrays, strict=False)):
            if codec in self._available and array.nbytes >= LEAST_NBYTES:
                with suppress(MemoryError):  # nor does it where there is no memory for it
                    parts[place] = encode(codec, array, self._memory(message.handle, place)) or array
        return parts

    def _memory(self, handle: int, place: int) -> Learned:
        learned = self._learned.setdefault((handle, place), Learned())
        self._learned.move_to_end((handle, place))
        if len(self._learned) > LEARNED_LIMIT:
            self._learned.popitem(last=False)
        return learned
