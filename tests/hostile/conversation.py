"""One conversation of a host with a destination in which every message of a session and of an upload is said.

It is recorded at a relay once; from that follow the places where a fault can come: before, within and after each part
of each frame. Not here: the faults (`test_boundaries`), and what is said elsewhere: Status, Refused, Draining.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from accumulator import Accumulator
from avec.config import Settings
from avec.errors import InvalidArgument, SessionLost
from avec.host import models
from avec.host.greeting import Resumption, greet
from avec.host.session import Session, probe
from avec.modelcache import manifest_of_bytes
from avec.protocol.codec import HEADER, FrameReader, allocate_array
from avec.protocol.messages import Message
from destinations import RELU, Net
from protocol.frames import feed
from relay import Relay

COUNT = 4


@dataclass(frozen=True)
class Place:
    """Where a fault comes, in bytes of one direction since the conversation began."""

    offset: int
    after: str  # what has passed, for messages


def converse(url: str, settings: Settings, model: bytes) -> list[bytes]:
    """Compute, upload a model, fail; all that it brought.

    Args:
        model: bytes that the destination does not have.
    """
    with Session(url, settings) as session:
        state = Accumulator(session, COUNT)
        calls = [state.add(np.full(COUNT, number, np.float32)) for number in range(3)]
        brought = [call.wait().arrays[0].tobytes() for call in calls]
        session.release(session.new_handle())
        assert models.provide(session, model, settings) == manifest_of_bytes(model).digest
        with pytest.raises(InvalidArgument) as raised:
            session.run(999, "test", b"").wait()
        if "handle 999 names nothing" not in str(raised.value):  # its number was changed on the way
            raise raised.value
        brought.append(state.add(np.ones(COUNT, np.float32)).wait().arrays[0].tobytes())
    return brought


def converse_torch(url: str, settings: Settings, model: bytes) -> list[bytes]:
    """A PyTorch program's: batches, a tensor that is uploaded by digest, a snapshot, and batches after it."""
    with Session(url, settings) as session:
        state = Accumulator(session, COUNT)
        given = np.ones(COUNT, np.float32)
        brought = [state.add(given).wait().arrays[0].tobytes()]
        contents = hashlib.sha256(model).digest()[: given.nbytes]
        digest = models.provide(session, contents, settings)
        assert state.fill(digest).wait().arrays[0].tobytes() == contents
        state.save().wait()
        brought += [call.wait().arrays[0].tobytes() for call in [state.add(given), state.add(given)]]
        assert session.snapshots == 1
    return brought


def converse_encoded(url: str, settings: Settings, model: bytes) -> list[bytes]:
    """Frames that a codec writes, which follow one another as a camera's do, and their results."""
    brought = []
    with Session(url, replace(settings, codec="palette-zstd")) as session:
        net = Net(session, RELU, (1, 3, 64, 96))
        pixels = np.arange(3 * 64 * 96).reshape(1, 3, 64, 96) % 200
        for number in range(3):
            frame = (pixels + number).astype(np.float32) / 256 - np.float32(0.5)
            brought.append(net.forward(frame).wait().arrays[0].tobytes())
            assert brought[-1] == np.maximum(frame, 0).tobytes()
    assert any(use.codec == "palette-zstd" for use in session.recorder.codecs)
    return brought


Conversation = Callable[[str, Settings, bytes], list[bytes]]


def be_told(url: str, settings: Settings) -> None:
    """Ask what the destination is doing."""
    assert probe(url, settings).formats


def be_refused(url: str, settings: Settings) -> None:
    """Ask to resume a session that never was."""
    with pytest.raises(SessionLost, match="no such session waits"):
        greet(url, settings, "resume", resumption=Resumption("no such", "x", 2, 0))


@dataclass(frozen=True)
class Frames:
    """What one direction of the conversation was: the messages, and where in its bytes each frame's parts end."""

    kinds: tuple[type[Message], ...]
    places: tuple[Place, ...]
    opened: int  # bytes up to the end of the session's opening: what comes before is no session's yet
    described: tuple[int, ...]  # where headers and bodies lie: all bytes but those of tensors and chunks
    nbytes: int


def frames_of(record: bytes) -> Frames:
    """Take a recorded direction apart."""
    reader = FrameReader(allocate_array)
    reader.trust()
    frames = feed(reader, record)
    places, begin, ends, described = [], 0, [], []
    for frame in frames:
        kind = type(frame.message).__name__
        end = begin + frame.nbytes
        payload = sum(array.nbytes for array in frame.arrays)
        described += range(begin, end - payload)
        inner = (begin, begin + HEADER.size, end - payload, end)
        if begin:  # at the very beginning nothing shows which connection is meant
            places.append(Place(begin, f"before a {kind}"))
        places += [Place(begin + 1, f"one byte of a {kind}")]
        places += [Place((a + b) // 2, f"within a {kind}") for a, b in pairwise(inner) if b - a > 1]
        places += [Place(inner[1], f"the header of a {kind}"), Place(end - 1, f"all but a byte of a {kind}")]
        ends.append(begin := end)
    unique = {place.offset: place for place in places}
    kinds = tuple(type(frame.message) for frame in frames)
    return Frames(kinds, tuple(unique[offset] for offset in sorted(unique)), ends[0], tuple(described), begin)


def recorded(relay: Relay, settings: Settings, model: bytes, having: Conversation = converse) -> tuple[Frames, Frames]:
    """Have a conversation undisturbed; both directions of it."""
    relay.up.record, relay.down.record = bytearray(), bytearray()
    having(relay.url, settings, model)
    up, down = bytes(relay.up.record), bytes(relay.down.record)
    relay.up.record = relay.down.record = None
    both = frames_of(up), frames_of(down)
    assert [frames.nbytes for frames in both] == [len(up), len(down)], "nothing is left over"
    return both


def fresh_models(folder: Path) -> Iterator[bytes]:
    """Small models that no destination has."""
    number = 0
    while True:
        number += 1
        yield f"{folder} {number:06}".encode()
