"""The OpenCV executor by itself: what a host may ask of it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.opencv_dnn import OpenCvExecutor
from avec.destination.executors.opencv_dnn.choices import choose_for_maker, computing
from avec.destination.executors.opencv_dnn.objects import OpenCvObject
from avec.destination.executors.opencv_dnn.surface import MAKERS, METHODS
from avec.errors import ExecutionError, InvalidArgument, UnsupportedOperation
from avec.protocol.opencv_dnn import (
    File,
    Invocation,
    Invoke,
    Items,
    LoadRequest,
    Make,
    OpenCvError,
    OpenCvTypeError,
    Other,
    Part,
    Record,
    Reserve,
    Value,
    decode_value,
)
from interception.opencv_dnn import onnx_models

VERSION = cv2.__version__
INPUT = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def executor() -> OpenCvExecutor:
    return OpenCvExecutor(Accelerator("strict", cudnn_workspace_mb=256))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.classification(tmp_path_factory.mktemp("models") / "classification.onnx")


def encoded(request: object) -> bytes:
    return msgspec.msgpack.encode(request)


def make(method: str, *args: Value, version: str = VERSION, **kwargs: Value) -> Make:
    return Make(Invocation(method, args, kwargs), version)


def invoke(made: OpenCvObject, method: str, *args: Value, parts: tuple[np.ndarray, ...] = ()) -> object:
    answer = made.run(encoded(Invoke((Invocation(method, args),))), parts, {})
    return decode_value(answer.body, answer.arrays)


@pytest.fixture
def net(executor: OpenCvExecutor, model: Path) -> OpenCvObject:
    request = make("dnn.readNet", File("0", "/home/somebody/model.onnx"))
    return executor.load(encoded(request), (), {"0": model})[0]


def test_it_computes_what_opencv_computes(net: OpenCvObject, model: Path) -> None:
    invoke(net, "setInput", Part(0), parts=(INPUT,))
    native = cv2.dnn.readNet(str(model))
    native.setInput(INPUT)
    assert np.array_equal(invoke(net, "forward"), native.forward())


def test_calls_of_one_request_are_made_in_order_and_the_last_one_is_answered(net: OpenCvObject) -> None:
    calls = (Invocation("setInput", (Part(0),)), Invocation("empty"), Invocation("forward"))
    answer = net.run(encoded(Invoke(calls)), (INPUT,), {})
    assert decode_value(answer.body, answer.arrays).shape == (1, 5)  # type: ignore[attr-defined]


def test_after_a_call_that_fails_the_rest_is_left_out_and_the_object_works(net: OpenCvObject) -> None:
    calls = (Invocation("setInput", (Part(0), "nothing")), Invocation("forward"))
    with pytest.raises(OpenCvError, match="nothing"):
        net.run(encoded(Invoke(calls)), (INPUT,), {})
    invoke(net, "setInput", Part(0), parts=(INPUT,))
    assert invoke(net, "forward").shape == (1, 5)  # type: ignore[attr-defined]


def test_opencvs_errors_keep_their_text_and_the_hosts_names(executor: OpenCvExecutor, tmp_path: Path) -> None:
    damaged = tmp_path / "chunks"
    damaged.write_bytes(b"no model at all" * 9)
    request = make("dnn.readNetFromONNX", File("0", "/home/somebody/odd model.onnx"))
    with pytest.raises(OpenCvError, match="error: .*/home/somebody/odd model.onnx") as caught:
        executor.load(encoded(request), (), {"0": damaged})
    assert "avec-opencv" not in str(caught.value)


def test_a_wrong_argument_is_the_bindings_affair(net: OpenCvObject) -> None:
    with pytest.raises(OpenCvTypeError, match="required to be an integer"):
        invoke(net, "setPreferableTarget", "cuda")


def test_cuda_is_asked_of_the_accelerator_that_there_is(net: OpenCvObject) -> None:
    invoke(net, "setPreferableBackend", cv2.dnn.DNN_BACKEND_CUDA)
    invoke(net, "setPreferableTarget", cv2.dnn.DNN_TARGET_CUDA_FP16)
    invoke(net, "setInput", Part(0), parts=(INPUT,))
    assert invoke(net, "forward").shape == (1, 5)  # type: ignore[attr-defined]


DNN = cv2.dnn


@pytest.mark.parametrize(
    ("name", "asked", "on_cpu", "on_cuda"),
    [
        ("setPreferableBackend", DNN.DNN_BACKEND_CUDA, DNN.DNN_BACKEND_DEFAULT, DNN.DNN_BACKEND_CUDA),
        ("backend_id", DNN.DNN_BACKEND_OPENCV, DNN.DNN_BACKEND_OPENCV, DNN.DNN_BACKEND_CUDA),
        ("backend", DNN.DNN_BACKEND_VKCOM, DNN.DNN_BACKEND_VKCOM, DNN.DNN_BACKEND_VKCOM),
        ("setPreferableTarget", DNN.DNN_TARGET_CUDA, DNN.DNN_TARGET_CPU, DNN.DNN_TARGET_CUDA),
        ("target_id", DNN.DNN_TARGET_CPU, DNN.DNN_TARGET_CPU, DNN.DNN_TARGET_CUDA),
        ("target", DNN.DNN_TARGET_CUDA_FP16, DNN.DNN_TARGET_CPU, DNN.DNN_TARGET_CUDA_FP16),
        ("top_k", DNN.DNN_TARGET_CUDA, DNN.DNN_TARGET_CUDA, DNN.DNN_TARGET_CUDA),
        ("target", "cuda", "cuda", "cuda"),
    ],
)
def test_the_accelerator_decides_what_computes(name: str, asked: object, on_cpu: object, on_cuda: object) -> None:
    assert computing(name, asked, cuda=False) == on_cpu
    assert computing(name, asked, cuda=True) == on_cuda


@pytest.mark.parametrize(
    ("given_args", "cuda", "args", "kwargs"),
    [
        ((File("0", "m.onnx"), "", 5, 6), False, [0, "", DNN.DNN_BACKEND_DEFAULT, DNN.DNN_TARGET_CPU], {}),
        ((File("0", "m.onnx"), "", 0, 0), True, [0, "", DNN.DNN_BACKEND_CUDA, DNN.DNN_TARGET_CUDA], {}),
        (("onnx", File("0", ""), "", 5, 6), False, [0, 0, "", DNN.DNN_BACKEND_DEFAULT, DNN.DNN_TARGET_CPU], {}),
        (
            (File("0", "m.onnx"), ""), True, [0, ""],
            {"backend_id": DNN.DNN_BACKEND_CUDA, "target_id": DNN.DNN_TARGET_CUDA},
        ),
        ((File("0", "m.onnx"), ""), False, [0, ""], {}),
    ],
)  # fmt: skip
def test_faces_are_found_by_the_accelerator(
    given_args: tuple[Value, ...], cuda: bool, args: list[object], kwargs: dict[str, object]
) -> None:
    chosen = [0 if isinstance(each, File) or each == "onnx" else each for each in given_args]
    named: dict[str, object] = {}
    choose_for_maker(Invocation("FaceRecognizerSF.create", given_args), chosen, named, cuda)
    assert (chosen, named) == (args, kwargs)


def test_arrays_that_opencv_keeps_are_copied(executor: OpenCvExecutor, tmp_path: Path) -> None:
    if cv2.__version__.startswith("5."):
        pytest.skip("OpenCV 5's new engine has no setParam for this layer")
    path = onnx_models.classification(tmp_path / "model.onnx")
    made, _ = executor.load(encoded(make("dnn.readNet", File("0", "model.onnx"))), (), {"0": path})
    values = np.ones((8, 1), np.float32)
    invoke(made, "setParam", 1, 1, Part(0), parts=(values,))
    values[...] = 99.0
    assert np.array_equal(invoke(made, "getParam", 1, 1), np.ones((8, 1), np.float32))


def test_an_object_may_use_another(executor: OpenCvExecutor, net: OpenCvObject) -> None:
    used, _ = executor.load(encoded(Reserve()), (), {})
    with pytest.raises(InvalidArgument, match="names nothing of OpenCV's yet"):
        invoke(used, "classify", Part(0), parts=(INPUT,))
    used.run(encoded(make("dnn.ClassificationModel", Other(0))), (), {}, (net,))
    invoke(used, "setInputSize", 16, 16)
    frame = np.zeros((20, 20, 3), np.uint8)
    assert isinstance(invoke(used, "classify", Part(0), parts=(frame,)), tuple)
    with pytest.raises(InvalidArgument, match="names a dnn.ClassificationModel already"):
        used.run(encoded(make("dnn.Net")), (), {})


def test_a_net_that_is_released_lives_on_in_what_uses_it(executor: OpenCvExecutor, model: Path) -> None:
    net, _ = executor.load(encoded(make("dnn.readNet", File("0", "model.onnx"))), (), {"0": model})
    used, _ = executor.load(encoded(Reserve()), (), {})
    used.run(encoded(make("dnn.ClassificationModel", Other(0))), (), {}, (net,))
    net.close()
    invoke(used, "setInputSize", 16, 16)
    assert isinstance(invoke(used, "classify", Part(0), parts=(np.zeros((20, 20, 3), np.uint8),)), tuple)


def deep(depth: int) -> Value:
    value: Value = 1
    for _ in range(depth):
        value = Items((value,))
    return value


REFUSED: dict[str, tuple[LoadRequest, str]] = {
    "a path of the destination": (make("dnn.readNetFromONNX", "/etc/passwd"), "takes files as such, not the path"),
    "a path by keyword": (make("dnn.readNetFromONNX", onnxFile="/etc/passwd"), "takes files as such, not the path"),
    "a file that did not come": (make("dnn.readNet", File("9", "model.onnx")), "did not come with it"),
    "a file that is a folder": (make("dnn.readNet", File("0", "..")), "no name for a model file"),
    "a file without a name": (make("dnn.readNet", File("0", "/")), "no name for a model file"),
    "a file with a zero byte": (make("dnn.readNet", File("0", "a\0b.onnx")), "no name for a model file"),
    "a file with an endless name": (make("dnn.readNet", File("0", "a" * 5000)), "no name for a model file"),
    "a file beside it outside": (make("dnn.readNet", File("0", "m.onnx", {"../out": "0"})), "no name for a model file"),
    "a file beside it anywhere": (
        make("dnn.readNet", File("0", "m.onnx", {"/etc/x": "0"})),
        "no name for a model file",
    ),
    "a file beside itself": (make("dnn.readNet", File("0", "m.onnx", {"m.onnx": "0"})), "File exists"),
    "anything of OpenCV's": (make("imread", "onnx"), "makes nothing that a host may have"),
    "a module's attribute": (make("dnn.os.system", "onnx"), "makes nothing that a host may have"),
    "a part that did not come": (make("dnn.readNetFromONNX", Part(0)), "part 0 of a message with 0 parts"),
    "an object that there is not": (make("dnn.ClassificationModel", Other(0)), "is none of OpenCV's"),
    "an unknown record": (make("TrackerVit.create", Record("Popen", {})), "no host may make a cv2.Popen"),
    "a record's hidden field": (
        make("TrackerVit.create", Record("TrackerVit_Params", {"__class__": 1})),
        "has no field '__class__'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_host_may_not_load_is_refused(what: str, executor: OpenCvExecutor, model: Path) -> None:
    request, text = REFUSED[what]
    with pytest.raises(InvalidArgument, match=text):
        executor.load(encoded(request), (), {"0": model})


@pytest.mark.parametrize("method", ["dumpToFile", "dumpToPbtxt", "readFromModelOptimizer", "__init__", "nothing", ""])
def test_methods_that_no_host_may_call_are_refused(method: str, net: OpenCvObject) -> None:
    with pytest.raises(InvalidArgument, match="no host may call"):
        invoke(net, method, "/tmp/file")


MALFORMED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no msgpack": lambda: b"\xc1\xff\x00",
    "another request": lambda: encoded(("nonsense", 1)),
    "no calls": lambda: encoded(("invoke",)),
    "endless nesting": lambda: b"\x92\xa6invoke\x91\x93\xa7forward" + b"\x92\xa5items\x91" * 4000 + b"\x90",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_cannot_be_understood_is_refused(what: str, executor: OpenCvExecutor, net: OpenCvObject) -> None:
    for ask in (lambda body: net.run(body, (), {}), lambda body: executor.load(body, (), {})):
        with pytest.raises(InvalidArgument):
            ask(MALFORMED[what]())


def test_a_request_without_calls_gives_nothing(net: OpenCvObject) -> None:
    answer = net.run(encoded(Invoke(())), (), {})
    assert decode_value(answer.body, answer.arrays) is None


def test_what_this_opencv_lacks_is_said_by_name(executor: OpenCvExecutor) -> None:
    missing = [name for name in MAKERS if not has(name)]
    for name in missing:
        with pytest.raises(UnsupportedOperation, match=f"has no cv2.{name}"):
            executor.load(encoded(make(name)), (), {})
    assert bool(missing) == cv2.__version__.startswith("5.")


def has(name: str) -> bool:
    found: object = cv2
    for each in name.split("."):
        found = getattr(found, each, None)
    return found is not None


def test_every_kind_of_object_can_be_made_and_has_methods() -> None:
    assert set(MAKERS.values()) == set(METHODS)
    for kind, methods in METHODS.items():
        assert methods, kind
        assert not [name for name in methods if name.startswith("_")]


def test_every_refusal_is_an_execution_error() -> None:
    assert issubclass(OpenCvError, ExecutionError) and issubclass(OpenCvTypeError, ExecutionError)
