"""Calls OpenCV's DNN module in every form, and writes down what each call gave: run plainly, and under AVEC.

usage: opencv_conformance.py MODELS OUTPUT [cuda]
       opencv_conformance.py MODELS --names

It imports nothing of AVEC's. A result is written as JSON in which arrays are named by their place in an .npz.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

CASES: dict[str, Callable[[], object]] = {}
MODELS = Path(sys.argv[1])
MAJOR = int(cv2.__version__.partition(".")[0])
CUDA = "cuda" in sys.argv[3:]
RANDOM = np.random.default_rng(20)


def case(function: Callable[[], object]) -> Callable[[], object]:
    """Register a case under the function's name."""
    CASES[function.__name__] = function
    return function


def model(name: str) -> str:
    """The path of a model."""
    return str(MODELS / name)


def read(name: str) -> cv2.dnn.Net:
    """Read a model, and ask for the backend that the run is about."""
    net = cv2.dnn.readNet(model(name))
    if CUDA:
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA)
    return net


def fed(name: str = "two_outputs.onnx", shape: tuple[int, ...] = (1, 3, 8, 8), seed: int = 1) -> cv2.dnn.Net:
    """A net with an input."""
    net = read(name)
    net.setInput(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
    return net


def classic(fed_name: str, shape: tuple[int, ...] = (1, 3, 8, 8)) -> cv2.dnn.Net:
    """A net with an input, in OpenCV 5's classic engine, which knows all that OpenCV 4 did."""
    net = cv2.dnn.readNet(model(fed_name), engine=cv2.dnn.ENGINE_CLASSIC)
    net.setInput(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    return net


IMAGE = cv2.normalize(
    cv2.GaussianBlur(RANDOM.integers(0, 255, (120, 160, 3), dtype=np.uint8), (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX
)
BLOB = RANDOM.normal(size=(1, 3, 16, 16)).astype(np.float32)

# Every form of forward.
FORWARDS: dict[str, Callable[[cv2.dnn.Net], object]] = {
    "plain": lambda net: net.forward(),
    "none": lambda net: net.forward(None),
    "name": lambda net: net.forward("vector"),
    "other_name": lambda net: net.forward("map"),
    "keyword": lambda net: net.forward(outputName="map"),
    "names": lambda net: net.forward(["vector", "map"]),
    "names_in_a_tuple": lambda net: net.forward(("map", "vector")),
    "own_names": lambda net: net.forward(net.getUnconnectedOutLayersNames()),
    "one_of_names": lambda net: net.forward(["map"]),
    "names_by_keyword": lambda net: net.forward(outBlobNames=["vector", "map"]),
    "no_arrays": lambda net: net.forward([]),
    "no_arrays_name": lambda net: net.forward([], "vector"),
    "arrays_none": lambda net: net.forward(outputBlobs=None),
    "inner": lambda net: net.forward("onnx_node!Relu_features"),
    "retrieve": lambda net: net.forwardAndRetrieve(["vector", "map"]),
    "unknown": lambda net: net.forward("nothing"),
    "unknown_in_names": lambda net: net.forward(["vector", "nothing"]),
    "number": lambda net: net.forward(7),
    "unknown_keyword": lambda net: net.forward(output="map"),
    "too_many": lambda net: net.forward("map", 1, 2, 3),
}
for _form, _call in FORWARDS.items():
    CASES[f"forward_{_form}"] = lambda call=_call: call(fed())
    if MAJOR >= 5:
        CASES[f"classic_forward_{_form}"] = lambda call=_call: call(classic(fed_name="two_outputs.onnx"))


@case
def forward_into_arrays() -> object:
    outputs = [np.zeros((1, 5), np.float32), np.zeros((1, 4, 8, 8), np.float32)]
    results = fed().forward(outputs)
    return results, outputs, [any(result is output for output in outputs) for result in results]


@case
def forward_into_arrays_by_names() -> object:
    outputs = [np.zeros((1, 5), np.float32), np.zeros((1, 4, 8, 8), np.float32)]
    results = fed().forward(["vector", "map"], outputs)
    return results, outputs, [any(result is output for output in outputs) for result in results]


@case
def forward_into_arrays_that_do_not_fit() -> object:
    outputs = [np.zeros((2, 5), np.float32), np.zeros((1, 4, 8, 8), np.float64)]
    return fed().forward(outputs), outputs


@case
def forward_twice_gives_arrays_of_their_own() -> object:
    net = fed("classification.onnx", (1, 3, 16, 16))
    first = net.forward()
    net.setInput(BLOB)
    second = net.forward()
    return first, second, np.shares_memory(first, second), first.flags.writeable


@case
def forward_without_an_input() -> object:
    return read("classification.onnx").forward()


# Every type of input.
def fed_with(*args: object, **kwargs: object) -> object:
    """What the classification gives for an input."""
    net = read("classification.onnx")
    net.setInput(*args, **kwargs)
    return net.forward()


def classic_fed_with(*args: object, **kwargs: object) -> object:
    """The same in OpenCV 5's classic engine."""
    net = classic("classification.onnx", (1, 3, 16, 16))
    net.setInput(*args, **kwargs)
    return net.forward()


INTEGERS = RANDOM.integers(0, 100, (1, 3, 16, 16))
READ_ONLY = BLOB.copy()
READ_ONLY.flags.writeable = False
INPUTS: dict[str, Callable[[], object]] = {
    **{
        f"classic_{kind}": lambda kind=kind: classic_fed_with(INTEGERS.astype(kind), "image", 0.01, (1, 2, 3))
        for kind in ("float32", "float64", "float16", "uint8", "int8", "int32")
        if MAJOR >= 5
    },
    **{kind: lambda kind=kind: fed_with(BLOB.astype(kind)) for kind in ("float32", "float64", "float16")},
    **{
        kind: lambda kind=kind: fed_with(INTEGERS.astype(kind))
        for kind in ("uint8", "int8", "uint16", "int16", "int32", "int64", "uint32", "uint64", "bool")
    },
    "complex": lambda: fed_with(BLOB.astype(np.complex64)),
    "text": lambda: fed_with(np.array(["a"])),
    "big_endian": lambda: fed_with(BLOB.astype(">f4")),
    "by_name": lambda: fed_with(BLOB, "image"),
    "by_keyword": lambda: fed_with(blob=BLOB, name="image"),
    "scaled": lambda: fed_with(BLOB, "image", 0.5),
    "scaled_by_keyword": lambda: fed_with(BLOB, scalefactor=0.5),
    "mean": lambda: fed_with(BLOB, "", 2.0, (0.1, 0.2, 0.3)),
    "mean_by_keyword": lambda: fed_with(BLOB, mean=(0.1, 0.2, 0.3, 0.0)),
    "mean_number": lambda: fed_with(BLOB, "", 1.0, 0.5),
    "numpy_numbers": lambda: fed_with(BLOB, "", np.float64(2.0), np.array([0.1, 0.2, 0.3])),
    "uint8_scaled": lambda: fed_with(INTEGERS.astype(np.uint8), "image", 1 / 255, (10, 20, 30)),
    "every_second": lambda: fed_with(np.repeat(BLOB, 2, axis=3)[..., ::2]),
    "transposed": lambda: fed_with(np.ascontiguousarray(BLOB.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)),
    "fortran": lambda: fed_with(np.asfortranarray(BLOB)),
    "read_only": lambda: fed_with(READ_ONLY),
    "batch": lambda: fed_with(np.concatenate([BLOB, BLOB[:, ::-1]])),
    "umat": lambda: fed_with(cv2.UMat(BLOB[0, 0])),
    "of_an_image": lambda: fed_with(cv2.dnn.blobFromImage(IMAGE, 1 / 255, (16, 16), (1, 2, 3), True, True)),
    "list": lambda: fed_with([1, 2, 3]),
    "string": lambda: fed_with("no array"),
    "nothing": lambda: fed_with(None),
    "no_argument": lambda: fed_with(),
    "unknown_name": lambda: fed_with(BLOB, "nothing"),
    "name_of_a_wrong_type": lambda: fed_with(BLOB, 3),
    "unknown_keyword": lambda: fed_with(BLOB, scale=2),
    "wrong_channels": lambda: fed_with(np.zeros((1, 5, 16, 16), np.float32)),
}
if MAJOR < 5:  # OpenCV 5 divides by zero, and the process ends
    INPUTS["empty"] = lambda: fed_with(np.zeros((0, 3, 16, 16), np.float32))
for _kind, _call in INPUTS.items():
    CASES[f"input_{_kind}"] = _call


@case
def input_may_change_after_it_is_set() -> object:
    net = read("classification.onnx")
    results = []
    for _ in range(3):
        blob = BLOB.copy()
        net.setInput(blob)
        blob[...] = 1000.0
        results.append(net.forward())
    return results


@case
def large_input_may_change_after_it_is_set() -> object:
    net = read("maps.onnx")
    results = []
    for seed in range(3):
        blob = np.random.default_rng(seed).normal(size=(1, 3, 320, 320)).astype(np.float32)
        net.setInput(blob)
        blob[...] = 1000.0
        results.append(net.forward()[:, :, ::8, ::8])
    return results


@case
def large_inputs_of_two_nets() -> object:
    nets = [read("maps.onnx"), read("maps.onnx")]
    for seed, net in enumerate(nets):
        net.setInput(np.random.default_rng(seed).normal(size=(1, 3, 320, 320)).astype(np.float32))
    return [net.forward()[:, :, ::8, ::8] for net in nets]


@case
def two_inputs() -> object:
    net = read("two_inputs.onnx")
    left, right = (np.random.default_rng(seed).normal(size=(1, 2, 4, 4)).astype(np.float32) for seed in (1, 2))
    net.setInput(left, "left")
    net.setInput(right, "right")
    first = net.forward()
    net.setInput(left, "right")
    return first, net.forward()


# Reading.
def contents(name: str) -> np.ndarray:
    """A model's contents as OpenCV takes them."""
    return np.fromfile(model(name), np.uint8)


def outputs_of(net: cv2.dnn.Net) -> object:
    """What a net gives, to see that it was read."""
    net.setInput(BLOB)
    return net.forward()


READINGS: dict[str, Callable[[], object]] = {
    "onnx": lambda: outputs_of(cv2.dnn.readNetFromONNX(model("classification.onnx"))),
    "onnx_path": lambda: outputs_of(cv2.dnn.readNetFromONNX(MODELS / "classification.onnx")),
    "onnx_keyword": lambda: outputs_of(cv2.dnn.readNetFromONNX(onnxFile=model("classification.onnx"))),
    "onnx_buffer": lambda: outputs_of(cv2.dnn.readNetFromONNX(contents("classification.onnx"))),
    "onnx_buffer_keyword": lambda: outputs_of(cv2.dnn.readNetFromONNX(buffer=contents("classification.onnx"))),
    "any": lambda: outputs_of(cv2.dnn.readNet(model("classification.onnx"))),
    "any_framework": lambda: outputs_of(cv2.dnn.readNet(model("classification.onnx"), "", "onnx")),
    "any_buffer": lambda: outputs_of(cv2.dnn.readNet("onnx", contents("classification.onnx"))),
    "onnx_missing": lambda: cv2.dnn.readNetFromONNX("/nowhere/model.onnx"),
    "onnx_folder": lambda: cv2.dnn.readNetFromONNX(str(MODELS)),
    "onnx_damaged": lambda: cv2.dnn.readNetFromONNX(np.frombuffer(b"no model at all " * 9, np.uint8)),
    "onnx_damaged_file": lambda: cv2.dnn.readNetFromONNX(model("damaged.onnx")),
    "onnx_cut": lambda: cv2.dnn.readNetFromONNX(contents("classification.onnx")[:700]),
    "onnx_two_dimensions": lambda: cv2.dnn.readNetFromONNX(contents("classification.onnx")[None]),
    "onnx_number": lambda: cv2.dnn.readNetFromONNX(3),
    "onnx_nothing": lambda: cv2.dnn.readNetFromONNX(),
    "any_missing": lambda: cv2.dnn.readNet("/nowhere/model.onnx"),
    "any_unknown_ending": lambda: cv2.dnn.readNet(model("unknown.xyz")),
    "any_unknown_framework": lambda: cv2.dnn.readNet("nonsense", contents("classification.onnx")),
    "tensorflow": lambda: [outputs_of(cv2.dnn.readNetFromTensorflow(model("scores.pb")))],
    "tensorflow_buffer": lambda: [outputs_of(cv2.dnn.readNetFromTensorflow(contents("scores.pb")))],
    "tensorflow_any": lambda: [outputs_of(cv2.dnn.readNet(model("scores.pb")))],
    "tensorflow_missing": lambda: cv2.dnn.readNetFromTensorflow("/nowhere/model.pb"),
    "tensorflow_damaged": lambda: cv2.dnn.readNetFromTensorflow(np.frombuffer(b"no model at all", np.uint8)),
    "tflite_missing": lambda: cv2.dnn.readNetFromTFLite("/nowhere/model.tflite"),
    "tflite_damaged": lambda: cv2.dnn.readNetFromTFLite(np.frombuffer(b"no model at all " * 9, np.uint8)),
}
if MAJOR < 5:
    READINGS |= {
        "darknet": lambda: [outputs_of(cv2.dnn.readNetFromDarknet(model("yolo.cfg"), model("yolo.weights")))],
        "darknet_any": lambda: [outputs_of(cv2.dnn.readNet(model("yolo.weights"), model("yolo.cfg")))],
        "darknet_buffers": lambda: [
            outputs_of(cv2.dnn.readNetFromDarknet(contents("yolo.cfg"), contents("yolo.weights")))
        ],
        "darknet_missing": lambda: cv2.dnn.readNetFromDarknet("/nowhere/yolo.cfg"),
        "torch_missing": lambda: cv2.dnn.readNetFromTorch("/nowhere/model.t7"),
        "torch": lambda: [outputs_of(cv2.dnn.readNetFromTorch(model("relu.t7"), False))],
    }
else:
    READINGS |= {
        "onnx_classic": lambda: outputs_of(
            cv2.dnn.readNetFromONNX(model("classification.onnx"), cv2.dnn.ENGINE_CLASSIC)
        ),
        "onnx_engine_keyword": lambda: outputs_of(
            cv2.dnn.readNetFromONNX(model("classification.onnx"), engine=cv2.dnn.ENGINE_NEW)
        ),
    }
for _kind, _call in READINGS.items():
    CASES[f"read_{_kind}"] = _call


# What a net says of itself, and its settings.
SHAPE = (1, 3, 16, 16)
QUESTIONS: dict[str, Callable[[cv2.dnn.Net], object]] = {
    "empty": lambda net: net.empty(),
    "layer_names": lambda net: net.getLayerNames(),
    "layer_types": lambda net: net.getLayerTypes(),
    "layers_count": lambda net: [net.getLayersCount(kind) for kind in net.getLayerTypes()],
    "layer_id": lambda net: [net.getLayerId(name) for name in (*net.getLayerNames(), "nothing")],
    "outputs": lambda net: net.getUnconnectedOutLayers(),
    "output_names": lambda net: net.getUnconnectedOutLayersNames(),
    "layer": lambda net: [(net.getLayer(i).name, net.getLayer(i).type) for i in range(1, 4)],
    "layer_by_name": lambda net: net.getLayer(net.getLayerNames()[1]).type,
    "layer_blobs": lambda net: [net.getLayer(name).blobs for name in net.getLayerNames()],
    "layer_output": lambda net: net.getLayer(1).outputNameToIndex("nothing"),
    "layer_unknown": lambda net: net.getLayer("nothing"),
    "parameter": lambda net: net.getParam(1, 0),
    "parameter_by_name": lambda net: net.getParam(net.getLayerNames()[0]),
    "parameter_unknown": lambda net: net.getParam(1, 99),
    "flops": lambda net: net.getFLOPS(SHAPE),
    "flops_of_shapes": lambda net: net.getFLOPS([SHAPE]),
    "memory": lambda net: net.getMemoryConsumption(SHAPE),
    "shapes": lambda net: net.getLayersShapes(SHAPE),
    "dump": lambda net: net.dump(),
    "profile": lambda net: profile(net),
    "format": lambda net: net.getModelFormat(),
    "details": lambda net: net.getInputDetails(),
}
for _kind, _ask in QUESTIONS.items():
    if hasattr(cv2.dnn.Net, {"format": "getModelFormat", "details": "getInputDetails"}.get(_kind, "forward")):
        CASES[f"ask_{_kind}"] = lambda ask=_ask: ask(read("classification.onnx"))


def profile(net: cv2.dnn.Net) -> object:
    """That there are times, but not which."""
    net.setInput(BLOB)
    net.forward()
    total, times = net.getPerfProfile()
    return total > 0, len(times) > 0


def changed(change: Callable[[cv2.dnn.Net], object]) -> object:
    """What a change gives, and what the net gives after it."""
    net = read("classification.onnx")
    given = change(net)
    net.setInput(BLOB)
    return given, net.forward()


CHANGES: dict[str, Callable[[cv2.dnn.Net], object]] = {
    "fusion": lambda net: net.enableFusion(False),
    "winograd": lambda net: net.enableWinograd(False),
    "backend": lambda net: net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV),
    "target": lambda net: net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU),
    "backend_of_a_wrong_type": lambda net: net.setPreferableBackend("cuda"),
    "input_shape": lambda net: net.setInputShape("image", SHAPE),
    "parameter": lambda net: net.setParam(1, 1, np.zeros((8, 1), np.float32)),
    "parameter_unknown": lambda net: net.setParam("nothing", 0, np.zeros(3, np.float32)),
    "output": lambda net: net.registerOutput("more", 1, 0),
}
for _kind, _change in CHANGES.items():
    CASES[f"change_{_kind}"] = lambda change=_change: changed(change)


@case
def net_made_by_hand() -> object:
    net = cv2.dnn.Net()
    empty = net.empty()
    number = net.addLayerToPrev("double", "Power", cv2.CV_32F, {"scale": 2.0, "shift": 1.0})
    net.setInput(BLOB)
    return empty, number, net.getLayerNames(), net.forward()


if MAJOR < 5:

    @case
    def quantized() -> object:
        net = read("classification.onnx").quantize([BLOB], cv2.CV_32F, cv2.CV_32F)
        net.setInput(BLOB)
        return net.getLayerTypes(), net.forward(), net.getOutputDetails()


# The model classes.
def with_model(kind: str, name: str, size: tuple[int, int], use: Callable[[object], object]) -> object:
    """What a model class gives for a model and a picture."""
    used = getattr(cv2.dnn, kind)(model(name))
    used.setInputParams(1 / 255, size, (10, 20, 30), True, False)
    return use(used)


FRAMES = {
    "": IMAGE,
    "_grey": cv2.cvtColor(IMAGE, cv2.COLOR_BGR2GRAY),
    "_float": IMAGE.astype(np.float32),
    "_part": IMAGE[10:90, 20:120],
    "_umat": cv2.UMat(IMAGE),
    "_list": [[1, 2], [3, 4]],
    "_string": "no picture",
    "_empty": np.zeros((0, 0, 3), np.uint8),
}
for _name, _frame in FRAMES.items():
    CASES[f"classify{_name}"] = lambda frame=_frame: with_model(
        "ClassificationModel", "classification.onnx", (16, 16), lambda used: used.classify(frame)
    )
    CASES[f"segment{_name}"] = lambda frame=_frame: with_model(
        "SegmentationModel", "maps.onnx", (32, 32), lambda used: used.segment(frame)
    )
    CASES[f"keypoints{_name}"] = lambda frame=_frame: with_model(
        "KeypointsModel", "maps.onnx", (32, 32), lambda used: used.estimate(frame, 0.1)
    )
    CASES[f"predict{_name}"] = lambda frame=_frame: with_model(
        "Model", "two_outputs.onnx", (8, 8), lambda used: used.predict(frame)
    )
    CASES[f"east{_name}"] = lambda frame=_frame: with_model(
        "TextDetectionModel_EAST", "text_boxes.onnx", (64, 64), lambda used: east(used, frame)
    )
    CASES[f"db{_name}"] = lambda frame=_frame: with_model(
        "TextDetectionModel_DB", "text_map.onnx", (64, 64), lambda used: db(used, frame)
    )


def east(used: object, frame: object) -> object:
    """What EAST finds."""
    used.setConfidenceThreshold(0.6).setNMSThreshold(0.3)
    settings = used.getConfidenceThreshold(), used.getNMSThreshold()
    return settings, used.detect(frame), used.detectTextRectangles(frame)


def db(used: object, frame: object) -> object:
    """What DB finds."""
    used.setBinaryThreshold(0.4).setPolygonThreshold(0.5).setUnclipRatio(1.5).setMaxCandidates(50)
    settings = used.getBinaryThreshold(), used.getPolygonThreshold(), used.getUnclipRatio(), used.getMaxCandidates()
    return settings, used.detect(frame), used.detectTextRectangles(frame)


@case
def classify_with_softmax() -> object:
    used = cv2.dnn.ClassificationModel(read("classification.onnx"))
    used.setInputSize(16, 16)
    used.setInputScale(1 / 255)
    used.setInputMean((1, 2, 3))
    used.setInputSwapRB(True)
    used.setInputCrop(True)
    used.setEnableSoftmaxPostProcessing(True)
    return used.getEnableSoftmaxPostProcessing(), used.classify(IMAGE)


@case
def classify_without_a_size() -> object:
    return cv2.dnn.ClassificationModel(model("two_outputs.onnx")).classify(IMAGE)


@case
def segment_into_an_array() -> object:
    mask = np.zeros((16, 16), np.uint8)
    given = with_model("SegmentationModel", "maps.onnx", (32, 32), lambda used: used.segment(IMAGE, mask))
    return given, mask, given is mask


@case
def predict_by_names() -> object:
    used = cv2.dnn.Model(model("two_outputs.onnx"))
    used.setInputParams(1 / 255, (8, 8))
    used.setOutputNames(["map", "vector"])
    return used.predict(IMAGE)


@case
def model_and_net_share_their_state() -> object:
    net = read("classification.onnx")
    used = cv2.dnn.ClassificationModel(net)
    used.setInputParams(1 / 255, (16, 16))
    first = used.classify(IMAGE)
    return first, net.forward()


@case
def recognize() -> object:
    used = cv2.dnn.TextRecognitionModel(model("text_line.onnx"))
    used.setInputParams(1 / 255, (40, 8))
    used.setDecodeType("CTC-greedy").setVocabulary(list("abcdeé"))
    grey = cv2.cvtColor(IMAGE, cv2.COLOR_BGR2GRAY)
    greedy = used.recognize(grey), used.getDecodeType(), used.getVocabulary()
    areas = used.recognize(grey, [np.array([0, 0, 80, 20], np.int32), np.array([10, 10, 90, 40], np.int32)])
    used.setDecodeOptsCTCPrefixBeamSearch(4, 3).setDecodeType("CTC-prefix-beam-search")
    return greedy, areas, used.recognize(grey)


@case
def recognize_with_a_long_vocabulary() -> object:
    used = cv2.dnn.TextRecognitionModel(model("text_line.onnx"))
    used.setVocabulary([chr(0x4E00 + index) for index in range(12000)])
    return used.getVocabulary()[-2:], len(used.getVocabulary())


@case
def detect_without_detections() -> object:
    used = cv2.dnn.DetectionModel(read("maps.onnx")) if MAJOR < 5 else cv2.dnn.DetectionModel
    return used.detect(IMAGE) if MAJOR < 5 else used.__name__


@case
def model_of_nothing() -> object:
    return cv2.dnn.DetectionModel()


@case
def model_of_a_number() -> object:
    return cv2.dnn.KeypointsModel(3)


if MAJOR < 5:

    @case
    def detect_with_darknet() -> object:
        used = cv2.dnn.DetectionModel(model("yolo.weights"), model("yolo.cfg"))
        used.setInputParams(1 / 255, (16, 16), swapRB=True)
        plain = used.detect(IMAGE, 0.2), used.detect(IMAGE, 0.2, 0.4), used.detect(IMAGE, confThreshold=2.0)
        used.setNmsAcrossClasses(True)
        return plain, used.getNmsAcrossClasses(), used.detect(IMAGE, 0.2, 0.4)


# Objects that keep nets inside.
BACKEND, TARGET = (cv2.dnn.DNN_BACKEND_CUDA, cv2.dnn.DNN_TARGET_CUDA) if CUDA else (0, 0)


@case
def face_detector() -> object:
    used = cv2.FaceDetectorYN.create(model("faces.onnx"), "", (64, 64), 0.5, 0.3, 50, BACKEND, TARGET)
    settings = used.getInputSize(), used.getScoreThreshold(), used.getNMSThreshold(), used.getTopK()
    small = cv2.resize(IMAGE, (64, 64))
    found = used.detect(small)
    used.setScoreThreshold(0.3)
    used.setNMSThreshold(0.9)
    used.setTopK(3)
    return settings, found, used.detect(small), used.getTopK(), used.detect(IMAGE)


@case
def face_detector_from_memory() -> object:
    nothing = np.zeros(0, np.uint8)
    used = cv2.FaceDetectorYN.create("onnx", contents("faces.onnx"), nothing, (64, 64), 0.5, 0.3, 50, BACKEND, TARGET)
    return used.detect(cv2.resize(IMAGE, (64, 64)))


@case
def face_detector_by_function() -> object:
    used = cv2.FaceDetectorYN_create(model("faces.onnx"), "", (64, 64), score_threshold=0.99)
    return used.detect(cv2.resize(IMAGE, (64, 64)))


@case
def face_detector_missing() -> object:
    return cv2.FaceDetectorYN.create("/nowhere/faces.onnx", "", (64, 64))


@case
def face_recognizer() -> object:
    used = cv2.FaceRecognizerSF.create(model("face_features.onnx"), "", backend_id=BACKEND, target_id=TARGET)
    face = np.array([10, 10, 50, 60, 20, 20, 40, 20, 30, 30, 22, 40, 38, 40, 1], np.float32)
    aligned = used.alignCrop(IMAGE, face)
    feature, other = used.feature(aligned), used.feature(aligned[:, ::-1].copy())
    kept = feature.copy()
    cosine = used.match(feature, other)
    return aligned, kept, cosine, feature, used.match(feature, other, cv2.FaceRecognizerSF_FR_NORM_L2)


def tracked(tracker: object) -> object:
    """Where a tracker sees something in moving pictures."""
    tracker.init(IMAGE, (40, 30, 40, 40))
    found = [tracker.update(np.roll(IMAGE, shift, axis=1)) for shift in (2, 4)]
    return found, tracker.getTrackingScore()


@case
def tracker_vit() -> object:
    parameters = cv2.TrackerVit.Params()
    parameters.net = model("vit_tracker.onnx")
    parameters.backend, parameters.target = BACKEND, TARGET
    return tracked(cv2.TrackerVit.create(parameters))


@case
def tracker_nano() -> object:
    parameters = cv2.TrackerNano.Params()
    parameters.backbone, parameters.neckhead = model("nano_backbone.onnx"), model("nano_head.onnx")
    parameters.backend, parameters.target = BACKEND, TARGET
    return tracked(cv2.TrackerNano_create(parameters))


@case
def tracker_dasiamrpn() -> object:
    parameters = cv2.TrackerDaSiamRPN.Params()
    parameters.model = model("siamese.onnx")
    parameters.kernel_cls1, parameters.kernel_r1 = model("siamese_cls1.onnx"), model("siamese_r1.onnx")
    parameters.backend, parameters.target = BACKEND, TARGET
    return tracked(cv2.TrackerDaSiamRPN.create(parameters))


if MAJOR < 5:

    @case
    def tracker_goturn() -> object:
        parameters = cv2.TrackerGOTURN.Params()
        parameters.modelTxt, parameters.modelBin = model("goturn.prototxt"), model("goturn.caffemodel")
        tracker = cv2.TrackerGOTURN.create(parameters)
        tracker.init(IMAGE, (40, 30, 40, 40))
        return [tracker.update(np.roll(IMAGE, shift, axis=1)) for shift in (2, 4)]


@case
def tracker_of_nets() -> object:
    return tracked(cv2.TrackerVit.create(cv2.dnn.readNet(model("vit_tracker.onnx"))))


@case
def tracker_missing() -> object:
    return cv2.TrackerVit.create()


@case
def tracker_without_a_net() -> object:
    tracker = cv2.TrackerMIL.create()
    tracker.init(IMAGE, (40, 30, 40, 40))
    return isinstance(tracker, cv2.Tracker)


@case
def kinds() -> object:
    net = read("classification.onnx")
    return [
        isinstance(net, cv2.dnn.Net), isinstance(net, cv2.dnn_Net), type(net).__name__, type(net).__module__,
        isinstance(cv2.dnn.SegmentationModel(model("maps.onnx")), cv2.dnn.Model),
        issubclass(cv2.dnn_TextDetectionModel_DB, cv2.dnn.TextDetectionModel),
        cv2.dnn.Net.forward.__doc__, cv2.dnn.readNetFromONNX.__name__,
    ]  # fmt: skip


# Caffe nets; OpenCV 5 has no importer for them, so what OpenCV 4 gave is the measure there.
def caffe(name: str) -> cv2.dnn.Net:
    """Read a Caffe net, and ask for the backend that the run is about."""
    net = cv2.dnn.readNetFromCaffe(model(f"{name}.prototxt"), model(f"{name}.caffemodel"))
    if CUDA:
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA)
    return net


def branches() -> cv2.dnn.Net:
    """A Caffe net with an input."""
    net = caffe("branches")
    net.setInput(BLOB)
    return net


CAFFE_CALLS: dict[str, Callable[[cv2.dnn.Net], object]] = {
    "plain": lambda net: net.forward(),
    "name": lambda net: net.forward("conv"),
    "in_place": lambda net: net.forward("relu"),
    "keyword": lambda net: net.forward(outputName="pool"),
    "names": lambda net: net.forward(["conv", "relu", "pool"]),
    "names_backwards": lambda net: net.forward(["probabilities", "conv", "sum"]),
    "own_names": lambda net: net.forward(net.getUnconnectedOutLayersNames()),
    "no_arrays": lambda net: net.forward([]),
    "no_arrays_name": lambda net: net.forward([], "thirds"),
    "arrays_none": lambda net: net.forward(outputBlobs=None),
    "retrieve": lambda net: net.forwardAndRetrieve(["thirds", "pool"]),
    "unknown": lambda net: net.forward("nothing"),
    "number": lambda net: net.forward(7),
    "too_many": lambda net: net.forward("conv", 1, 2, 3),
    "unknown_keyword": lambda net: net.forward(output="conv"),
    "unknown_parameter": lambda net: net.getParam("conv", 9),
    "wrong_argument": lambda net: net.getLayerId(),
    "names_of_layers": lambda net: net.getLayerNames(),
    "types": lambda net: net.getLayerTypes(),
    "counts": lambda net: [net.getLayersCount(kind) for kind in ("Convolution", "Nothing", "__NetInputLayer__")],
    "ids": lambda net: [net.getLayerId(name) for name in ("conv", "drop", "probabilities", "data", "_input")],
    "outputs": lambda net: (net.getUnconnectedOutLayers(), net.getUnconnectedOutLayersNames()),
    "layer": lambda net: [(net.getLayer(i).name, net.getLayer(i).type) for i in (0, 1, 4)],
    "layer_blobs": lambda net: net.getLayer("conv").blobs,
    "parameter": lambda net: (net.getParam(1), net.getParam("scores", 1)),
    "parameter_changed": lambda net: (net.setParam(1, 1, np.ones((6, 1), np.float32)), net.forward()),
    "profile": lambda net: profile(net),
    "empty": lambda net: net.empty(),
    "settings": lambda net: (net.enableFusion(False), net.enableWinograd(False), net.forward("conv")),
}
for _kind, _call in CAFFE_CALLS.items():
    CASES[f"caffe_{_kind}"] = lambda call=_call: call(branches())


def caffe_fed_with(*args: object, **kwargs: object) -> object:
    """What a Caffe net gives for an input."""
    net = caffe("branches")
    net.setInput(*args, **kwargs)
    return net.forward()


CAFFE_INPUTS: dict[str, Callable[[], object]] = {
    **{kind: lambda kind=kind: caffe_fed_with(INTEGERS.astype(kind)) for kind in ("uint8", "int32", "float16")},
    "by_name": lambda: caffe_fed_with(BLOB, "data"),
    "scaled": lambda: caffe_fed_with(INTEGERS.astype(np.uint8), "data", 0.01, (40, 50, 60)),
    "mean": lambda: caffe_fed_with(BLOB, mean=0.5),
    "transposed": lambda: caffe_fed_with(np.ascontiguousarray(BLOB.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)),
    "batch": lambda: caffe_fed_with(np.concatenate([BLOB, BLOB[:, ::-1]])),
    "of_an_image": lambda: caffe_fed_with(cv2.dnn.blobFromImage(IMAGE, 1 / 255, (16, 16), (1, 2, 3), True, True)),
    "string": lambda: caffe_fed_with("no array"),
    "mean_of_a_wrong_type": lambda: caffe_fed_with(BLOB, "", 1.0, "mean"),
    "scale_of_a_wrong_type": lambda: caffe_fed_with(BLOB, "", "scale"),
    "no_argument": lambda: caffe_fed_with(),
    "unknown_name": lambda: caffe_fed_with(BLOB, "nothing"),
}
for _kind, _call in CAFFE_INPUTS.items():
    CASES[f"caffe_input_{_kind}"] = _call


@case
def caffe_input_may_change_after_it_is_set() -> object:
    net = caffe("branches")
    blob = BLOB.copy()
    net.setInput(blob)
    blob[...] = 1000.0
    return net.forward()


@case
def caffe_shapes_may_change() -> object:
    net = caffe("caffe_maps")
    results = []
    for size in ((32, 32), (48, 64), (16, 24)):
        net.setInput(np.random.default_rng(3).normal(size=(1, 3, *size)).astype(np.float32))
        results.append(net.forward())
    return results


@case
def caffe_large_input() -> object:
    net = caffe("caffe_maps")
    blob = np.random.default_rng(3).normal(size=(1, 3, 320, 320)).astype(np.float32)
    net.setInput(blob)
    blob[...] = 1000.0
    return net.forward()[:, :, ::8, ::8]


@case
def caffe_two_inputs() -> object:
    net = cv2.dnn.readNetFromCaffe(model("caffe_two_inputs.prototxt"))
    left, right = (np.random.default_rng(seed).normal(size=(1, 2, 4, 4)).astype(np.float32) for seed in (1, 2))
    net.setInput(left, "left")
    net.setInput(right, "right")
    return net.forward()


@case
def caffe_with_a_layer_of_opencvs() -> object:
    return outputs_of(cv2.dnn.readNetFromCaffe(model("opencvs_layer.prototxt")))


CAFFE_READINGS: dict[str, Callable[[], object]] = {
    "any": lambda: cv2.dnn.readNet(model("branches.prototxt"), model("branches.caffemodel")),
    "any_swapped": lambda: cv2.dnn.readNet(model("branches.caffemodel"), model("branches.prototxt")),
    "any_framework": lambda: cv2.dnn.readNet(model("branches.caffemodel"), model("branches.prototxt"), "Caffe"),
    "buffers": lambda: cv2.dnn.readNetFromCaffe(contents("branches.prototxt"), contents("branches.caffemodel")),
    "any_buffers": lambda: cv2.dnn.readNet("caffe", contents("branches.caffemodel"), contents("branches.prototxt")),
}
for _kind, _call in CAFFE_READINGS.items():
    CASES[f"caffe_read_{_kind}"] = lambda call=_call: outputs_of(call())

CAFFE_FAILURES: dict[str, Callable[[], object]] = {
    "missing": lambda: cv2.dnn.readNetFromCaffe("/nowhere/net.prototxt", model("branches.caffemodel")),
    "weights_missing": lambda: cv2.dnn.readNetFromCaffe(model("branches.prototxt"), "/nowhere/net.caffemodel"),
    "damaged": lambda: cv2.dnn.readNetFromCaffe(np.frombuffer(b"layer { damaged", np.uint8)),
    "weights_damaged": lambda: cv2.dnn.readNetFromCaffe(model("branches.prototxt"), model("damaged.caffemodel")),
    "unknown_layer": lambda: cv2.dnn.readNetFromCaffe(model("unknown_layer.prototxt")).forward(),
    "python_layer": lambda: cv2.dnn.readNetFromCaffe(model("python_layer.prototxt")).forward(),
    "wrong_channels": lambda: caffe_fed_with(np.zeros((1, 5, 16, 16), np.float32)),
}
for _kind, _call in CAFFE_FAILURES.items():
    CASES[f"caffe_failure_{_kind}"] = _call


def with_caffe_model(kind: str, name: str, size: tuple[int, int], use: Callable[[object], object]) -> object:
    """What a model class gives for a Caffe net and a picture."""
    used = getattr(cv2.dnn, kind)(caffe(name))
    used.setInputParams(1 / 255, size, (10, 20, 30), True, False)
    return use(used)


for _name in ("", "_part", "_float"):
    _frame = FRAMES[_name]
    CASES[f"caffe_segment{_name}"] = lambda frame=_frame: with_caffe_model(
        "SegmentationModel", "caffe_maps", (32, 32), lambda used: used.segment(frame)
    )
    CASES[f"caffe_keypoints{_name}"] = lambda frame=_frame: with_caffe_model(
        "KeypointsModel", "caffe_maps", (32, 32), lambda used: used.estimate(frame, 0.1)
    )
    CASES[f"caffe_predict{_name}"] = lambda frame=_frame: with_caffe_model(
        "Model", "branches", (16, 16), lambda used: used.predict(frame)
    )
    CASES[f"caffe_detect{_name}"] = lambda frame=_frame: with_caffe_model(
        "DetectionModel", "detector", (32, 32), lambda used: [
            used.detect(frame), used.detect(frame, 0.45), used.detect(frame, 0.4, 0.3), used.detect(frame, 0.99),
            used.setNmsAcrossClasses(True) is not None, used.detect(frame, 0.4, 0.3), used.getNmsAcrossClasses(),
        ],
    )  # fmt: skip


@case
def caffe_classify() -> object:
    used = cv2.dnn.ClassificationModel(model("caffe_maps.caffemodel"), model("caffe_maps.prototxt"))
    used.setInputSize(32, 32)
    used.setInputScale(1 / 255)
    used.setInputMean((1, 2, 3))
    used.setInputSwapRB(True)
    used.setInputCrop(True)
    plain = used.classify(IMAGE)
    used.setEnableSoftmaxPostProcessing(True)
    return plain, used.classify(IMAGE), used.getEnableSoftmaxPostProcessing()


@case
def caffe_predict_by_names() -> object:
    used = cv2.dnn.Model(caffe("branches"))
    used.setInputParams(1 / 255)
    used.setOutputNames(["pool", "conv"])
    used.setInputSize((16, 16))
    return used.predict(IMAGE)


if MAJOR < 5:

    @case
    def caffe_numbers() -> object:
        net = branches()
        return net.getFLOPS((1, 3, 16, 16)), net.getMemoryConsumption((1, 3, 16, 16)), net.getLayersShapes(SHAPE)


def written(result: object, arrays: list[np.ndarray]) -> object:
    """A result as JSON; arrays are added to the list."""
    if isinstance(result, np.ndarray):
        arrays.append(result)
        return {"array": len(arrays) - 1, "dtype": str(result.dtype), "shape": list(result.shape)}
    if isinstance(result, tuple | list):
        return {type(result).__name__: [written(each, arrays) for each in result]}
    if isinstance(result, float):
        return written(np.array(result), arrays)
    return {type(result).__name__: result} if isinstance(result, str | int | None) else {"type": type(result).__name__}


def failure(exc: BaseException) -> dict[str, object]:
    """An exception. One that a constructor of OpenCV's raised is wrapped by its binding in a SystemError."""
    if isinstance(exc, SystemError) and isinstance(exc.__cause__ or exc.__context__, cv2.error):
        exc = exc.__cause__ or exc.__context__
    details = {name: getattr(exc, name, None) for name in ("code", "err", "file", "func", "line", "msg")}
    return {"error": f"{type(exc).__module__}.{type(exc).__name__}", "text": str(exc), **details}


def main() -> None:
    """Run all cases, or name them."""
    if sys.argv[2] == "--names":
        print(*CASES, sep="\n")
        return
    results: dict[str, object] = {}
    arrays: list[np.ndarray] = []
    for name, call in CASES.items():
        print(name, flush=True)  # OpenCV ends the process where something is very wrong
        try:
            results[name] = written(call(), arrays)
        except (cv2.error, SystemError, TypeError, ValueError, AttributeError) as exc:
            results[name] = failure(exc)
    numbered = {str(place): each for place, each in enumerate(arrays)}
    np.savez_compressed(sys.argv[2], results=np.array(json.dumps(results)), **numbered)


if __name__ == "__main__":
    main()
