"""caffe.Classifier: a net that takes images of any size and gives class probabilities.

Source: caffe/python/caffe/classifier.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import io
from .construction import TEST, FileName
from .pycaffe import Array, Net


class Classifier(Net):
    """A net for image classification, with its preprocessing."""

    def __init__(
        self,
        model_file: FileName,
        pretrained_file: FileName,
        image_dims: Sequence[int] | None = None,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        """Load a net.

        Args:
            image_dims: height and width that images are resized to before they are cropped; by default the input's.
            mean, input_scale, raw_scale, channel_swap: see io.Transformer.
        """
        super().__init__(model_file, TEST, weights=pretrained_file)
        name = self.inputs[0]
        shape = self.blobs[name].shape
        self.transformer = io.input_transformer(name, shape, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)

    def predict(self, inputs: Sequence[Array], oversample: bool = True) -> Array:
        """Classify images.

        Args:
            inputs: images, height x width x channels.
            oversample: average over ten crops of each image (see io.oversample), or take its centre alone.

        Returns:
            One row of class probabilities for each image.
        """
        resized = np.array([io.resize_image(image, self.image_dims) for image in inputs], np.float32)
        crops = io.oversample(resized, self.crop_dims) if oversample else self._centres(resized)
        name = self.inputs[0]
        given = np.array([self.transformer.preprocess(name, crop) for crop in crops], np.float32)
        predictions = self.forward_all(None, **{name: given})[self.outputs[0]]
        if not oversample:
            return predictions
        averaged: Array = predictions.reshape(len(inputs), len(crops) // len(inputs), -1).mean(1)
        return averaged

    def _centres(self, images: Array) -> Array:
        top, left = ((self.image_dims - self.crop_dims) / 2.0).astype(int)
        height, width = self.crop_dims
        return images[:, top : top + height, left : left + width, :]
