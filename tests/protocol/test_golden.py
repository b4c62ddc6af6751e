"""The wire's bytes do not change unnoticed."""

from __future__ import annotations

import json

import msgspec
import pytest

from avec.protocol import messages
from avec.tensor import Encoded
from protocol.frames import feed, trusted_reader
from protocol.golden import EXAMPLES, FILE, frame_bytes, name_of

GOLDEN = json.loads(FILE.read_text())
ADVICE = (
    "the bytes of {} changed, which peers of other releases cannot read: raise messages.VERSION, then write the golden "
    "file anew with `PYTHONPATH=src python tests/protocol/golden.py`"
)


def test_the_golden_file_is_of_this_version() -> None:
    assert GOLDEN["version"] == messages.VERSION


def test_every_message_type_has_an_example() -> None:
    assert {type(message) for message, _, _ in EXAMPLES} == set(messages.TYPES)


@pytest.mark.parametrize("place", range(len(EXAMPLES)), ids=name_of)
def test_a_frame_has_its_golden_bytes(place: int) -> None:
    name = name_of(place)
    assert frame_bytes(*EXAMPLES[place]).hex() == GOLDEN["frames"].get(name), ADVICE.format(name)


@pytest.mark.parametrize("place", range(len(EXAMPLES)), ids=name_of)
def test_golden_bytes_are_read_as_what_was_written(place: int) -> None:
    message, number, arrays = EXAMPLES[place]
    (frame,) = feed(trusted_reader(), bytes.fromhex(GOLDEN["frames"][name_of(place)]))
    sent = msgspec.structs.replace(message, parts=frame.message.parts) if arrays else message
    assert (frame.message, frame.number) == (sent, number)
    sent_bytes = [(each.body if isinstance(each, Encoded) else each).tobytes() for each in arrays]
    assert [array.tobytes() for array in frame.arrays] == sent_bytes
