"""Which codec the tensors of one call site are sent with: the one with which the slowest stage of a call is fastest.

    encode ─ link ─ decode       in turn: the sum counts; where calls overlap: the longest stage

Pure: durations and rates come from the caller. It begins with raw, tries a codec only where the best that this one has
been seen to do would pay on this link, and believes what it then measures. Not here: what codecs do, and measuring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from avec.tensor import Codec

TRIALS = 3  # calls before a codec's figures count; the first one learns, and its time is not that of later ones
MEMORY = 7  # samples of each codec
GAIN = 0.95  # another codec is taken if its cost is below this part of the present one's; raw, if it is lower at all
SPARE = 0.1  # of the processors' time for a codec, where calls overlap: they have other things to do as well
SMOOTHING = 0.1  # of whether calls overlap
FIRST_PROBE, LAST_PROBE = 64, 4096  # calls between looks at whether a codec that lost has become better, doubling
FIRST_REST, LAST_REST = 64, 4096  # calls for which a codec that did not apply is left alone, doubling
SURE = 4  # transfers after which a link's rate is believed; a slow one is believed at once
SLOW_S = 0.02


@dataclass(frozen=True, slots=True)
class Figures:
    """What a codec costs: seconds for each byte of the tensor, and the part of the bytes that is left."""

    encode_s: float
    part: float
    decode_s: float


RAW = Figures(0.0, 1.0, 0.0)
# The best that one core has been seen to do; what would not even pay with that is not tried.
BEST: dict[Codec, Figures] = {
    "palette": Figures(1 / 4e9, 0.25, 1 / 8e9),
    "palette-zstd": Figures(1 / 1.3e9, 0.12, 1 / 2e9),
    "mask": Figures(1 / 2e9, 0.3, 1 / 2e9),
    "shuffle-zstd": Figures(1 / 0.8e9, 0.4, 1 / 0.8e9),
}
AUTOMATIC: tuple[Codec, ...] = tuple(BEST)


@dataclass(frozen=True, slots=True)
class Way:
    """What is known of the way that a tensor takes."""

    rate: float  # bytes per second; 0: not known
    transfers: int = SURE  # that it was measured by
    before_s: float = 0.0  # what the encoding end does beside encoding for each call, where calls overlap
    after_s: float = 0.0  # and the decoding end


@dataclass(slots=True)
class _Known:
    encode_s: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    decode_s: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    part: float = 1.0
    trials: int = 0
    rests_until: int = 0
    rest: int = FIRST_REST
    seen: int = 0  # the last call that it was measured in


class Chooser:
    """Chooses for one call site. Not thread-safe."""

    def __init__(self, candidates: Sequence[Codec] = AUTOMATIC) -> None:
        self.current: Codec = "raw"
        self._known = {codec: _Known() for codec in candidates}
        self._calls = 0
        self._overlap = 0.0
        self._probe = FIRST_PROBE
        self._next_probe = FIRST_PROBE

    def choose(
        self, nbytes: int, way: Way, overlapped: bool, sample: Callable[[Codec], Figures] | None = None
    ) -> Codec:
        """Choose for one more call.

        Args:
            nbytes: of the tensor.
            overlapped: whether another call is under way.
            sample: tries a codec on a small part of a tensor that is too large to be tried with as a whole.
        """
        self._calls += 1
        self._overlap += SMOOTHING * (overlapped - self._overlap)
        if not way.rate or (way.transfers < SURE and nbytes / way.rate < SLOW_S):
            return "raw"
        costs = {codec: self._cost(self._figures(codec), nbytes, way) for codec in ("raw", *self._known)}
        tried = [codec for codec, known in self._known.items() if known.trials >= TRIALS]
        self._settle({codec: costs[codec] for codec in ("raw", *tried)})
        promising = [
            codec
            for codec, known in self._known.items()
            if known.trials < TRIALS and known.rests_until <= self._calls and costs[codec] < GAIN * costs[self.current]
        ]
        for codec in sorted(promising, key=lambda codec: costs[codec]):
            if sample is not None and not self._known[codec].trials:
                if self._cost(sample(codec), nbytes, way) >= GAIN * costs[self.current]:
                    self.miss(codec)
                    continue
            return codec
        return self._probed(tried, nbytes, way, costs[self.current]) or self.current

    def observe(self, codec: Codec, nbytes: int, wire_nbytes: int, encode_s: float, decode_s: float) -> None:
        """Take note of what a codec took for a tensor."""
        known = self._known.get(codec)
        if known is None:
            return
        known.trials += 1
        known.seen = self._calls
        known.rest = FIRST_REST
        part = wire_nbytes / nbytes
        known.part = part if known.trials <= TRIALS else known.part + (part - known.part) / MEMORY
        if known.trials > 1:
            known.encode_s.append(encode_s / nbytes)
            known.decode_s.append(decode_s / nbytes)

    def miss(self, codec: Codec) -> None:
        """Take note that a codec was asked for and did not apply."""
        known = self._known.get(codec)
        if known is None:
            return
        known.rests_until = self._calls + known.rest
        known.rest = min(2 * known.rest, LAST_REST)
        known.trials = 0
        known.encode_s.clear()
        known.decode_s.clear()
        if self.current == codec:
            self.current = "raw"

    def _settle(self, costs: dict[Codec, float]) -> None:
        best = min(costs, key=lambda codec: costs[codec])
        gain = 1.0 if best == "raw" else GAIN
        if self.current not in costs or costs[best] < gain * costs[self.current]:
            self.current = best
            self._probe = FIRST_PROBE
            self._next_probe = self._calls + self._probe

    def _probed(self, tried: Sequence[Codec], nbytes: int, way: Way, current_cost: float) -> Codec | None:
        """Now and then a codec that lost, and might win by now; the one that was measured longest ago."""
        if self._calls < self._next_probe:
            return None
        self._probe = min(2 * self._probe, LAST_PROBE)
        self._next_probe = self._calls + self._probe
        hopeful = [
            codec
            for codec in tried
            if codec != self.current and self._cost(BEST.get(codec, RAW), nbytes, way) < GAIN * current_cost
        ]
        return min(hopeful, key=lambda codec: self._known[codec].seen, default=None)

    def _figures(self, codec: Codec) -> Figures:
        known = self._known.get(codec)
        if known is None:
            return RAW
        if known.trials < TRIALS:
            return BEST.get(codec, RAW)
        return Figures(_middle(known.encode_s), known.part, _middle(known.decode_s))

    def _cost(self, figures: Figures, nbytes: int, way: Way) -> float:
        """Seconds that a call takes longer for a tensor, or between two calls that overlap."""
        encode_s, decode_s = figures.encode_s * nbytes, figures.decode_s * nbytes
        link_s = figures.part * nbytes / way.rate
        if self._overlap > 0.5:
            slowest_s = max(encode_s + way.before_s, link_s, decode_s + way.after_s)
            return slowest_s + SPARE * (encode_s + decode_s)
        return encode_s + link_s + decode_s


def _middle(samples: deque[float]) -> float:
    """The median, the lower one of two."""
    return sorted(samples)[(len(samples) - 1) // 2] if samples else 0.0
