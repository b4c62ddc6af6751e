"""OpenCV's own readers of models. This module is imported before they are replaced."""

from __future__ import annotations

import cv2

CAFFE_READER = "readNetFromCaffe"  # which OpenCV 5 has no more
NATIVE = {name: getattr(cv2.dnn, name) for name in dir(cv2.dnn) if name.startswith("readNet")}
