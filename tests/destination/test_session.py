"""The destination's side of a session, with an executor that does only what a test tells it to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from avec.communication.channel import Channel, Heartbeat
from avec.communication.compression import Learned, mask
from avec.destination import session as destination_session
from avec.destination.buffers import BufferPool
from avec.destination.executors import Answer, Model
from avec.destination.session import Session
from avec.errors import DestinationError, ErrorRecord, ProtocolError, SessionLost
from avec.modelcache import ModelCache, manifest_of_bytes
from avec.protocol import messages
from avec.protocol.codec import Frame, encode
from avec.protocol.messages import Failed, Goodbye, Load, Message, Offer, Release, Result, Run
from avec.tensor import Array, Encoded, PartSpec, TensorSpec
from communication.pairs import open_pair
from destinations import await_true

pytestmark = pytest.mark.usefixtures("tidy")

WELCOME = messages.Welcome(messages.VERSION, "1", "test")
PATIENT = Heartbeat(30.0, 3)
ONE_BYTE = np.zeros(1, np.uint8)
POOL_NBYTES = 4 << 20
BROKEN_NBYTES = 3 << 20  # what the pool's allocator cannot give, for no reason that anybody expects
TOO_LARGE = np.zeros(POOL_NBYTES + 1, np.uint8)


@dataclass
class Held:
    """A model whose calls wait until the test lets them go, and then answer with their own parts."""

    let_go: threading.Semaphore
    log: list[str]

    def run(self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], *_: object) -> Answer:
        assert self.let_go.acquire(timeout=20)
        if body == b"fail":
            raise LookupError("as told")
        if body == b"late":
            return Answer(late=True)
        return Answer(body, [np.array(array) for array in arrays], kernels=3)

    def close(self) -> None:
        self.log.append("closed")


@dataclass
class HeldExecutor:
    """Makes held models."""

    let_go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    log: list[str] = field(default_factory=list)

    def load(self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]) -> tuple[Model, Answer]:
        return Held(self.let_go, self.log), Answer(b"loaded")


@dataclass
class Serving:
    """A session that serves on a thread, and the host's end of its connection."""

    session: Session
    host: Channel
    executor: HeldExecutor
    pool: BufferPool
    lost: queue.SimpleQueue[Exception]  # what the receiving thread ended with
    ended: queue.SimpleQueue[Exception]  # what serving ended with

    def call(self, number: int, message: Message, *arrays: Array) -> None:
        self.host.send(message, number, arrays)

    def answer(self) -> Frame:
        return self.host.receive()

    def load(self, number: int = 1, handle: int = 1) -> None:
        self.call(number, Load(handle=handle, format="held"))
        assert self.answer().message.body == b"loaded"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    yield from _serving(tmp_path)


def _allocate(nbytes: int) -> Array:
    if nbytes == BROKEN_NBYTES:
        raise LookupError("no allocator")
    return np.empty(nbytes, np.uint8)


def _serving(tmp_path: Path, resume_s: float = 0.0) -> Iterator[Serving]:
    pool = BufferPool(_allocate, 1 << 20, POOL_NBYTES)

    def receive_into(number: int, message: Message, index: int, spec: TensorSpec) -> Array:
        return pool.take(spec)

    with open_pair() as (ours, theirs):
        lost: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        ended: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        executor = HeldExecutor()
        session = Session(
            Channel(theirs, "destination", PATIENT, receive_into),
            pool,
            ModelCache(tmp_path / "models", 1 << 30),
            {"held": executor},
            lost.put,
            resume_s,
        )

        def serve() -> None:
            try:
                session.serve(WELCOME)
            except DestinationError as exc:
                ended.put(exc)

        thread = threading.Thread(target=serve)
        thread.start()
        host = Channel(ours, "host", PATIENT)
        assert host.receive().message == WELCOME
        yield Serving(session, host, executor, pool, lost, ended)
        executor.let_go.release(1000)
        host.abort()
        thread.join()
        for receiver in threading.enumerate():
            if receiver.name == "avec-receive":
                receiver.join()


def test_a_call_is_answered_with_timings_and_the_number_of_its_operators(serving: Serving) -> None:
    serving.load()
    serving.executor.let_go.release()
    serving.call(2, Run(handle=1, body=b"x"), ONE_BYTE)
    frame = serving.answer()
    assert isinstance(frame.message, Result)
    assert (frame.number, frame.message.body, len(frame.arrays)) == (2, b"x", 1)
    timings = frame.message.timings
    assert timings is not None
    assert timings.kernels == 3
    assert timings.received_ns + timings.queue_ns + timings.compute_ns <= timings.sent_ns


def test_time_in_the_queue_is_no_time_of_computing(serving: Serving) -> None:
    serving.load()
    serving.call(2, Run(handle=1))
    serving.call(3, Run(handle=1))
    threading.Event().wait(0.05)  # what both calls spend waiting, the second in the queue
    serving.executor.let_go.release(2)
    first, second = serving.answer().message, serving.answer().message
    assert first.timings.compute_ns >= 40_000_000
    assert second.timings.queue_ns >= 40_000_000
    assert second.timings.compute_ns < 40_000_000


def test_what_a_call_raises_is_its_answer_with_type_and_traceback(serving: Serving) -> None:
    serving.load()
    serving.executor.let_go.release()
    serving.call(2, Run(handle=1, body=b"fail"))
    message = serving.answer().message
    assert isinstance(message, Failed)
    assert (message.error.code, message.error.message) == ("remote", "LookupError: as told")
    assert "in run" in message.error.traceback


def test_released_handles_are_closed_after_the_calls_before(serving: Serving) -> None:
    serving.load()
    serving.executor.let_go.release()
    serving.call(2, Run(handle=1))
    serving.call(0, Release((1, 55)))
    assert serving.answer().number == 2
    serving.load(3, handle=2)
    assert serving.executor.log == ["closed"]


def test_releases_that_wait_behind_a_long_call_are_bounded_and_the_worker_shows_life_meanwhile(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination_session, "RELEASES_NBYTES", 4096)
    serving.load()
    serving.call(2, Run(handle=1))
    release = b"".join(encode(Release(tuple(range(1000, 1400)))))
    waiting = serving.session._releases
    serving.host.send_encoded([release] * 50)
    await_true(lambda: waiting._nbytes >= 4096, "the worker has taken what there is room for")
    await_true(serving.host.readable, "it shows that it lives, although it reads no more")
    assert waiting._nbytes < 4096 + len(release)
    serving.executor.let_go.release(2)
    serving.call(3, Run(handle=1))
    assert [serving.answer().number, serving.answer().number] == [2, 3]
    await_true(lambda: waiting._nbytes == 0, "all are carried out")


@pytest.mark.parametrize("message", [messages.Chunk(digest="d"), messages.Chunk(digest="d", index=9)])
def test_what_no_session_takes_ends_it_at_once_and_does_not_wait_its_turn(serving: Serving, message: Message) -> None:
    serving.load()
    serving.call(2, Run(handle=1))
    serving.call(0, message, ONE_BYTE)
    assert "Chunk is not expected in a session" in str(serving.lost.get(timeout=20))
    serving.executor.let_go.release()


def test_what_comes_after_a_goodbye_is_not_carried_out(serving: Serving) -> None:
    serving.load()
    serving.call(2, Run(handle=1))
    serving.call(0, Goodbye())
    serving.call(3, Run(handle=1))
    serving.executor.let_go.release(2)
    assert serving.answer().number == 2
    with pytest.raises(SessionLost):
        serving.answer()


def test_draining_is_said_after_what_was_sent_before(serving: Serving) -> None:
    serving.load()
    serving.call(2, Run(handle=1))
    serving.call(0, messages.Ping(1))
    serving.session.drain("maintenance")
    serving.executor.let_go.release()
    kinds = {type(serving.answer().message) for _ in range(2)}
    assert kinds == {Result, messages.Draining}


def test_calls_that_were_sent_before_the_goodbye_are_answered(serving: Serving) -> None:
    serving.load()
    for number in range(2, 6):
        serving.call(number, Run(handle=1, body=bytes([number])))
    serving.call(0, Goodbye())
    serving.executor.let_go.release(4)
    assert [serving.answer().number for _ in range(4)] == [2, 3, 4, 5]
    with pytest.raises(SessionLost, match="closed the connection$"):
        serving.answer()


def test_more_calls_than_were_granted_end_the_session(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination_session, "CREDIT_CALLS", 3)
    serving.load()
    for number in range(2, 6):
        serving.call(number, Run(handle=1))
    lost = serving.lost.get(timeout=20)
    assert isinstance(lost, ProtocolError)
    assert str(lost).startswith("a call of 0 bytes after 3 unanswered ones with 0 bytes; 3 calls with ")


def test_more_bytes_than_were_granted_end_the_session(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination_session, "CREDIT_NBYTES", 10)
    serving.load()
    serving.call(2, Run(handle=1), np.zeros(7, np.uint8))
    serving.call(3, Run(handle=1), np.zeros(4, np.uint8))
    lost = serving.lost.get(timeout=20)
    assert isinstance(lost, ProtocolError)
    assert "a call of 4 bytes after 1 unanswered ones with 7 bytes" in str(lost)


def test_one_call_alone_may_be_larger_than_what_was_granted(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination_session, "CREDIT_NBYTES", 10)
    serving.load()
    serving.executor.let_go.release(2)
    for number in (2, 3):
        serving.call(number, Run(handle=1), np.zeros(100, np.uint8))
        assert serving.answer().arrays[0].nbytes == 100


def test_a_message_that_is_of_uploads_ends_the_session(serving: Serving) -> None:
    serving.host.send(messages.Chunk(digest="d", index=0), 0, [ONE_BYTE])
    assert "Chunk is not expected in a session" in str(serving.ended.get(timeout=20))


def test_an_offer_of_what_is_missing_is_answered_by_the_missing_chunks(serving: Serving) -> None:
    manifest = manifest_of_bytes(b"model")
    serving.call(1, Offer(digest=manifest.digest, nbytes=5), np.frombuffer(manifest.chunks, np.uint8))
    assert serving.answer().message == messages.Want(manifest.digest, ((0, 1),))


def test_an_offer_that_contradicts_itself_fails_and_the_session_goes_on(serving: Serving) -> None:
    serving.call(1, Offer(digest="0" * 64, nbytes=5))
    message = serving.answer().message
    assert isinstance(message, Failed)
    assert isinstance(message.error, ErrorRecord)
    assert message.error.code == "invalid-argument"
    serving.load(2)


@pytest.fixture
def resumable(tmp_path: Path) -> Iterator[Serving]:
    yield from _serving(tmp_path, resume_s=20.0)


def test_a_call_buffered_from_an_older_connection_is_carried_out_once(resumable: Serving) -> None:
    """The older connection's calls that have arrived count as received; of the rest nothing is taken."""
    resumable.load()
    for number in (2, 3):  # 2 is under way, 3 waits
        resumable.call(number, Run(handle=1, body=b"%d" % number))
    await_true(lambda: resumable.session._received == 3, "both have arrived")
    with open_pair() as (ours, theirs):
        resumable.session.resume(Channel(theirs, "destination", PATIENT), 2, 1)
        host = Channel(ours, "host", PATIENT)
        welcome = host.receive().message
        assert isinstance(welcome, messages.Welcome)
        assert (welcome.received, welcome.secret) == (3, "")
        with pytest.raises(SessionLost):  # fenced off
            while True:
                resumable.call(4, Run(handle=1, body=b"old"))
        host.send(Run(handle=1, body=b"new"), 4)
        resumable.executor.let_go.release(3)
        assert [(frame.number, frame.message.body) for frame in (host.receive() for _ in range(3))] == [
            (2, b"2"), (3, b"3"), (4, b"new"),
        ]  # fmt: skip
        host.send(Goodbye())
        host.discard(5.0)


def test_a_frame_that_an_older_connection_completes_too_late_is_not_taken(resumable: Serving) -> None:
    resumable.load()
    frame = b"".join(encode(Run(handle=1, body=b"late"), 2))
    resumable.host.send_encoded([frame[:-1]])
    with open_pair() as (ours, theirs):
        resumable.session.resume(Channel(theirs, "destination", PATIENT), 2, 1)
        host = Channel(ours, "host", PATIENT)
        assert host.receive().message.received == 1
        with suppress(SessionLost):
            resumable.host.send_encoded([frame[-1:]])
        resumable.executor.let_go.release()
        host.send(Run(handle=1, body=b"again"), 2)
        frame_back = host.receive()
        assert (frame_back.number, frame_back.message.body) == (2, b"again")
        host.send(Goodbye())
        host.discard(5.0)


def test_an_answer_that_nobody_waits_for_comes_with_the_next(serving: Serving) -> None:
    serving.load()
    for number, body in enumerate((b"late", b"late", b"now"), 2):
        serving.call(number, Run(handle=1, body=body))
    serving.executor.let_go.release(3)
    assert [serving.answer().number for _ in range(3)] == [2, 3, 4]


def test_an_answer_that_nobody_waits_for_comes_though_nothing_follows(serving: Serving) -> None:
    serving.load()
    serving.executor.let_go.release()
    serving.call(2, Run(handle=1, body=b"late"))
    assert serving.answer().number == 2


def test_a_failure_after_answers_that_nobody_waits_for_comes_after_them(serving: Serving) -> None:
    serving.load()
    serving.executor.let_go.release(2)
    serving.call(2, Run(handle=1, body=b"late"))
    serving.call(3, Run(handle=1, body=b"fail"))
    assert serving.answer().number == 2
    assert isinstance(serving.answer().message, Failed)


def test_a_call_that_finds_no_memory_fails_in_its_turn_and_the_session_goes_on(serving: Serving) -> None:
    serving.load()
    serving.call(2, Run(handle=1, body=b"before"), ONE_BYTE)
    serving.call(3, Run(handle=1), ONE_BYTE, TOO_LARGE)
    serving.call(4, Run(handle=1, body=b"after"), np.ones(100_000, np.uint8))
    serving.executor.let_go.release(2)
    assert serving.answer().message.body == b"before"
    failed = serving.answer()
    assert (failed.number, failed.message.error.code) == (3, "out-of-memory")
    assert f"{POOL_NBYTES} bytes are allowed" in failed.message.error.message
    after = serving.answer()
    assert (after.message.body, after.arrays[0].sum()) == (b"after", 100_000)
    assert not serving.pool._taken


def test_a_load_that_finds_no_memory_makes_nothing(serving: Serving) -> None:
    serving.call(1, Load(handle=1, format="held"), TOO_LARGE)
    assert serving.answer().message.error.code == "out-of-memory"
    serving.load(2)  # of the same handle


def test_a_call_that_finds_no_memory_has_arrived_and_its_failure_is_kept_for_a_host_that_comes_back(
    resumable: Serving,
) -> None:
    resumable.load()
    resumable.call(2, Run(handle=1, body=b"under way"))
    resumable.call(3, Run(handle=1), TOO_LARGE)
    frame = b"".join(bytes(each) for each in encode(Run(handle=1), 4, [TOO_LARGE]))
    resumable.host.send_encoded([frame[: -len(TOO_LARGE) // 2]])  # and breaks
    await_true(lambda: resumable.session._received == 3, "it has arrived")
    with open_pair() as (ours, theirs):
        resumable.session.resume(Channel(theirs, "destination", PATIENT), 2, 1)
        host = Channel(ours, "host", PATIENT)
        assert host.receive().message.received == 3
        resumable.executor.let_go.release(2)
        assert host.receive().message.body == b"under way"
        failed = host.receive()
        assert (failed.number, failed.message.error.code) == (3, "out-of-memory")
        host.send(Run(handle=1, body=b"on"), 4)
        assert host.receive().message.body == b"on"
        host.send(Goodbye())
        host.discard(5.0)


def test_a_tensor_that_finds_no_memory_to_be_decoded_into_fails_its_call(serving: Serving) -> None:
    serving.load()
    zeros = mask.encode(np.zeros(POOL_NBYTES, np.float32), Learned())
    assert zeros is not None
    part = Encoded(PartSpec("float32", (POOL_NBYTES,), "mask", zeros.nbytes), zeros)
    serving.call(2, Run(handle=1), part)
    assert serving.answer().message.error.code == "out-of-memory"
    serving.executor.let_go.release()
    serving.call(3, Run(handle=1, body=b"on"))
    assert serving.answer().message.body == b"on"
    assert not serving.pool._taken


def test_whatever_else_fails_in_receiving_ends_the_session(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    serving.load()
    serving.call(2, Run(handle=1), np.zeros(BROKEN_NBYTES, np.uint8))
    for told in (serving.lost, serving.ended):
        lost = told.get(timeout=20)
        assert isinstance(lost, DestinationError)
        assert str(lost) == "receiving failed: LookupError('no allocator')"
    with pytest.raises(SessionLost):
        serving.answer()
    assert "in _allocate" in caplog.text


@pytest.mark.parametrize("message", [Run(handle=1), messages.Chunk(digest="d")])
def test_the_memory_of_what_is_not_taken_is_given_back(resumable: Serving, message: Message) -> None:
    """Of an older connection's complete frame, of what a session does not take."""
    resumable.load()
    await_true(lambda: not resumable.pool._taken, "the load's is given back")
    resumable.session._epoch += isinstance(message, Run)  # as between a newer connection and the end of the older
    resumable.call(2, message, np.zeros(1 << 20, np.uint8))
    with pytest.raises(SessionLost):
        resumable.answer()
    await_true(lambda: not resumable.pool._taken, "nothing is taken")
    resumable.session.vacate("nobody comes")


def test_the_memory_of_a_broken_frame_is_given_back_before_its_host_comes_back(resumable: Serving) -> None:
    resumable.load()
    frame = b"".join(bytes(each) for each in encode(Run(handle=1), 2, [np.zeros(1 << 20, np.uint8)]))
    resumable.host.send_encoded([frame[:-1]])
    await_true(lambda: bool(resumable.pool._taken), "it is being received")
    resumable.host.abort()
    await_true(lambda: not resumable.pool._taken, "it is given back")
    resumable.session.drain("nobody comes")
