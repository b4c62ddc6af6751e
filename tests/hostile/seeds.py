"""What fuzzing begins with: the golden frame of each message, at each end where it may come."""

from __future__ import annotations

from avec.protocol import messages
from avec.protocol.codec import HEADER, encode
from protocol.golden import EXAMPLES, frame_bytes


def seeds() -> dict[str, list[bytes]]:
    """By target: each message at each end where it may come, and what strangers say."""
    frames = [frame_bytes(*example) for example in EXAMPLES]
    first = [frames[place] for place, example in enumerate(EXAMPLES) if isinstance(example[0], messages.Hello)]
    found: dict[str, list[bytes]] = {"stream": [], "message": [], "plain_stranger": [], "encrypted_stranger": []}
    for frame in frames:
        found["stream"] += [bytes([end, 0]) + frame for end in range(4)]
        kind, meta_nbytes, payload_nbytes = frame[3], *HEADER.unpack(frame[: HEADER.size])[3:5]
        meta = frame[HEADER.size : HEADER.size + meta_nbytes]
        found["message"] += [bytes([end, kind]) + payload_nbytes.to_bytes(2, "little") + meta for end in (1, 3)]
    found["plain_stranger"] = [b"\0" + frame for frame in first]
    found["plain_stranger"] += [b"\0" + b"".join(encode(messages.Hello(1, 9, "status", "x", token="t" * 43)))]
    found["encrypted_stranger"] = [b"\0\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160), *[b"\0" + first[0]]]
    return found
