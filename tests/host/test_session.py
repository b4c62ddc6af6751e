"""A session with a real destination: order, pipelining, late errors, credit, ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from avec.config import Settings
from avec.destination.session import CREDIT_CALLS, CREDIT_NBYTES
from avec.errors import InvalidArgument, SessionLost, UnsupportedOperation
from avec.host.calls import Call
from avec.host.session import Session, probe
from destinations import SLOW, SLOW_SHAPE, Destination, Net, await_true, floats, relu
from relay import Relay

Open = Callable[..., Session]
PATIENT_S = 60.0


def patient(settings: Settings) -> Settings:
    """Settings under which a stopped worker is not taken for lost."""
    return replace(settings, heartbeat_s=PATIENT_S)


def failing(session: Session, nbytes: int = 0) -> Call:
    """A call that fails: nothing has handle 999."""
    return session.run(999, "test.fail", b"", [np.zeros(nbytes, np.uint8)] if nbytes else [])


class Stopped:
    """A worker that does nothing for the length of a test's block, and goes on afterwards."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *exc_info: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


def open_with_worker(destination: Destination, open_session: Open, settings: Settings) -> tuple[Session, int]:
    before = destination.workers()
    session = open_session(settings=settings)
    return session, destination.new_worker(before)


def test_the_welcome_tells_accelerator_formats_and_credit(open_session: Open) -> None:
    session = open_session()
    assert session.accelerator.kind in ("cpu", "cuda")
    assert "caffe" in session.welcome.formats
    assert (session.welcome.credit_calls, session.welcome.credit_nbytes) == (CREDIT_CALLS, CREDIT_NBYTES)


def test_a_call_gives_its_result(open_session: Open) -> None:
    (array,) = relu(open_session()).forward(floats(-1, 2, -3, 4)).wait().arrays
    np.testing.assert_array_equal(array, floats(0, 2, 0, 4))


def test_calls_are_answered_in_order_although_none_was_waited_for(open_session: Open) -> None:
    net = relu(open_session())
    calls = [net.forward(floats(number, -1, 0, 1)) for number in range(100)]
    assert [call.wait().arrays[0][0] for call in calls] == list(range(100))


def test_calls_are_sent_before_anything_is_waited_for(
    destination: Destination, open_session: Open, settings: Settings
) -> None:
    session, worker = open_with_worker(destination, open_session, patient(settings))
    net = relu(session)
    with Stopped(worker):
        calls = [net.forward(floats(number, 0, 0, 0)) for number in range(50)]
        for call in calls:
            call.wait_sent()
        assert not any(call.done for call in calls)
    assert [call.wait().arrays[0][0] for call in calls] == list(range(50))


def test_a_call_may_be_waited_for_twice(open_session: Open) -> None:
    call = relu(open_session()).forward(floats(1, 2, 3, 4))
    assert call.wait() is call.wait()


def test_a_result_is_received_into_the_memory_that_was_given(open_session: Open) -> None:
    net, target = relu(open_session()), np.zeros(4, np.float32)
    (array,) = net.forward(floats(1, 2, 3, 4), into=target).wait().arrays
    assert array is target
    np.testing.assert_array_equal(target, floats(1, 2, 3, 4))


@pytest.mark.parametrize("kind", ["of another shape", "of another dtype", "with gaps", "read-only"])
def test_memory_that_does_not_fit_the_result_is_passed_over(open_session: Open, kind: str) -> None:
    read_only = np.zeros(4, np.float32)
    read_only.flags.writeable = False
    target = {
        "of another shape": np.zeros(3, np.float32),
        "of another dtype": np.zeros(4, np.float64),
        "with gaps": np.zeros(8, np.float32)[::2],
        "read-only": read_only,
    }[kind]
    (array,) = relu(open_session()).forward(floats(1, 2, 3, 4), into=target).wait().arrays
    np.testing.assert_array_equal(array, floats(1, 2, 3, 4))
    assert not target.any()


def test_a_failed_call_says_where_it_was_made_and_where_it_failed(open_session: Open) -> None:
    call = failing(open_session())
    with pytest.raises(InvalidArgument, match="handle 999 names nothing in this session") as caught:
        call.wait()
    remote, local = caught.value.__notes__
    assert "Traceback at the destination:" in remote
    assert "destination/session.py" in remote
    line = failing.__code__.co_firstlineno + 2
    assert local == f"The failing call was test.fail, made at {__file__}:{line}."


def test_a_late_error_is_raised_at_the_next_wait_on_the_same_handle(open_session: Open) -> None:
    session = open_session()
    net = relu(session)
    wrong = net.forward(floats(1, 2, 3))
    later = net.forward(floats(1, 2, 3, 4))
    with pytest.raises(InvalidArgument, match="3 values") as caught:
        later.wait()
    assert caught.value is wrong.error
    assert later.wait().arrays[0][3] == 4  # it was raised once, and this call itself succeeded


def test_errors_of_several_calls_are_raised_one_at_each_wait_the_earliest_first(open_session: Open) -> None:
    net = relu(open_session())
    calls = [net.forward(floats(*range(count))) for count in (1, 2, 4)]
    raised = []
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            calls[2].wait()
        raised.append(caught.value)
    assert raised == [calls[0].error, calls[1].error]
    assert calls[2].wait().arrays[0][3] == 3


def test_an_error_of_one_handle_is_not_raised_at_another(open_session: Open) -> None:
    session = open_session()
    first, second = relu(session), relu(session)
    first.forward(floats(1))
    assert second.forward(floats(1, 2, 3, 4)).wait().arrays[0][3] == 4


def test_an_error_of_a_later_call_is_not_raised_at_an_earlier_one(open_session: Open) -> None:
    net = relu(open_session())
    good, wrong = net.forward(floats(1, 2, 3, 4)), net.forward(floats(1))
    await_true(lambda: wrong.done, "the later call is answered")
    assert good.wait().arrays[0][0] == 1


def test_a_failure_that_no_wait_has_raised_is_undelivered_until_one_does(open_session: Open) -> None:
    session = open_session()
    call = failing(session)
    await_true(lambda: call.done, "the call is answered")
    assert session.undelivered() == [call.error]
    with pytest.raises(InvalidArgument):
        call.wait()
    assert session.undelivered() == []


def test_a_session_goes_on_after_a_failed_call(open_session: Open) -> None:
    session = open_session()
    with pytest.raises(InvalidArgument):
        failing(session).wait()
    assert relu(session).forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1


def test_an_unknown_format_is_refused_with_what_there_is(open_session: Open) -> None:
    session = open_session()
    with pytest.raises(UnsupportedOperation, match="no executor for the format 'tensorrt'; it has caffe"):
        session.load(session.new_handle(), "tensorrt", b"").wait()


def test_a_handle_in_use_is_refused(open_session: Open) -> None:
    session = open_session()
    net = relu(session)
    with pytest.raises(InvalidArgument, match=f"handle {net.handle} is in use"):
        session.load(net.handle, "caffe", b"").wait()


def test_a_released_handle_names_nothing(open_session: Open) -> None:
    session = open_session()
    net = relu(session)
    session.release(net.handle)
    with pytest.raises(InvalidArgument, match=f"handle {net.handle} names nothing"):
        net.forward(floats(1, 2, 3, 4)).wait()


def test_a_handle_is_released_after_the_calls_made_before(open_session: Open) -> None:
    session = open_session()
    net = relu(session)
    call = net.forward(floats(1, 2, 3, 4))
    session.release(net.handle)
    assert call.wait().arrays[0][0] == 1


def test_an_array_that_cannot_be_sent_is_refused_where_the_call_is_made(open_session: Open) -> None:
    session = open_session()
    net = relu(session)
    with pytest.raises(ValueError, match="not contiguous"):
        session.run(net.handle, "x", b"", [np.zeros((2, 3)).T])
    assert net.forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1


def test_a_call_that_was_refused_here_gives_its_credit_back(open_session: Open) -> None:
    session = open_session()
    for _ in range(CREDIT_CALLS + 1):
        with pytest.raises(ValueError, match="not contiguous"):
            session.run(1, "x", b"", [np.zeros((2, 3)).T])


def test_a_host_holds_no_more_calls_than_the_destination_grants(
    destination: Destination, open_session: Open, settings: Settings
) -> None:
    session, worker = open_with_worker(destination, open_session, patient(settings))
    array = np.zeros(CREDIT_NBYTES // 4, np.uint8)
    calls: list[Call] = []

    def issue() -> None:
        while len(calls) < 6:
            calls.append(session.run(999, "test.fail", b"", [array]))

    issuer = threading.Thread(target=issue)
    with Stopped(worker):
        issuer.start()
        await_true(lambda: len(calls) == 4, "the credit is used up")
        issuer.join(0.2)
        assert len(calls) == 4
    issuer.join()
    for call in calls:
        with pytest.raises(InvalidArgument):
            call.wait()


def test_many_threads_share_a_session(open_session: Open) -> None:
    session = open_session()

    def use(number: int) -> list[float]:
        net = relu(session)
        return [float(net.forward(floats(number, each, 0, 0)).wait().arrays[0].sum()) for each in range(20)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(use, range(4)))
    assert results == [[float(number + each) for each in range(20)] for number in range(4)]


def test_one_call_may_be_waited_for_by_many_threads(open_session: Open) -> None:
    call = relu(open_session()).forward(floats(1, 2, 3, 4))
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: call.wait(), range(4)))
    assert all(reply is replies[0] for reply in replies)


def test_closing_ends_the_worker(destination: Destination, open_session: Open, settings: Settings) -> None:
    session, worker = open_with_worker(destination, open_session, settings)
    session.close()
    await_true(lambda: worker not in destination.workers(), "the worker has ended")


def test_closing_twice_is_harmless(open_session: Open) -> None:
    session = open_session()
    session.close()
    session.close()


def test_a_call_under_way_at_closing_ends(open_session: Open) -> None:
    session = open_session()
    call = Net(session, SLOW, SLOW_SHAPE, wait=False).forward(np.zeros(SLOW_SHAPE, np.float32))
    session.close()
    assert call.done


def test_after_closing_no_call_can_be_made(open_session: Open) -> None:
    session = open_session()
    session.close()
    with pytest.raises(SessionLost, match="the session with tcp://.* is lost"):
        failing(session)


def test_closing_takes_bounded_time_although_the_destination_does_not_answer(
    destination: Destination, open_session: Open, settings: Settings
) -> None:
    leaving = replace(patient(settings), resume_timeout_s=0.0)  # so that the worker does not wait for it in vain
    session, worker = open_with_worker(destination, open_session, leaving)
    with Stopped(worker):
        session.run(999, "test.fail", b"", [np.zeros(64 << 20, np.uint8)])
        began_s = time.monotonic()
        session.close(timeout_s=0.2)
        assert time.monotonic() - began_s < 5


def test_profiles_split_a_call_into_its_stages_and_count_its_bytes(open_session: Open) -> None:
    session = open_session()
    relu(session).forward(floats(1, 2, 3, 4)).wait()
    load, forward = session.recorder.cycles
    assert (load.name, forward.name) == ("caffe.load", "caffe.forward")
    assert (forward.tensor_nbytes_up, forward.tensor_nbytes_down) == (16, 16)
    assert forward.wire_nbytes_up > 16 + 24
    assert forward.kernels >= 1
    assert min(forward.stages_ns) >= 0
    assert forward.stages_ns[3] > 0


def test_profiles_say_for_how_long_the_application_was_blocked(open_session: Open) -> None:
    with Relay(open_session().url) as relay:
        relay.down.delay_s = 0.1
        session = open_session(url=relay.url)
        net = relu(session)
        asked_early = net.forward(floats(1, 2, 3, 4))
        asked_early.wait()
        asked_late = net.forward(floats(1, 2, 3, 4))
        asked_late.wait_ended()
        asked_late.wait()
        early, late = session.recorder.cycles[-2:]
        session.close()
    assert (early.waited, late.waited) == (True, False)
    assert early.blocked_ns >= 100_000_000 > late.blocked_ns


def test_the_bytes_of_profiles_are_the_bytes_on_the_wire(
    destination: Destination, open_session: Open, settings: Settings
) -> None:
    with Relay(destination.url) as relay:
        session = open_session(url=relay.url, settings=patient(settings))
        net = relu(session, 100_000)
        relay.up.wait_for(1)
        before = relay.up.nbytes, relay.down.nbytes
        net.forward(np.zeros(100_000, np.float32)).wait()
        cycle = session.recorder.cycles[-1]
        relay.down.wait_for(before[1] + cycle.wire_nbytes_down)  # it counts what it has sent, perhaps after that came
        up, down = relay.up.nbytes - before[0], relay.down.nbytes - before[1]
        pings = 1000  # at most: signs of life of the destination, and their answers
        assert 0 <= up - cycle.wire_nbytes_up <= pings
        assert 0 <= down - cycle.wire_nbytes_down <= pings
        session.close()


def test_closing_notes_where_the_calls_went(destination: Destination, open_session: Open) -> None:
    session = open_session()
    session.close()
    origin = session.recorder.origin
    assert origin is not None
    assert (origin.destination, origin.numerics) == (destination.url, "strict")
    assert origin.round_trip_ms > 0


def test_a_probe_tells_the_status_without_a_session(destination: Destination, settings: Settings) -> None:
    before = destination.workers()
    status = probe(destination.url, settings)
    assert "caffe" in status.formats
    assert status.accelerators[0].memory_nbytes > 0
    assert not destination.workers() - before
