"""Carries out OpenCV's DNN module with OpenCV itself: its nets, the model classes, face detectors and trackers.

It computes on the GPU where the OpenCV that is installed here was built with CUDA, on the CPU otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import msgspec

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer
from avec.destination.executors.opencv_dnn.objects import OpenCvObject
from avec.errors import InvalidArgument
from avec.protocol.opencv_dnn import LoadRequest, Make, whole_body
from avec.tensor import Array

_LOADS: msgspec.msgpack.Decoder[LoadRequest] = msgspec.msgpack.Decoder(LoadRequest)


class OpenCvExecutor:
    """Makes objects of OpenCV's on one accelerator. See avec.destination.executors.Executor."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._strict = accelerator.numerics == "strict"
        self._cuda = accelerator.device.type == "cuda" and cv2.cuda.getCudaEnabledDeviceCount() > 0

    def load(self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]) -> tuple[OpenCvObject, Answer]:
        """Make an object, or reserve a place for one.

        Raises:
            InvalidArgument: the request itself is wrong.
            OpenCvError, UnsupportedOperation: the object cannot be made.
        """
        if self._strict and self._cuda:
            # cuDNN may round float32 to TF32 unless it is told. Source: NVIDIA's documentation of cuDNN. Not before an
            # object is asked for: it holds for all that computes in this process, PyTorch programs among them.
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        encoded, parts = whole_body(body, arrays)
        try:
            request = _LOADS.decode(encoded)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise InvalidArgument(f"a request to load something of OpenCV's cannot be understood: {exc}") from exc
        made = OpenCvObject(self._cuda)
        if isinstance(request, Make):
            made.make(request, parts, files, ())
        return made, Answer()


__all__ = ["OpenCvExecutor"]
