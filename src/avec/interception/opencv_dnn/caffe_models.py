"""OpenCV's model classes over Caffe nets: what they do before and after the net, in terms of the net's own methods.

Over other nets the destination's OpenCV does all of it; see `models`. Source: opencv/modules/dnn/src/model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import cv2
import numpy as np

from avec.tensor import Array

from .caffe_net import CaffeNet, check_arguments, four_numbers
from .raising import opencv_error, refuse

_SETTERS = ("setInputSize", "setInputMean", "setInputScale", "setInputCrop", "setInputSwapRB", "setOutputNames")
_SMALL_BOX = 2  # pixels; what is no larger is taken for a box in units of the frame


class CaffeModel:
    """A model class over a Caffe net; it answers what a RemoteObject would answer of one of OpenCV's own."""

    def __init__(self, kind: str, net: CaffeNet) -> None:
        """Make a model.

        Args:
            kind: the class's name.

        Raises:
            cv2.error: there are no Caffe nets for this class.
        """
        if kind not in _RESULTS:
            refuse(f"dnn.{kind}", "of a Caffe net; convert the model to ONNX")
        self._kind = kind
        self._net = net
        shape = next(iter(net.input_shapes), ())
        self._size = (shape[3], shape[2]) if len(shape) == 4 else (0, 0)
        self._outputs: Sequence[str] = cast("tuple[str, ...]", net.invoke("getUnconnectedOutLayersNames"))
        self._parameters = cv2.dnn.Image2BlobParams()
        self._parameters.scalefactor = (1.0, 1.0, 1.0, 1.0)
        self._softmax = False
        self._across_classes = False

    def invoke(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> object:
        """Do what a method of the class does."""
        answer = getattr(type(self), f"_{method}", None)
        if answer is None:
            refuse(f"dnn.{self._kind}.{method}", "of a Caffe net")
        check_arguments(answer, self, args, kwargs or {})
        return cast(object, answer(self, *args, **kwargs or {}))

    def defer(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """Do what a method does that gives nothing."""
        self.invoke(method, args, kwargs)

    def flush(self) -> None:
        """Nothing waits here for another call."""

    def issue(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> NoReturn:
        """No method of a model class goes on without being waited for."""
        refuse(f"dnn.{self._kind}.{method}", "without waiting for it")

    # What follows are the methods of the model classes, by their names.

    def _setPreferableBackend(self, backendId: int) -> None:
        self._net.invoke("setPreferableBackend", (backendId,))

    def _setPreferableTarget(self, targetId: int) -> None:
        self._net.invoke("setPreferableTarget", (targetId,))

    def _enableWinograd(self, useWinograd: bool) -> None:
        self._net.invoke("enableWinograd", (useWinograd,))

    def _setInputSize(self, size: Any, height: int | None = None) -> None:
        self._size = (int(size[0]), int(size[1])) if height is None else (int(size), int(height))

    def _setInputMean(self, mean: Any) -> None:
        self._parameters.mean = mean

    def _setInputScale(self, scale: Any) -> None:
        numbers = four_numbers(scale)
        # One number is meant for all channels. Source: broadcastRealScalar.
        self._parameters.scalefactor = tuple(
            float(each) for each in (numbers if numbers[1:].any() else numbers[:1].repeat(4))
        )

    def _setInputSwapRB(self, swapRB: bool) -> None:
        self._parameters.swapRB = swapRB

    def _setInputCrop(self, crop: bool) -> None:
        self._parameters.paddingmode = cv2.dnn.DNN_PMODE_CROP_CENTER if crop else cv2.dnn.DNN_PMODE_NULL

    def _setInputParams(
        self, scale: float = 1.0, size: Any = (0, 0), mean: Any = (), swapRB: bool = False, crop: bool = False
    ) -> None:
        self._setInputScale(scale)
        self._setInputSize(size)
        self._setInputMean(mean or (0.0, 0.0, 0.0, 0.0))
        self._setInputSwapRB(swapRB)
        self._setInputCrop(crop)

    def _setOutputNames(self, outNames: Sequence[str]) -> None:
        self._outputs = tuple(outNames)

    def _setEnableSoftmaxPostProcessing(self, enable: bool) -> None:
        self._softmax = bool(enable)

    def _getEnableSoftmaxPostProcessing(self) -> bool:
        return self._softmax

    def _setNmsAcrossClasses(self, value: bool) -> None:
        self._across_classes = bool(value)

    def _getNmsAcrossClasses(self) -> bool:
        return self._across_classes

    def _predict(self, frame: Any) -> tuple[Array, ...]:
        if not all(self._size):
            raise opencv_error("Input size not specified")
        self._parameters.size = self._size
        self._net.invoke("setInput", (cv2.dnn.blobFromImageWithParams(frame, self._parameters),))
        return cast("tuple[Array, ...]", self._net.invoke("forward", (list(self._outputs),)))

    def _only_output(self, frame: Any) -> Array:
        outputs = self._predict(frame)
        if len(outputs) != 1:
            raise opencv_error(f"cv2.dnn.{self._kind} is for nets with one output; this one has {len(outputs)}")
        return outputs[0]

    def _classify(self, frame: Any) -> tuple[int, float]:
        scores = self._only_output(frame).reshape(-1)
        if self._softmax:
            powers = np.exp(scores - scores.max())
            scores = powers / powers.sum()
        best = int(scores.argmax())
        return best, float(scores[best])

    def _segment(self, frame: Any) -> Array:
        classes: Array = self._only_output(frame)[0].argmax(axis=0)
        return classes.astype(np.uint8)

    def _estimate(self, frame: Any, thresh: float = 0.5) -> Array:
        output = self._only_output(frame)
        if output.ndim != 4:
            return output.reshape(-1, 2)
        height, width = _frame_size(frame)
        points = []
        for heat in output[0, :-1]:  # the last one is the background
            y, x = divmod(int(heat.argmax()), heat.shape[1])
            found = heat[y, x] > np.float32(thresh)
            points.append(
                (x * np.float32(width) / heat.shape[1], y * np.float32(height) / heat.shape[0]) if found else (-1, -1)
            )
        return np.array(points, np.float32)

    def _detect(self, frame: Any, confThreshold: float = 0.5, nmsThreshold: float = 0.0) -> tuple[Any, Any, Any]:
        # The layer has suppressed what overlaps; OpenCV too uses nmsThreshold for the nets of Darknet alone.
        types = cast("dict[str, object]", self._net.invoke("getLayer", (len(self._net.layers.all),)))
        if types["type"] != "DetectionOutput":
            raise opencv_error(f"Unknown output layer type: {types['type']!r}; a DetectionModel needs DetectionOutput")
        rows = np.concatenate([output.reshape(-1, 7) for output in self._predict(frame)])
        rows = rows[rows[:, 2] >= np.float32(confThreshold)]
        boxes = _boxes(rows[:, 3:7], *_frame_size(frame))
        classes, scores = rows[:, 1].astype(np.int32), rows[:, 2].copy()
        return (classes, scores, boxes) if len(boxes) else ((), (), ())


_RESULTS = frozenset({"Model", "ClassificationModel", "DetectionModel", "SegmentationModel", "KeypointsModel"})


def _boxes(corners: Array, height: int, width: int) -> Array:
    """Left, top, width and height of boxes in pixels, within the frame. Source: DetectionModel::detect."""
    pixels = corners.astype(np.int32)
    sizes = pixels[:, 2:] - pixels[:, :2] + 1
    relative = (sizes <= _SMALL_BOX).any(axis=1)
    scale = np.array([width, height, width, height], np.float32)
    pixels[relative] = (corners[relative] * scale).astype(np.int32)
    sizes = pixels[:, 2:] - pixels[:, :2] + 1
    limits = np.array([width, height], np.int32)
    starts = np.clip(pixels[:, :2], 0, limits - 1)
    return np.concatenate([starts, np.clip(sizes, 1, limits - starts)], axis=1).astype(np.int32)


def _frame_size(frame: Any) -> tuple[int, int]:
    image = frame.get() if isinstance(frame, cv2.UMat) else frame
    return image.shape[0], image.shape[1]
