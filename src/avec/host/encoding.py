"""How a session's tensors are written for the link: which codec for which call site, and what that has come to.

A call site is a handle, the name of the call, and a tensor's place, dtype and shape. The host chooses for both
directions, because it alone sees a call as a whole: a call says which codecs its result shall have. Encoding is done by
the thread that makes a call, decoding by the one that receives. Not here: what a codec does, and by which figures one
is chosen (`communication.compression`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec

from avec.communication.channel import clock_ns
from avec.communication.compression import LEAST_NBYTES, LOSSY, Learned, decode_parts, encode
from avec.communication.compression.chooser import AUTOMATIC, BEST, Chooser, Figures, Way
from avec.communication.link import Goodput
from avec.config import codec_choices
from avec.errors import ConfigurationError
from avec.host.progress import Progress
from avec.profiling import CodecUse, Direction
from avec.protocol.codec import ENCODED_LIMIT, Frame, Part
from avec.protocol.messages import Result, Timings
from avec.tensor import Array, Codec, Encoded, TensorSpec, spec_of

SITES_LIMIT = 128  # that are remembered; a palette takes up to 2 MB
USES_LIMIT = 1024  # of sites that are not remembered any more
FIRST_PLACES = 16  # of a result that nothing is known of yet
SMOOTHING = 0.1  # of how long a destination computes
SAMPLED_NBYTES = 16 << 20  # a tensor that a codec is tried on with its first part only, which is
SAMPLE_NBYTES = 1 << 20
Place = tuple[int, str, Direction, int]  # handle, name of the call, direction, place of the tensor
Key = tuple[int, str, Direction, int, TensorSpec]
Allocate = Callable[[int, TensorSpec], Array]  # place and spec → memory
Sample = Callable[[Codec], Figures]


class Site:
    """One tensor of one kind of call: its chooser, what its codec has learned, what was sent."""

    def __init__(self, key: Key, candidates: Sequence[Codec]) -> None:
        self.key = key
        self.nbytes = key[-1].nbytes
        self.learned = Learned()
        self.chooser = Chooser(candidates)
        self.encoding = threading.Lock()  # what was learned is for one thread at a time
        self.compute_s = 0.0  # of the call at the destination
        self.uses: dict[Codec, CodecUse] = {}

    def count(self, codec: Codec, wire_nbytes: int, encode_ns: int, decode_ns: int) -> None:
        """Take note of a tensor that was sent."""
        use = self.uses.get(codec)
        if use is None:
            _, name, direction, place, spec = self.key
            use = CodecUse(name, direction, place, spec.dtype, spec.shape, codec, codec in LOSSY)
            self.uses[codec] = use
        use.calls += 1
        use.nbytes += self.nbytes
        use.wire_nbytes += wire_nbytes
        use.encode_ns += encode_ns
        use.decode_ns += decode_ns


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """One large tensor on its way up."""

    site: Site
    codec: Codec
    wire_nbytes: int
    encode_ns: int


@dataclass(slots=True)
class Written:
    """What a call's tensors became, and what is to be remembered of that until the answer is here."""

    began_ns: int
    parts: Sequence[Part]
    asked: tuple[Codec, ...] = ()  # for the result
    tensors: list[WrittenTensor] = field(default_factory=list)


class _Half:
    """One direction: what may be chosen there, and what the link carries."""

    def __init__(self, direction: Direction, choice: str, agreed: Sequence[str]) -> None:
        if choice not in ("auto", "raw", *agreed):
            raise ConfigurationError(
                f"the setting `codec` wants {direction} as {choice}, which not both ends can read; they share "
                f"{', '.join(agreed) or 'none'}. JPEG needs Pillow on both; else choose another, or auto"
            )
        self.direction = direction
        self.fixed = cast(Codec, choice) if choice != "auto" else None
        self.candidates = tuple(codec for codec in AUTOMATIC if codec in agreed)
        self.used = bool(self.candidates) if self.fixed is None else self.fixed != "raw"
        self.goodput = Goodput()

    def choose(self, site: Site, overlapped: bool, sample: Sample | None = None) -> Codec:
        if self.fixed is not None:
            return self.fixed
        up = self.direction == "frames"  # of the two ends the destination computes
        before_s, after_s = (0.0, site.compute_s) if up else (site.compute_s, 0.0)
        way = Way(self.goodput.rate, self.goodput.transfers, before_s, after_s)
        return site.chooser.choose(site.nbytes, way, overlapped, sample)


class Encodings:
    """Chooses, encodes and decodes for one session. Thread-safe."""

    def __init__(self, setting: str, agreed: Sequence[str]) -> None:
        """Begin a session.

        Args:
            setting: what the setting `codec` says.
            agreed: the codecs that both ends can read.

        Raises:
            ConfigurationError: the setting names another.
        """
        choices = codec_choices(setting)
        self._up = _Half("frames", choices["frames"], agreed)
        self._down = _Half("results", choices["results"], agreed)
        self._used = self._up.used or self._down.used
        self._sites: OrderedDict[Key, Site] = OrderedDict()
        self._expected: OrderedDict[tuple[int, str], list[Site | None]] = OrderedDict()  # as the last results were
        self._past: list[CodecUse] = []  # of sites that are not remembered
        self._lock = threading.Lock()

    def write(self, handle: int, name: str, arrays: Sequence[Array], overlapped: bool) -> Written:
        """Encode a call's tensors where that pays, and choose the codecs of its result."""
        written = Written(clock_ns(), arrays)
        if self._used:
            written.asked = self._ask(handle, name, overlapped)
            for place, array in enumerate(arrays):
                if LEAST_NBYTES <= array.nbytes <= ENCODED_LIMIT and array.flags.c_contiguous:
                    self._write((handle, name, "frames", place), array, overlapped, written)
        return written

    def read(self, frame: Frame, allocate: Allocate) -> tuple[Frame, int]:
        """Decode a result's tensors.

        Returns:
            The frame with its tensors as they were, and how long that took in nanoseconds.

        Raises:
            ProtocolError: a tensor cannot be decoded.
        """
        result = frame.message
        if not isinstance(result, Result) or all(spec.codec == "raw" for spec in result.parts):
            return frame, 0
        began_ns = clock_ns()
        arrays = decode_parts(result.parts, frame.arrays, allocate)
        return msgspec.structs.replace(frame, arrays=arrays), clock_ns() - began_ns

    def note(
        self,
        handle: int,
        name: str,
        written: Written,
        progress: Progress,
        result: Result,
        decode_ns: int,
        round_trip_ns: int,
    ) -> None:
        """Take note of what the codecs of a call and of its result took.

        Args:
            handle, name, written: of the call, as for `write`, and what that gave.
            progress: complete, but for the result's delivery.
            decode_ns: as `read` gave it.
        """
        timings = progress.timings
        large = bool(written.tensors) or any(spec.nbytes >= LEAST_NBYTES for spec in result.parts)
        if large and timings is not None and self._used:
            self._note_link(progress, timings, round_trip_ns // 2)
            self._note_written(written, timings)
            self._note_result(handle, name, written, result, timings, decode_ns)

    def uses(self) -> list[CodecUse]:
        """What was sent with which codec, by call site."""
        with self._lock:
            return [*self._past, *(use for site in self._sites.values() for use in site.uses.values())]

    def _write(self, place: Place, array: Array, overlapped: bool, written: Written) -> None:
        try:
            site = self._site((*place, spec_of(array)), self._up)
        except ValueError:  # of no dtype that can be sent: said where that is tried
            return
        began_ns = clock_ns()
        codec, encoded = self._encode(site, array, overlapped)
        if encoded is None:
            written.tensors.append(WrittenTensor(site, "raw", array.nbytes, 0))
            if codec != "raw":
                self._note_miss(site, codec)
            return
        written.parts = [*written.parts]
        written.parts[place[-1]] = encoded
        written.tensors.append(WrittenTensor(site, codec, encoded.nbytes, clock_ns() - began_ns))

    def _encode(self, site: Site, array: Array, overlapped: bool) -> tuple[Codec, Encoded | None]:
        if not self._up.used or not site.encoding.acquire(blocking=False):  # another thread makes this very call
            return "raw", None
        try:
            large = array.nbytes >= SAMPLED_NBYTES
            codec = self._choose(self._up, site, overlapped, partial(_sampled, array) if large else None)
            return codec, encode(codec, array, site.learned) if codec != "raw" else None
        finally:
            site.encoding.release()

    def _ask(self, handle: int, name: str, overlapped: bool) -> tuple[Codec, ...]:
        """The codecs for a result, which is taken to be like the last one."""
        if not self._down.used:
            return ()
        expected = self._expected.get((handle, name))
        if expected is None:
            return (self._down.fixed,) * FIRST_PLACES if self._down.fixed is not None else ()
        asked = [self._choose(self._down, site, overlapped) if site is not None else "raw" for site in expected]
        while asked and asked[-1] == "raw":
            asked.pop()
        return tuple(asked)

    def _choose(self, half: _Half, site: Site, overlapped: bool, sample: Sample | None = None) -> Codec:
        with self._lock:
            return half.choose(site, overlapped, sample)

    def _note_link(self, progress: Progress, timings: Timings, delay_ns: int) -> None:
        offset_ns = progress.offset_ns
        received_ns, sent_ns = timings.received_ns - offset_ns, timings.sent_ns - offset_ns
        self._up.goodput.observe(progress.wire_nbytes_up, progress.encoded_ns, received_ns, delay_ns)
        self._down.goodput.observe(progress.wire_nbytes_down, sent_ns, progress.ended_ns, delay_ns)

    def _note_written(self, written: Written, timings: Timings) -> None:
        coded_nbytes = sum(part.site.nbytes for part in written.tensors if part.codec != "raw")
        for part in written.tensors:
            share = part.site.nbytes / coded_nbytes if part.codec != "raw" else 0.0
            self._note(part.site, part.codec, part.wire_nbytes, part.encode_ns, share * timings.decode_ns, timings)

    def _note_result(
        self, handle: int, name: str, written: Written, result: Result, timings: Timings, decode_ns: int
    ) -> None:
        coded_nbytes = sum(spec.nbytes for spec in result.parts if spec.codec != "raw")
        expected: list[Site | None] = []
        for place, spec in enumerate(result.parts):
            site = None
            if spec.nbytes >= LEAST_NBYTES:
                plain = TensorSpec(spec.dtype, spec.shape)
                site = self._site((handle, name, "results", place, plain), self._down)
                share = spec.nbytes / coded_nbytes if spec.codec != "raw" else 0.0
                self._note(site, spec.codec, spec.wire_nbytes, share * timings.encode_ns, share * decode_ns, timings)
                asked = written.asked[place] if place < len(written.asked) else "raw"
                if asked not in ("raw", spec.codec):
                    self._note_miss(site, asked)
            expected.append(site)
        with self._lock:
            self._expected[handle, name] = expected
            if len(self._expected) > SITES_LIMIT:
                self._expected.popitem(last=False)

    def _note(
        self, site: Site, codec: Codec, wire_nbytes: int, encode_ns: float, decode_ns: float, timings: Timings
    ) -> None:
        compute_s = timings.compute_ns / 1e9
        with self._lock:
            site.count(codec, wire_nbytes, int(encode_ns), int(decode_ns))
            site.compute_s += SMOOTHING * (compute_s - site.compute_s) if site.compute_s else compute_s
            if codec != "raw":
                site.chooser.observe(codec, site.nbytes, wire_nbytes, encode_ns / 1e9, decode_ns / 1e9)

    def _note_miss(self, site: Site, codec: Codec) -> None:
        with self._lock:
            site.chooser.miss(codec)

    def _site(self, key: Key, half: _Half) -> Site:
        with self._lock:
            site = self._sites.get(key)
            if site is not None:
                self._sites.move_to_end(key)
                return site
            site = self._sites[key] = Site(key, half.candidates)
            if len(self._sites) > SITES_LIMIT:
                _, oldest = self._sites.popitem(last=False)
                self._past += list(oldest.uses.values())[: USES_LIMIT - len(self._past)]
            return site


def _sampled(array: Array, codec: Codec) -> Figures:
    """What a codec would cost for a large tensor, by its first part."""
    part = array.reshape(-1)[: SAMPLE_NBYTES // array.itemsize]
    began_ns = clock_ns()
    encoded = encode(codec, part, Learned())
    nbytes = part.nbytes if encoded is None else encoded.nbytes
    return Figures((clock_ns() - began_ns) / 1e9 / part.nbytes, nbytes / part.nbytes, BEST[codec].decode_s)
