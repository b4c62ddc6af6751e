"""A session survives its worker and its destination: another worker gets the state that the first had.

Whole programs are in `tests/recovery`; here is what they would hardly meet.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from avec.communication.channel import Channel
from avec.config import Settings
from avec.errors import InvalidArgument, SessionLost
from avec.formats.caffe.message import message_class
from avec.host import recovery
from avec.host.journal import READS
from avec.host.models import provide
from avec.host.session import Session
from avec.protocol.caffe import WEIGHTS, BlobRef, CopyFrom, Read
from destinations import SLOW, SLOW_SHAPE, Destination, Net, await_true, floats, relu, running

INNER = 'type: "InnerProduct" inner_product_param { num_output: 2 weight_filler { type: "xavier" } }'


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers are killed."""
    with running(tmp_path_factory.mktemp("destination"), OMP_NUM_THREADS="1") as destination:
        yield destination


@pytest.fixture
def session(destination: Destination, settings: Settings) -> Iterator[Session]:
    await_true(lambda: not destination.workers(), "the workers of other tests have ended")
    with Session(destination.url, settings) as session:
        yield session


def kill(destination: Destination) -> None:
    worker = destination.only_worker()
    os.kill(worker, signal.SIGKILL)
    await_true(lambda: worker not in destination.workers(), "the worker is gone")


def run(session: Session, net: Net, request: object, *arrays: np.ndarray, **how: object) -> list[np.ndarray]:
    body = msgspec.msgpack.encode(request)
    return list(session.run(net.handle, "test", body, arrays, **how).wait().arrays)  # type: ignore[arg-type]


def test_state_that_came_from_calls_is_there_again(destination: Destination, session: Session) -> None:
    net = Net(session, INNER, (1, 3))
    run(session, net, Read(writes=(BlobRef(0, 1),)), floats(1, 2, 3, 4, 5, 6))
    kill(destination)
    np.testing.assert_array_equal(net.forward(floats(1, 1, 1).reshape(1, 3)).wait().arrays[0], [[6, 15]])
    assert session.restarted == 1


def test_a_program_may_change_its_memory_once_it_has_waited(destination: Destination, session: Session) -> None:
    net = Net(session, INNER, (1, 3))
    weights = floats(1, 2, 3, 4, 5, 6)
    run(session, net, Read(writes=(BlobRef(0, 1),)), weights)
    weights[:] = 7
    kill(destination)
    np.testing.assert_array_equal(run(session, net, Read(wanted=(BlobRef(0, 1),)))[0].ravel(), [1, 2, 3, 4, 5, 6])


def test_a_call_that_failed_fails_again_and_the_session_goes_on(destination: Destination, session: Session) -> None:
    net = relu(session)
    net.forward(floats(1, -2, 3, 4)).wait()
    with pytest.raises(InvalidArgument):
        net.forward(floats(1, 2)).wait()
    kill(destination)
    assert run(session, net, Read(wanted=(BlobRef(1),)))[0].tolist() == [1, 0, 3, 4]


def test_released_handles_are_not_there_again(destination: Destination, session: Session) -> None:
    net, other = relu(session), relu(session)
    session.release(net.handle)
    other.forward(floats(1, -2, 3, 4)).wait()
    kill(destination)
    assert run(session, other, Read(wanted=(BlobRef(1),)))[0].tolist() == [1, 0, 3, 4]
    with pytest.raises(InvalidArgument, match="names nothing in this session"):
        net.forward(floats(1, 2, 3, 4)).wait()


def weights_of(values: np.ndarray) -> bytes:
    net = message_class("NetParameter")()
    layer = net.layer.add()
    layer.name, layer.type = "out", "InnerProduct"
    for array in (values, np.zeros(len(values), np.float32)):
        blob = layer.blobs.add()
        blob.shape.dim.extend(array.shape)
        blob.data.extend(array.ravel().tolist())
    data: bytes = net.SerializeToString()
    return data


def test_a_model_that_the_destination_no_longer_has_is_uploaded_again(
    destination: Destination, session: Session, settings: Settings
) -> None:
    net = Net(session, INNER, (1, 3))
    digest = provide(session, weights_of(floats(1, 2, 3, 4, 5, 6).reshape(2, 3)), settings)
    run(session, net, CopyFrom(source="test"), files={WEIGHTS: digest})
    stored = destination.cache_dir / "models" / "models" / digest
    stored.unlink()
    kill(destination)
    np.testing.assert_array_equal(net.forward(floats(1, 1, 1).reshape(1, 3)).wait().arrays[0], [[6, 15]])
    assert stored.exists()


def test_a_model_whose_file_has_changed_since_is_a_lost_session(
    destination: Destination, session: Session, settings: Settings, tmp_path: Path
) -> None:
    net = Net(session, INNER, (1, 3))
    file = tmp_path / "weights.caffemodel"
    file.write_bytes(weights_of(floats(1, 2, 3, 4, 5, 9).reshape(2, 3)))
    digest = provide(session, file, settings)
    run(session, net, CopyFrom(source="test"), files={WEIGHTS: digest})
    (destination.cache_dir / "models" / "models" / digest).unlink()
    file.write_bytes(weights_of(floats(1, 2, 3, 4, 5, 8).reshape(2, 3)))
    kill(destination)
    with pytest.raises(SessionLost, match="the destination has no longer the model"):
        net.forward(floats(1, 1, 1).reshape(1, 3)).wait()


def test_what_gives_something_else_when_made_again_is_a_lost_session(
    destination: Destination, session: Session
) -> None:
    net = Net(session, INNER, (1, 3))
    # Said only to read, a change of the weights is not kept: the pass after it will differ.
    run(session, net, Read(writes=(BlobRef(0, 1),)), floats(1, 2, 3, 4, 5, 6), effect=READS)
    net.forward(floats(1, 1, 1).reshape(1, 3)).wait()
    kill(destination)
    with pytest.raises(SessionLost, match="made again at another worker, has given something else"):
        net.forward(floats(1, 1, 1).reshape(1, 3)).wait()


def test_what_is_too_much_to_be_kept_is_a_lost_session_that_says_so(
    destination: Destination, settings: Settings
) -> None:
    with Session(destination.url, replace(settings, journal_limit_calls=50)) as session:
        net = relu(session)
        for _ in range(60):
            net.forward(floats(1, 2, 3, 4)).wait()
        kill(destination)
        with pytest.raises(SessionLost, match=r"cannot be rebuilt: \d+ calls with .* and 50 with .* are kept at most"):
            net.forward(floats(1, 2, 3, 4)).wait()


def test_a_call_that_kills_its_workers_is_a_lost_session_in_the_end(destination: Destination, session: Session) -> None:
    net = Net(session, SLOW, SLOW_SHAPE)
    over = threading.Event()

    def kill_all() -> None:
        while not over.wait(0.05):
            for worker in destination.workers():
                with suppress(ProcessLookupError):  # it was just reaped
                    os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    call = net.forward(np.ones(SLOW_SHAPE, np.float32))
    killer.start()
    try:
        with pytest.raises(SessionLost, match=f"{recovery.DEATHS_LIMIT} more workers have died of the call after 1"):
            call.wait()
    finally:
        over.set()
        killer.join()


def test_breaks_while_a_state_is_rebuilt_are_no_deaths_of_workers(
    destination: Destination, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = relu(session)
    net.forward(floats(1, -2, 3, 4)).wait()
    breaks, real = iter(range(recovery.DEATHS_LIMIT + 3)), recovery.rebuild

    def broken(channel: Channel, *state: Any) -> None:
        if next(breaks, None) is not None:
            channel.abort()
        real(channel, *state)

    monkeypatch.setattr(recovery, "rebuild", broken)
    kill(destination)
    assert net.forward(floats(5, -6, 7, 8)).wait().arrays[0].tolist() == [5, 0, 7, 8]
    assert next(breaks, None) is None
    await_true(lambda: len(destination.workers()) == 1, "the workers whose connections broke have been let go")


def test_with_recovery_off_a_dead_worker_is_a_lost_session_at_once(
    destination: Destination, settings: Settings
) -> None:
    with Session(destination.url, replace(settings, recovery="off")) as session:
        net = relu(session)
        kill(destination)
        with pytest.raises(SessionLost, match="it was not resumed: no such session waits for this host"):
            net.forward(floats(1, 2, 3, 4)).wait()


def test_calls_of_many_threads_at_a_death_are_all_answered(destination: Destination, session: Session) -> None:
    results: dict[int, list[float]] = {}

    def work(number: int) -> None:
        net = relu(session)
        results[number] = [float(net.forward(floats(n, 0, 0, 0)).wait().arrays[0][0]) for n in range(100)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    kill(destination)
    for thread in threads:
        thread.join()
    assert session.restarted == 1
    assert all(each == [float(n) for n in range(100)] for each in results.values())
    assert len(results) == 4
