"""Any thread may use a session, and each gets what it asked for, errors included."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest

from avec.interception.onnxruntime.space import space
from onnx_models import doubling

CUDA = ["CUDAExecutionProvider"]


def test_threads_that_share_a_session_get_their_own_results_and_errors(ort: ModuleType) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    refused = ort.capi.onnxruntime_pybind11_state.InvalidArgument

    def work(thread: int) -> int:
        errors = 0
        for turn in range(40):
            x = np.full((2, 3), 100 * thread + turn, np.float32)
            if (thread + turn) % 5 == 0:
                with pytest.raises(refused, match=rf"Got: {thread + 4} Expected: 3"):
                    session.run(None, {"x": np.zeros((2, thread + 4), np.float32)})
                errors += 1
            np.testing.assert_array_equal(session.run(None, {"x": x})[0], x * 2)
        return errors

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [8] * 6


def test_callbacks_come_in_the_order_of_the_runs(ort: ModuleType) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    seen: list[tuple[int, float]] = []
    done = threading.Event()

    def called(results: list[np.ndarray], turn: int, error: str) -> None:
        assert error == ""
        seen.append((turn, float(results[0][0, 0])))
        if turn == 19:
            done.set()

    x = np.zeros((1, 3), np.float32)
    for turn in range(20):
        x[:] = turn
        session.run_async(None, {"x": x}, called, turn)
    assert done.wait(30)
    assert seen == [(turn, 2.0 * turn) for turn in range(20)]


@pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_raises_does_not_stop_the_next(ort: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    done = threading.Event()

    def failing(results: object, data: object, error: str) -> None:
        raise KeyError("the application's own")

    x = np.zeros((1, 3), np.float32)
    session.run_async(None, {"x": x}, failing, None)
    session.run_async(None, {"x": x}, lambda results, data, error: done.set(), None)
    assert done.wait(30)
    assert 'KeyError: "the application\'s own"' in capsys.readouterr().err


def test_sessions_and_bindings_that_are_gone_leave_nothing_behind(ort: ModuleType) -> None:
    made = doubling().SerializeToString()
    for _ in range(3):
        session = ort.InferenceSession(made, providers=CUDA)
        binding = session.io_binding()
        binding.bind_cpu_input("x", np.ones((1, 3), np.float32))
        binding.bind_output("y", "cuda")
        session.run_with_iobinding(binding)
        handle = session._sess.handle
        del session, binding
        gc.collect()
        assert handle not in space()._unbound
