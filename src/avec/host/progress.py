"""How far a call has got: clock readings and bytes, which its execution cycle is made from."""

from __future__ import annotations

from dataclasses import dataclass

from avec.protocol.messages import Timings


@dataclass(slots=True)
class Progress:
    """Clock readings of a call on its way, and its bytes: what its execution cycle is made from."""

    began_ns: int
    encoded_ns: int = 0
    ended_ns: int = 0  # the answer's last byte is here
    wire_nbytes_up: int = 0
    wire_nbytes_down: int = 0
    offset_ns: int = 0  # the destination's clock minus this one's
    blocked_ns: int = 0  # for how long the application could not go on because of this call
    waited: bool = False
    timings: Timings | None = None

    def stages_ns(self, delivered_ns: int) -> tuple[int, int, int, int, int, int]:
        """Split the time up to delivery into profiling.STAGES; only the link's two shares rest on the clock offset."""
        encode_ns = self.encoded_ns - self.began_ns
        decode_ns = max(0, delivered_ns - self.ended_ns)
        away_ns = self.ended_ns - self.encoded_ns
        if self.timings is None:
            return encode_ns, away_ns, 0, 0, 0, decode_ns
        link_ns = max(0, away_ns - self.timings.queue_ns - self.timings.compute_ns)
        send_ns = self.timings.received_ns - self.offset_ns - self.encoded_ns
        send_ns = min(max(0, send_ns), link_ns)
        return encode_ns, send_ns, self.timings.queue_ns, self.timings.compute_ns, link_ns - send_ns, decode_ns
