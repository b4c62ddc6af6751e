"""caffe.Detector: a net that classifies windows of images, for R-CNN. Source: caffe/python/caffe/detector.py."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from avec.errors import InvalidArgument

from . import io
from .construction import TEST, FileName
from .pycaffe import Array, Net

Window: TypeAlias = Sequence[float] | Array  # ymin, xmin, ymax, xmax
Detection: TypeAlias = dict[str, Any]


class Detector(Net):
    """A net for windows of images, with their cropping and preprocessing."""

    def __init__(
        self,
        model_file: FileName,
        pretrained_file: FileName,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        """Load a net.

        Args:
            mean, input_scale, raw_scale, channel_swap: see io.Transformer.
            context_pad: how many pixels at each border of the net's input show what lies around the window.
        """
        super().__init__(model_file, TEST, weights=pretrained_file)
        name = self.inputs[0]
        self.transformer = io.input_transformer(
            name, self.blobs[name].shape, mean, input_scale, raw_scale, channel_swap
        )
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[str, Iterable[Window]]]) -> list[Detection]:
        """Classify windows, each warped to the net's input.

        Args:
            images_windows: an image's file and windows in it, of each image.

        Returns:
            For each window a dict of "window", "prediction" (the net's first output) and "filename".
        """
        found: list[Detection] = []
        given: list[Array] = []
        name = self.inputs[0]
        for filename, windows in images_windows:
            image = io.load_image(filename).astype(np.float32)
            for window in windows:
                found.append({"window": window, "filename": filename})
                given.append(self.transformer.preprocess(name, self.crop(image, window)))
        if not found:
            return []
        predictions = self.forward_all(None, **{name: np.array(given, np.float32)})[self.outputs[0]]
        for detection, prediction in zip(found, predictions, strict=True):
            detection["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Iterable[FileName]) -> list[Detection]:
        """Classify the windows that Selective Search proposes; see detect_windows.

        Raises:
            ImportError: selective_search_ijcv_with_python is not installed.
        """
        try:
            proposals = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError as exc:
            raise ImportError(
                "Detector.detect_selective_search needs selective_search_ijcv_with_python and MATLAB: get it from "
                "https://github.com/sergeyk/selective_search_ijcv_with_python, or propose windows yourself and call "
                "detect_windows"
            ) from exc
        names = [os.path.abspath(filename) for filename in image_fnames]  # MATLAB runs in another folder
        windows = proposals.get_windows(names, cmd="selective_search_rcnn")
        return self.detect_windows(zip(names, windows, strict=True))

    def crop(self, im: Array, window: Window) -> Array:
        """Cut a window out of an image, with what lies around it if context_pad says so.

        Args:
            im: height x width x channels.
            window: ymin, xmin, ymax, xmax.

        Returns:
            The window as it is; with context, crop_dims pixels, the mean where the image ends.
        """
        top, left, bottom, right = (int(each) for each in window)
        return self._crop_with_context(im, window) if self.context_pad else im[top:bottom, left:right]

    def _crop_with_context(self, image: Array, window: Window) -> Array:
        size = int(self.crop_dims[1])  # windows become squares
        scale = size / (size - 2.0 * self.context_pad)
        box = _grown(window, scale)
        factors = size / (box[2:] - box[:2] + 1)  # from the image's pixels to those of the input
        before = [round(max(0.0, -edge) * factor) for edge, factor in zip(box[:2], factors, strict=True)]
        box = np.clip(box, 0, np.tile(image.shape[:2], 2))
        if not np.all(box[2:] > box[:2]):
            raise InvalidArgument(
                f"Detector.crop: the window {[float(each) for each in window]} with its context lies outside of the "
                f"image, which has {image.shape[0]} x {image.shape[1]} pixels; give ymin, xmin, ymax, xmax"
            )
        extent = box[2:] - box[:2] + 1
        rows, columns = (
            min(round(length * factor), size - start)
            for length, factor, start in zip(extent, factors, before, strict=True)
        )
        top, left, bottom, right = (int(edge) for edge in box)
        inside = io.resize_image(image[top:bottom, left:right], (rows, columns))
        crop: Array = np.ones(self.crop_dims, np.float32) * self.crop_mean
        crop[before[0] : before[0] + rows, before[1] : before[1] + columns] = inside
        return crop

    def configure_crop(self, context_pad: int | None) -> None:
        """Set crop_dims, context_pad, and crop_mean, which is the mean as it would be in an unprocessed image."""
        name = self.inputs[0]
        transpose = self.transformer.transpose[name]
        back = [transpose[axis] for axis in transpose]
        self.crop_dims = np.array(self.blobs[name].shape[1:])[back]
        self.context_pad = context_pad or 0
        if self.context_pad:
            self.crop_mean = self._unprocessed_mean(name, back)

    def _unprocessed_mean(self, name: str, back: Sequence[int]) -> Array:
        mean = self.transformer.mean.get(name)
        if mean is None:
            return np.zeros(self.crop_dims, np.float32)
        image_HWC: Array = mean.transpose(back)
        order = self.transformer.channel_swap.get(name)
        if order is not None:
            image_HWC = image_HWC[:, :, np.argsort(order)]
        return image_HWC / self.transformer.raw_scale.get(name, 1.0)


def _grown(window: Window, scale: float) -> Array:
    """A window about the same centre, `scale` times as large."""
    box = np.asarray(window, np.float64)
    half = (box[2:] - box[:2] + 1) / 2.0
    centre = box[:2] + half
    return np.round(np.concatenate([centre - scale * half, centre + scale * half]))
