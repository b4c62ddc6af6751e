"""Two ends of the protocol talk at random, in pieces of any size, and a model of a few lines knows what must come.

What is legal arrives as it was sent, in order, whatever the pieces; what is not raises and changes nothing at its
sender, and is refused by its receiver. Not here: damaged bytes (`test_hostile_frames`), threads and sockets.
"""

from __future__ import annotations

from collections import deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from avec.errors import ProtocolError
from avec.protocol import messages
from avec.protocol.codec import Part, allocate_array, encode
from avec.protocol.connection import ANSWERS, CALLS, Connection, State
from avec.protocol.messages import Message, Welcome
from avec.tensor import Encoded
from protocol.golden import EXAMPLES

HOSTS = (messages.Offer, messages.Chunk, messages.Load, messages.Run, messages.Release, messages.Goodbye)
DESTINATIONS = (messages.Want, messages.Stored, messages.Result, messages.Failed, messages.Draining)
EITHER = (messages.Ping, messages.Pong)
WELCOME = Welcome(messages.VERSION, "1", "machine")
HELLO = messages.Hello(messages.VERSION, messages.VERSION, "session", "machine")
Example = tuple[Message, int, tuple[Part, ...]]


def _examples(*kinds: type[Message]) -> st.SearchStrategy[Example]:
    return st.sampled_from([example for example in EXAMPLES if type(example[0]) in kinds])


class _Way:
    """One direction: its sender, its receiver, the bytes between, and the frames that must still come out."""

    def __init__(self, sender: Connection, receiver: Connection) -> None:
        self.sender = sender
        self.receiver = receiver
        self.bytes = bytearray()
        self.expected: deque[tuple[Message, int, list[bytes]]] = deque()

    def send(self, message: Message, number: int, arrays: tuple[Part, ...]) -> None:
        buffers = self.sender.send(message, number, arrays)
        self.bytes += b"".join(buffers)
        bodies = [part.body if isinstance(part, Encoded) else part for part in arrays]
        self.expected.append((message, number, [body.tobytes() for body in bodies]))

    def deliver(self, count: int) -> list[tuple[Message, int]]:
        came = []
        while count and self.bytes:
            target = self.receiver.buffer()
            piece = min(count, len(target), len(self.bytes))
            target[:piece] = self.bytes[:piece]
            del self.bytes[:piece]
            count -= piece
            if (frame := self.receiver.advance(piece)) is not None:
                message, number, contents = self.expected.popleft()
                assert type(frame.message) is type(message)
                assert frame.number == number
                assert [array.tobytes() for array in frame.arrays] == contents
                came.append((frame.message, frame.number))
        return came


class ProtocolMachine(RuleBasedStateMachine):
    """A host and a destination with a network between that delivers when it likes."""

    @initialize()
    def open(self) -> None:
        self.host = Connection("host", allocate_array)
        self.stranger = Connection("destination", allocate_array)  # the server's, which takes the hello
        self.destination = Connection("destination", allocate_array)  # the worker's, which begins with the welcome
        self.down = _Way(self.destination, self.host)
        self.up = _Way(self.host, self.stranger)
        self.last_call = 0
        self.welcomed = False  # by the destination
        self.told = False  # the welcome has arrived
        self.drained = False
        self.up.send(HELLO, 0, ())
        assert self.up.deliver(1 << 16) == [(HELLO, 0)]
        self.up.receiver = self.destination

    @precondition(lambda self: not self.welcomed)
    @rule()
    def welcome(self) -> None:
        self.down.send(WELCOME, 0, ())
        self.welcomed = True

    @precondition(lambda self: self.told)
    @rule(example=_examples(*HOSTS, *EITHER), gap=st.integers(1, 3))
    def host_sends(self, example: Example, gap: int) -> None:
        message, _, arrays = example
        number = 0
        if isinstance(message, CALLS):
            number = self.last_call = self.last_call + gap
        self.up.send(message, number, arrays)

    @precondition(lambda self: self.welcomed)
    @rule(example=_examples(*DESTINATIONS, *EITHER))
    def destination_sends(self, example: Example) -> None:
        message, _, arrays = example
        self.down.send(message, self.last_call if isinstance(message, ANSWERS) else 0, arrays)

    @rule(count=st.integers(1, 400))
    def network_brings_up(self, count: int) -> None:
        if self.welcomed:
            self.up.deliver(count)

    @rule(count=st.integers(1, 400))
    def network_brings_down(self, count: int) -> None:
        for message, _ in self.down.deliver(count):
            self.told |= isinstance(message, Welcome)
            self.drained |= isinstance(message, messages.Draining)

    @rule(example=_examples(*DESTINATIONS, messages.Welcome, messages.Refused, messages.Status))
    def a_host_cannot_send_what_is_the_destinations(self, example: Example) -> None:
        before = self.host.state
        try:
            self.host.send(*example)
        except ProtocolError:
            assert self.host.state is before
        else:
            raise AssertionError(f"a host sent {type(example[0]).__name__}")

    @precondition(lambda self: self.told and self.last_call > 0)
    @rule(number=st.integers(0, 3))
    def an_older_number_is_refused(self, number: int) -> None:
        taker = Connection("destination", allocate_array)
        taker.send(WELCOME)
        for each in (self.last_call, min(number, self.last_call)):
            data = memoryview(b"".join(encode(messages.Run(handle=1), each)))
            try:
                while data:
                    piece = min(len(data), len(taker.buffer()))
                    taker.buffer()[:piece] = data[:piece]
                    data = data[piece:]
                    taker.advance(piece)
            except ProtocolError:
                assert each <= self.last_call
                return
        raise AssertionError("a number came twice and was taken")

    @invariant()
    def states_are_those_of_what_has_arrived(self) -> None:
        if not hasattr(self, "host"):
            return
        expected = State.DRAINING if self.drained else State.OPEN if self.told else State.OPENING
        assert self.host.state is expected
        assert self.destination.state is (State.OPEN if self.welcomed else State.OPENING)

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        if self.welcomed:
            self.up.deliver(1 << 20)
            self.down.deliver(1 << 20)
            assert not self.up.expected and not self.down.expected, "all that was sent has come"
            assert self.host.end_of_stream() and self.destination.end_of_stream(), "and nothing else"


ProtocolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestProtocolMachine = ProtocolMachine.TestCase


def test_the_machine_knows_every_message() -> None:
    assert {*HOSTS, *DESTINATIONS, *EITHER, messages.Hello, Welcome, messages.Refused, messages.Status} == set(
        messages.TYPES
    )
