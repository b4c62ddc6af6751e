"""What of OpenCV a host may call here: what makes objects, and the methods of each kind of object. Nothing else.

All that reads or writes files, or runs code of the application's, is left out: a host's files come as File values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.opencv_dnn import Invocation, Value

# Names of frameworks are the only strings that may stand where OpenCV would take a path.
FRAMEWORKS = frozenset({"", "caffe", "tensorflow", "torch", "darknet", "dldt", "openvino", "onnx", "tflite"})

# Of a layer; the first argument says which.
LAYER_BLOBS = "getLayer().blobs"
LAYER_OUTPUT = "getLayer().outputNameToIndex"

_NET = frozenset(
    """
    addLayer addLayerToPrev connect disableKVCache dump empty enableFusion enableKVCache enableWinograd finalizeNet
    forward forwardAndRetrieve getFLOPS getInputDetails getLayer getLayerId getLayerNames getLayerShapes getLayerTypes
    getLayersCount getLayersShapes getMemoryConsumption getModelFormat getOutputDetails getParam getPerfProfile
    getProfilingMode getTracingMode getUnconnectedOutLayers getUnconnectedOutLayersNames registerOutput resetKVCache
    setInput setInputShape setInputsNames setParam setPreferableBackend setPreferableTarget setProfilingMode
    setTracingMode
    """.split()
) | {LAYER_BLOBS, LAYER_OUTPUT}
_MODEL = frozenset(
    """
    enableWinograd predict setInputCrop setInputMean setInputParams setInputScale setInputSize setInputSwapRB
    setOutputNames setPreferableBackend setPreferableTarget
    """.split()
)
_TRACKER = frozenset({"init", "update", "getTrackingScore"})

METHODS: Mapping[str, frozenset[str]] = {
    "Net": _NET,
    "dnn.Model": _MODEL,
    "dnn.ClassificationModel": _MODEL
    | {"classify", "getEnableSoftmaxPostProcessing", "setEnableSoftmaxPostProcessing"},
    "dnn.DetectionModel": _MODEL | {"detect", "getNmsAcrossClasses", "setNmsAcrossClasses"},
    "dnn.SegmentationModel": _MODEL | {"segment"},
    "dnn.KeypointsModel": _MODEL | {"estimate"},
    "dnn.TextDetectionModel_DB": _MODEL
    | frozenset(
        """
        detect detectTextRectangles getBinaryThreshold getMaxCandidates getPolygonThreshold getUnclipRatio
        setBinaryThreshold setMaxCandidates setPolygonThreshold setUnclipRatio
        """.split()
    ),
    "dnn.TextDetectionModel_EAST": _MODEL
    | frozenset(
        """
        detect detectTextRectangles getConfidenceThreshold getNMSThreshold setConfidenceThreshold setNMSThreshold
        """.split()
    ),
    "dnn.TextRecognitionModel": _MODEL
    | frozenset(
        "getDecodeType getVocabulary recognize setDecodeOptsCTCPrefixBeamSearch setDecodeType setVocabulary".split()
    ),
    "FaceDetectorYN": frozenset(
        """
        detect getInputSize getNMSThreshold getScoreThreshold getTopK setInputSize setNMSThreshold setScoreThreshold
        setTopK
        """.split()
    ),
    "FaceRecognizerSF": frozenset({"alignCrop", "feature", "match"}),
    "TrackerDaSiamRPN": _TRACKER,
    "TrackerGOTURN": _TRACKER,
    "TrackerNano": _TRACKER,
    "TrackerVit": _TRACKER,
}

READERS = (
    "readNet", "readNetFromCaffe", "readNetFromDarknet", "readNetFromONNX", "readNetFromTFLite",
    "readNetFromTensorflow", "readNetFromTorch",
)  # fmt: skip

# What makes an object → the kind of object that it makes.
MAKERS: Mapping[str, str] = {
    "dnn.Net": "Net",
    "dnn.Net.quantize": "Net",
    **{f"dnn.{reader}": "Net" for reader in READERS},
    **{kind: kind for kind in METHODS if kind.startswith("dnn.")},
    **{f"{kind}.create": kind for kind in METHODS if kind.startswith(("Face", "Tracker"))},
}

# Objects that are nothing but their fields, which a maker takes.
RECORDS = frozenset(f"{kind}_Params" for kind in METHODS if kind.startswith("Tracker"))


@dataclass(frozen=True, slots=True)
class Maker:
    """Something of OpenCV's that makes an object."""

    name: str
    kind: str
    call: Callable[..., Any]


def maker(call: Invocation) -> Maker:
    """Find what makes an object.

    Raises:
        InvalidArgument: no host may call that, or with such a string.
        UnsupportedOperation: the OpenCV here does not have it.
    """
    kind = MAKERS.get(call.method)
    if kind is None:
        raise InvalidArgument(f"cv2.{call.method} makes nothing that a host may have here")
    for value in (*call.args, *call.kwargs.values()):
        _check_string(call.method, value)
    found: Any = cv2
    for name in call.method.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise UnsupportedOperation(
            f"the OpenCV {cv2.__version__} of this destination has no cv2.{call.method}; "
            "a destination with the host's version of OpenCV has it"
        )
    return Maker(call.method, kind, found)


def _check_string(method: str, value: Value) -> None:
    if isinstance(value, str) and value.lower() not in FRAMEWORKS:
        raise InvalidArgument(f"cv2.{method} at a destination takes files as such, not the path {value!r}")


def method(instance: Any, kind: str, name: str) -> Callable[..., Any]:
    """Find a method of an object.

    Raises:
        InvalidArgument: no host may call it.
        UnsupportedOperation: the OpenCV here does not have it.
    """
    if name not in METHODS[kind]:
        raise InvalidArgument(f"no host may call {kind}.{name} at a destination")
    if name == LAYER_BLOBS:
        return lambda layer: tuple(instance.getLayer(layer).blobs)
    if name == LAYER_OUTPUT:
        return lambda layer, output: instance.getLayer(layer).outputNameToIndex(output)
    found: Callable[..., Any] | None = getattr(instance, name, None)
    if found is None:
        raise UnsupportedOperation(
            f"the OpenCV {cv2.__version__} of this destination has no {kind}.{name}; "
            "a destination with the host's version of OpenCV has it"
        )
    return found
