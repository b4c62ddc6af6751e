"""When calls are sent and waited for: setters go along with the next call, results may be waited for later."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from avec.host.session import Session
from avec.interception import active, opencv_dnn
from avec.interception.opencv_dnn import remote
from interception.opencv_dnn import other_models
from interception.opencv_dnn.conftest import DESTINATION_PYTHON

SECOND_NS = 1_000_000_000


@pytest.fixture
def session(opencv_destination: str) -> Iterator[Session]:
    """OpenCV as it is under AVEC in this process, and the session that it uses."""
    opencv_dnn.patch(cv2)
    active.choose(opencv_destination, local=False)
    yield active.session()
    active.leave()
    opencv_dnn.unpatch(cv2)


@pytest.fixture
def net(session: Session, models: Path) -> cv2.dnn.Net:
    """A net at the destination."""
    return cv2.dnn.readNet(str(models / "classification.onnx"))


def blob(seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 3, size, size)).astype(np.float32)


def names_of_calls(session: Session) -> list[str]:
    return [cycle.name for cycle in session.recorder.cycles if cycle.name.startswith("opencv.")]


def test_a_frame_is_one_message(net: cv2.dnn.Net, session: Session) -> None:
    net.setInput(blob())  # the first of its kind is waited for
    for seed in range(3):
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
        net.setInput(blob(seed))
        net.forward()
    assert names_of_calls(session) == ["opencv.load", "opencv.setInput", *["opencv.forward"] * 3]


def test_a_large_input_is_on_its_way_before_the_net_is_run(session: Session, models: Path) -> None:
    net = cv2.dnn.readNet(str(models / "maps.onnx"))
    size = 512
    assert blob(0, size).nbytes > remote.COPY_LIMIT
    results = []
    for seed in range(2):
        net.setInput(blob(seed, size))
        results.append(net.forward())
    assert names_of_calls(session) == ["opencv.load", *["opencv.setInput", "opencv.forward"] * 2]
    assert not np.array_equal(results[0], results[1])


def test_setters_without_end_are_sent_after_a_while(net: cv2.dnn.Net, session: Session) -> None:
    for _ in range(2 * remote.DEFERRED_LIMIT):
        net.enableWinograd(True)
    net.empty()
    assert names_of_calls(session) == ["opencv.load", "opencv.enableWinograd", "opencv.enableWinograd", "opencv.empty"]


def test_a_later_result_is_that_of_its_input(net: cv2.dnn.Net) -> None:
    pending, expected = [], []
    for seed in range(5):
        net.setInput(blob(seed))
        pending.append(net.forwardAsync())
    for seed in range(5):
        net.setInput(blob(seed))
        expected.append(net.forward())
    for each, wanted in zip(pending, expected, strict=True):
        assert each.valid()
        assert each.wait_for(60 * SECOND_NS)
        assert np.array_equal(each.get(), wanted)


def test_a_later_result_may_be_given_in_an_array(net: cv2.dnn.Net) -> None:
    net.setInput(blob())
    target = np.zeros((1, 5), np.float32)
    given = net.forwardAsync("scores").get(target)
    assert given is target and target.any()
    there, given = net.forwardAsync().get(60 * SECOND_NS)
    assert there and np.array_equal(given, target)


def test_a_result_that_was_released_is_none(net: cv2.dnn.Net) -> None:
    net.setInput(blob())
    pending = net.forwardAsync()
    pending.release()
    assert not pending.valid()
    with pytest.raises(cv2.error, match="released"):
        pending.get()


def test_a_failure_comes_with_the_result_and_the_net_goes_on(net: cv2.dnn.Net) -> None:
    net.setInput(blob())
    expected = net.forward()
    pending = net.forwardAsync("nothing")
    with pytest.raises(cv2.error, match="nothing"):
        pending.get()
    net.setInput(blob())
    assert np.array_equal(net.forward(), expected)


def test_a_failed_setter_is_told_by_the_next_call(session: Session, models: Path) -> None:
    used = cv2.dnn.ClassificationModel(str(models / "classification.onnx"))
    used.setInputSize("no", "size")
    with pytest.raises(cv2.error, match="setInputSize"):
        used.classify(np.zeros((16, 16, 3), np.uint8))
    used.setInputSize(16, 16)
    assert isinstance(used.classify(np.zeros((16, 16, 3), np.uint8)), tuple)


def test_a_caffe_net_may_be_waited_for_later_as_well(session: Session, models: Path) -> None:
    net = cv2.dnn.readNet(str(models / "branches.prototxt"), str(models / "branches.caffemodel"))
    pending, expected = [], []
    for seed in range(3):
        net.setInput(blob(seed))
        pending.append(net.forwardAsync())
    for seed in range(3):
        net.setInput(blob(seed))
        expected.append(net.forward())
    for each, wanted in zip(pending, expected, strict=True):
        assert np.array_equal(each.get(), wanted)


def test_nets_of_several_threads_do_not_mix(session: Session, models: Path) -> None:
    results: dict[int, np.ndarray] = {}

    def compute(seed: int) -> None:
        net = cv2.dnn.readNet(str(models / "classification.onnx"))
        for _ in range(5):
            net.setInput(blob(seed))
            results[seed] = net.forward()

    threads = [threading.Thread(target=compute, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, result in results.items():
        net = cv2.dnn.readNet(str(models / "classification.onnx"))
        net.setInput(blob(seed))
        assert np.array_equal(net.forward(), result)


def test_the_destination_forgets_a_net_that_nobody_holds(session: Session, models: Path) -> None:
    released: list[int] = []
    original, session.release = session.release, released.append  # type: ignore[method-assign]
    net = cv2.dnn.readNet(str(models / "classification.onnx"))
    used = cv2.dnn.ClassificationModel(net)
    del net
    assert released == []
    del used
    assert len(released) == 2
    session.release = original  # type: ignore[method-assign]


@pytest.mark.skipif(
    cv2.__version__.startswith("4.") or DESTINATION_PYTHON != sys.executable,
    reason="OpenCV 4 has no external data, and divides by zero without it",
)
def test_files_beside_a_model_go_along(session: Session, models: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    other_models.with_external_data(models / "classification.onnx", tmp_path / "model.onnx", "weights/all.bin")
    results = []
    for path in (models / "classification.onnx", tmp_path / "model.onnx"):
        net = cv2.dnn.readNet(str(path))
        net.setInput(blob())
        results.append(net.forward())
    assert np.array_equal(*results)
    assert "all.bin" in [transfer.name for transfer in session.recorder.transfers]


def test_the_times_are_the_destinations(net: cv2.dnn.Net, session: Session) -> None:
    net.setInput(blob())
    net.forward()
    ticks, layers = net.getPerfProfile()
    (cycle,) = [cycle for cycle in session.recorder.cycles if cycle.name == "opencv.forward"]
    assert 0 < ticks / cv2.getTickFrequency() <= sum(cycle.stages_ns) / 1e9
    assert len(layers) > 0
