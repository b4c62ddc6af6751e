"""What is replaced in OpenCV, that it is put back exactly, and that importing OpenCV starts nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import pytest

import avec
from avec.errors import ConfigurationError
from avec.interception import opencv_dnn
from launching import UNDER_AVEC, execute

OWNERS = {"cv2": cv2, "cv2.dnn": cv2.dnn, "cv2.gapi": getattr(cv2, "gapi", cv2)}
REPLACED_IN_DNN = {
    "ClassificationModel", "DetectionModel", "KeypointsModel", "Layer", "Model", "Net", "SegmentationModel",
    "TextDetectionModel", "TextDetectionModel_DB", "TextDetectionModel_EAST", "TextRecognitionModel",
    "getAvailableTargets", "readNet", "readNetFromModelOptimizer", "readNetFromONNX", "readNetFromTFLite",
    "readNetFromTensorflow",
}  # fmt: skip
ONLY_IN_4 = {"readNetFromDarknet", "readNetFromTorch"}
MAJOR = int(cv2.__version__.partition(".")[0])


def attributes() -> dict[str, dict[str, object]]:
    """All that OpenCV's modules have now."""
    found = {name: dict(vars(owner)) for name, owner in OWNERS.items()}
    for name, each in vars(cv2).items():
        if isinstance(each, type):
            found[f"cv2.{name}"] = {key: value for key, value in vars(each).items() if not key.startswith("__")}
    return found


@pytest.fixture
def patched() -> Iterator[ModuleType]:
    """OpenCV as it is under AVEC."""
    opencv_dnn.patch(cv2)
    yield cv2
    opencv_dnn.unpatch(cv2)


def test_patching_is_undone_exactly_however_often_it_was_done() -> None:
    before = attributes()
    for times in (1, 3):
        for _ in range(times):
            opencv_dnn.patch(cv2)
        assert attributes() != before
        opencv_dnn.unpatch(cv2)
        after = attributes()
        assert after.keys() == before.keys()
        for name in before:
            assert after[name].keys() == before[name].keys()
            assert [key for key in before[name] if after[name][key] is not before[name][key]] == []


def test_what_computes_nets_is_replaced_and_nothing_else() -> None:
    before = attributes()
    opencv_dnn.patch(cv2)
    after = attributes()
    opencv_dnn.unpatch(cv2)
    changed = {name for name, each in after["cv2.dnn"].items() if before["cv2.dnn"].get(name) is not each}
    assert changed == REPLACED_IN_DNN | {"readNetFromCaffe"} | (ONLY_IN_4 if MAJOR == 4 else set())
    changed = {name for name, each in after["cv2"].items() if before["cv2"].get(name) is not each}
    aliases = {f"dnn_{name}" for name in REPLACED_IN_DNN if name[0].isupper()} | {"dnn_registerLayer"}
    assert {name for name in changed if name.startswith("dnn_")} == aliases
    assert {name.partition("_")[0] for name in changed - aliases} <= {
        "FaceDetectorYN", "FaceRecognizerSF", "TrackerDaSiamRPN", "TrackerGOTURN", "TrackerNano", "TrackerVit",
        "ALIKED", "LightGlueMatcher",
    }  # fmt: skip
    assert {"FaceDetectorYN", "FaceRecognizerSF_create", "TrackerVit_create"} <= changed


def test_a_replacement_by_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = cv2.dnn.readNet
    opencv_dnn.patch(cv2)
    replaced = cv2.dnn.readNet
    cv2.dnn.readNet = others = lambda path: path
    with pytest.raises(ConfigurationError, match="readNet"):
        opencv_dnn.unpatch(cv2)
    assert cv2.dnn.readNet is others
    assert replaced is not original
    cv2.dnn.readNet = original


def test_importing_opencv_starts_nothing_and_imports_what_calls_need_later() -> None:
    code = """
import json, sys, threading
import cv2
print(json.dumps({
    "threads": threading.active_count(),
    "modules": [name for name in sys.modules if name.startswith("avec.")],
    "resized": cv2.resize(cv2.UMat(2, 2, cv2.CV_8U).get(), (4, 4)).shape,
    "native": type(cv2.resize).__name__,
}))
"""
    status, stdout, stderr = execute(*UNDER_AVEC, "-c", code)
    assert (status, stderr) == (0, "")
    said = json.loads(stdout)
    assert said["threads"] == 1
    assert said["resized"] == [4, 4]
    assert said["native"] == "builtin_function_or_method"
    assert "avec.interception.opencv_dnn" in said["modules"]
    for heavy in ("avec.host", "avec.communication", "avec.protocol", "avec.modelcache"):
        assert not [name for name in said["modules"] if name.startswith(heavy)]


def test_release_gives_opencv_back() -> None:
    before = cv2.dnn.Net
    avec.intercept("tcp://127.0.0.1:1")
    assert cv2.dnn.Net is not before
    avec.release()
    assert cv2.dnn.Net is before


def test_nets_may_be_asked_of_cuda_but_not_pictures(patched: ModuleType) -> None:
    assert patched.dnn.getAvailableTargets(cv2.dnn.DNN_BACKEND_CUDA).tolist() == [cv2.dnn.DNN_TARGET_CUDA]
    assert cv2.dnn.DNN_TARGET_CPU in patched.dnn.getAvailableTargets(cv2.dnn.DNN_BACKEND_OPENCV)
    opencv_dnn.unpatch(cv2)
    count = cv2.cuda.getCudaEnabledDeviceCount()
    opencv_dnn.patch(cv2)
    assert patched.cuda.getCudaEnabledDeviceCount() == count


def test_what_would_compute_here_is_refused_by_name(patched: ModuleType) -> None:
    with pytest.raises(cv2.error, match="dnn_registerLayer does not work under AVEC"):
        patched.dnn_registerLayer("Mine", object)
    with pytest.raises(cv2.error, match="readNetFromModelOptimizer does not work under AVEC"):
        patched.dnn.readNetFromModelOptimizer("a.xml", "a.bin")
    with pytest.raises(cv2.error, match=r"Net\.readFromModelOptimizer does not work under AVEC"):
        patched.dnn.Net.readFromModelOptimizer("a.xml", "a.bin")
    with pytest.raises(cv2.error, match=r"dumpToPbtxt does not work under AVEC"):
        patched.dnn.Net().dumpToPbtxt("net.pbtxt")
    if MAJOR >= 5:
        with pytest.raises(cv2.error, match="ALIKED_create does not work under AVEC"):
            patched.ALIKED_create("model.onnx")


@pytest.mark.skipif(MAJOR < 5, reason="OpenCV 4.14 has nothing that takes a net and is not replaced")
def test_opencv_does_not_take_a_net_of_the_destination_for_one_of_this_host(patched: ModuleType) -> None:
    with pytest.raises(cv2.error, match="Expected cv::dnn::Net"):
        patched.mcc.CCheckerDetector.create(patched.dnn.Net())


def test_a_net_that_cannot_be_read_needs_no_destination(patched: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(cv2.error, match="nowhere"):
        patched.dnn.readNetFromONNX(str(tmp_path / "nowhere.onnx"))
