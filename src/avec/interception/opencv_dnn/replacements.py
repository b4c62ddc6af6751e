"""The table of what is replaced in cv2: where it is, its name, and what stands there under AVEC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from .detectors import FACES, TRACKERS, detector_class
from .models import model_class_of
from .net import Layer, Net, method_like
from .raising import refuse
from .reading import NAMES, reader

MODELS = (
    "Model", "ClassificationModel", "DetectionModel", "KeypointsModel", "SegmentationModel", "TextDetectionModel",
    "TextDetectionModel_DB", "TextDetectionModel_EAST", "TextRecognitionModel",
)  # fmt: skip

# What makes objects that compute nets on this host, in OpenCV and in its contributed modules → what to do instead.
REFUSED = {
    "ALIKED_create": "read its model with cv2.dnn.readNet",
    "ALIKED.create": "read its model with cv2.dnn.readNet",
    "LightGlueMatcher_create": "read its model with cv2.dnn.readNet",
    "LightGlueMatcher_createFromMemory": "read its model with cv2.dnn.readNet",
    "LightGlueMatcher.create": "read its model with cv2.dnn.readNet",
    "LightGlueMatcher.createFromMemory": "read its model with cv2.dnn.readNet",
    "dnn_superres.DnnSuperResImpl_create": "read its model with cv2.dnn.readNet",
    "dnn_superres.DnnSuperResImpl.create": "read its model with cv2.dnn.readNet",
    "text.TextDetectorCNN_create": "read its model with cv2.dnn.readNet",
    "text.TextDetectorCNN.create": "read its model with cv2.dnn.readNet",
    "wechat_qrcode_WeChatQRCode": "use cv2.QRCodeDetector, which has no net",
    "wechat_qrcode.WeChatQRCode": "use cv2.QRCodeDetector, which has no net",
    "gapi.infer": "read its model with cv2.dnn.readNet",
    "gapi.infer2": "read its model with cv2.dnn.readNet",
    "gapi.networks": "read its model with cv2.dnn.readNet",
    "dnn_registerLayer": "a layer written in Python cannot run at a destination",
}

Replacement = tuple[object, str, object]  # owner, name, what is put there


def replacements(cv2: ModuleType) -> Iterator[Replacement]:
    """Everything that is replaced in the installed OpenCV."""
    for name in NAMES:
        yield cv2.dnn, name, reader(name)
    classes: dict[str, type] = {"Net": Net, "Layer": Layer}
    classes |= {name: model_class_of(getattr(cv2.dnn, name)) for name in MODELS if hasattr(cv2.dnn, name)}
    for name, replacement in classes.items():
        yield cv2.dnn, name, replacement
        yield cv2, f"dnn_{name}", replacement
    for name in (*FACES, *TRACKERS):
        if hasattr(cv2, name):
            detector: Any = detector_class(name)
            yield cv2, name, detector
            yield cv2, f"{name}_create", detector.create
    yield cv2.dnn, "getAvailableTargets", method_like(cv2.dnn, "getAvailableTargets", _available_targets(cv2.dnn))
    yield from _refusals(cv2)


def _available_targets(dnn: Any) -> Callable[[int], Any]:
    """Under AVEC nets may be asked of CUDA, whatever this host's OpenCV was built with. Images may not: what
    cv2.cuda.getCudaEnabledDeviceCount says is about them, and stays as it is."""
    native = dnn.getAvailableTargets

    def available_targets(be: int) -> Any:
        return np.array([dnn.DNN_TARGET_CUDA], np.int32) if be == dnn.DNN_BACKEND_CUDA else native(be)

    return available_targets


def _refusals(cv2: ModuleType) -> Iterator[Replacement]:
    for path, instead in REFUSED.items():
        *owners, name = path.split(".")
        owner: Any = cv2
        for each in owners:
            owner = getattr(owner, each, None)
        if hasattr(owner, name):
            yield owner, name, _refusing(owner, name, path, instead)


def _refusing(owner: Any, name: str, path: str, instead: str) -> Callable[..., Any]:
    def refused(*args: object, **kwargs: object) -> None:
        refuse(path, instead)

    return method_like(owner, name, refused)
