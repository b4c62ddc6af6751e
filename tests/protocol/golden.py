"""One frame of each message type as bytes, kept in golden_frames.json: what peers of other releases rely on.

After a change of the protocol and of messages.VERSION: `PYTHONPATH=src python tests/protocol/golden.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from avec.errors import ErrorRecord
from avec.protocol import messages
from avec.protocol.codec import Part, encode
from avec.protocol.messages import Message
from avec.tensor import Encoded, PartSpec

FILE = Path(__file__).with_name("golden_frames.json")

_GPU = messages.AcceleratorInfo("cuda", "NVIDIA H200", 150 << 30)
_TIMINGS = messages.Timings(1_000_000_007, 2_000, 30_000_000, 1_030_002_007, 47)
_ERROR = ErrorRecord("invalid-model", "conv1: no shape", "Traceback: …")
_DIGEST = "0123456789abcdef" * 4
_FLOATS = np.array([[1.5, -2.0, float("inf")]], np.float32)
_EMPTY = np.zeros((0, 3), np.int64)
_SCALAR = np.array(7, np.uint16)
_ENCODED = Encoded(PartSpec("float32", (1, 9), "mask", 12), np.arange(12, dtype=np.uint8))

# One of each type at least; numbers and arrays as they are really sent.
EXAMPLES: tuple[tuple[Message, int, tuple[Part, ...]], ...] = (
    (messages.Hello(3, 3, "session", "avec 0.1.0", "openpose.py", "fast", resume_s=30.0), 0, ()),
    (messages.Hello(3, 3, "resume", "avec 0.1.0", session="12", secret="s3cret", epoch=2, answered=41), 0, ()),
    (messages.Welcome(3, "12", "avec 0.1.0", _GPU, ("caffe", "onnx"), 256, 256 << 20, 3, "s3cret", 30.0, 43), 0, ()),
    (messages.Welcome(3, "13", "avec 0.1.0"), 0, ()),
    (messages.Refused(_ERROR), 0, ()),
    (messages.Offer(digest=_DIGEST, nbytes=5), 1, (np.arange(32, dtype=np.uint8),)),
    (messages.Want(_DIGEST, ((0, 1), (5, 9))), 1, ()),
    (messages.Chunk(digest=_DIGEST, index=3), 0, (np.arange(5, dtype=np.uint8),)),
    (messages.Stored(_DIGEST), 0, ()),
    (messages.Load(handle=1, format="caffe", files={"weights": _DIGEST}, body=b"\x93"), 2, (_FLOATS, _EMPTY)),
    (messages.Run(handle=1, body=b"\x90", answered=2**40), 2**64 - 1, (_FLOATS, _SCALAR)),
    (messages.Run(handle=2**32, handles=(1, 7)), 3, ()),
    (messages.Release((1, 2, 300)), 0, ()),
    (messages.Result(body=b"\x90", timings=_TIMINGS), 2, (_FLOATS,)),
    (messages.Failed(_ERROR, _TIMINGS), 3, ()),
    (messages.Ping(1_000_000_007), 0, ()),
    (messages.Pong(1_000_000_007, 5, 6), 0, ()),
    (messages.Draining("it is shutting down"), 0, ()),
    (messages.Goodbye(), 0, ()),
    (messages.Run(handle=1, codecs=("raw", "mask")), 44, (_FLOATS, _ENCODED)),
    (messages.Hello(3, 3, "session", "avec 0.1.0", codecs=("palette", "mask")), 0, ()),
    (messages.Welcome(3, "14", "avec 0.1.0", codecs=("mask",)), 0, ()),
    (messages.Status((_GPU,), ("caffe",), "avec 0.1.0", 2, 5, 10**9, waiting=1), 0, ()),
    (
        messages.Status(
            uptime_s=7.5,
            draining=True,
            places=messages.Places(1, 16, 2, 64, 3, 64),
            models_limit_nbytes=20 * 10**9,
            disk_free_nbytes=10**12,
            memory_nbytes=10**8,
            totals=messages.Totals(9, 4, 1, 1000, 7, {"authentication": 2}, 1, 1, 2.5),
            listed=(messages.SessionInfo("9", "ann", "app.py", "192.0.2.1:7", "waiting", 1.5, 1, 2, 3, 4, 1, 2, 0.5),),
            unlisted=1,
        ),
        0,
        (),
    ),
)


def frame_bytes(message: Message, number: int, arrays: tuple[Part, ...]) -> bytes:
    """One frame as it goes over the wire."""
    return b"".join(encode(message, number, arrays))


def name_of(place: int) -> str:
    """What an example is called in the file."""
    return f"{place:02} {type(EXAMPLES[place][0]).__name__}"


def main() -> None:
    """Write the golden file anew."""
    frames = {name_of(place): frame_bytes(*example).hex() for place, example in enumerate(EXAMPLES)}
    FILE.write_text(json.dumps({"version": messages.VERSION, "frames": frames}, indent=1) + "\n")


if __name__ == "__main__":
    main()
