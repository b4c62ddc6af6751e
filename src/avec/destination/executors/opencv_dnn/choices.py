"""Which backend and target of OpenCV's compute here, whatever a host asks for: those of the accelerator.

Without CUDA OpenCV refuses to compute what was asked of CUDA. With it asking for the CPU is as good as asking for
nothing, as in other libraries under AVEC. Half precision is given where it is asked for and can be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2

from avec.protocol.opencv_dnn import Invocation

# Between these the accelerator decides; others, such as OpenVINO's, OpenCV is asked for as they are.
_BACKENDS = (cv2.dnn.DNN_BACKEND_DEFAULT, cv2.dnn.DNN_BACKEND_OPENCV, cv2.dnn.DNN_BACKEND_CUDA)
_TARGETS = (cv2.dnn.DNN_TARGET_CPU, cv2.dnn.DNN_TARGET_CUDA)

# Makers that are told a backend and a target → the place of the backend among the arguments, the target's being the
# next. Both are one further where a framework's name comes first and the model's contents after it.
_PLACES: Mapping[str, int] = {"FaceDetectorYN.create": 6, "FaceRecognizerSF.create": 2}


def computing(name: str, value: object, cuda: bool) -> object:
    """What a backend or a target that a host asks for becomes; anything else stays as it is.

    Args:
        name: of a parameter, a field or a setter: it says whether it is about a backend or a target.
        cuda: whether the OpenCV here can use the accelerator.
    """
    if "backend" in name.lower() and value in _BACKENDS:
        if cuda:
            return cv2.dnn.DNN_BACKEND_CUDA
        return cv2.dnn.DNN_BACKEND_DEFAULT if value == cv2.dnn.DNN_BACKEND_CUDA else value
    if "target" in name.lower():
        if value in _TARGETS:
            return cv2.dnn.DNN_TARGET_CUDA if cuda else cv2.dnn.DNN_TARGET_CPU
        if value == cv2.dnn.DNN_TARGET_CUDA_FP16:
            return value if cuda else cv2.dnn.DNN_TARGET_CPU
    return value


def choose_for_maker(call: Invocation, args: list[object], kwargs: dict[str, Any], cuda: bool) -> None:
    """Put what computes here among a maker's arguments, if it takes a backend and a target."""
    place = _PLACES.get(call.method)
    if place is None:
        return
    place += isinstance(call.args[0], str) if call.args else 0
    for index, name in ((place, "backend_id"), (place + 1, "target_id")):
        if index < len(args):
            args[index] = computing(name, args[index], cuda)
        elif name in kwargs or cuda:
            kwargs[name] = computing(name, kwargs.get(name, 0), cuda)
