"""Layers of the type WindowData: regions of images, drawn at random, warped to one size; for training R-CNN.

As in Caffe, scale is that of window_data_param, crop_size, mirror and mean are those of transform_param, and the
windows are drawn at random in both phases. Source: caffe/src/caffe/layers/window_data_layer.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from avec.errors import InvalidArgument, InvalidData
from avec.formats.caffe.message import Message

from . import images
from .source import Floats, Shape, described, positive
from .transformation import mean_of
from .window_file import Window, read_window_file


@dataclass(frozen=True, slots=True)
class _Region:
    """What is cut out of an image, the size that it is warped to, and where that goes in the crop."""

    rows: slice
    columns: slice
    height: int
    width: int
    top: int
    left: int


class WindowReader:
    """Draws windows of one window file."""

    def __init__(self, layer: Message, random: np.random.Generator) -> None:
        settings = layer.window_data_param
        self._layer = described(layer)
        self._batch = positive(layer, "window_data_param", "batch_size")
        self._crop = positive(layer, "transform_param", "crop_size")
        self._mirror = bool(layer.transform_param.mirror)
        self._pad = int(settings.context_pad)
        self._square = settings.crop_mode == "square"
        self._scale = np.float32(settings.scale)
        self._foreground = int(np.float32(self._batch) * np.float32(settings.fg_fraction))
        self._random = random
        self._path = str(settings.source)
        if 2 * self._pad >= self._crop:
            raise InvalidArgument(
                f"{self._layer}: context_pad {self._pad} leaves nothing of crop_size {self._crop}; lower it"
            )
        self._windows = read_window_file(
            self._path, str(settings.root_folder), settings.fg_threshold, settings.bg_threshold, self._layer
        )
        self._check_windows()
        self._mean = self._read_mean(layer)

    def _check_windows(self) -> None:
        for name, windows in (("foreground", self._windows.foreground), ("background", self._windows.background)):
            if not windows:
                raise InvalidData(
                    f"{self._path}: no window is {name}; add some, or change the thresholds of {self._layer}"
                )

    def _read_mean(self, layer: Message) -> Floats | None:
        """The mean for each pixel of a crop, or for each channel."""
        mean = mean_of(layer)
        if mean is None:
            return None
        if len(mean) not in (1, self._windows.channels):
            raise InvalidArgument(
                f"{self._layer}: the mean has {len(mean)} channels, the images {self._windows.channels}; give one each"
            )
        if mean.shape[1:] == (1, 1) and not layer.transform_param.HasField("mean_file"):
            return mean
        top = (mean.shape[2] - self._crop) // 2  # of the width, in both directions
        if top < 0 or top + self._crop > mean.shape[1]:
            raise InvalidData(
                f"{layer.transform_param.mean_file}: a mean of {mean.shape[1]} x {mean.shape[2]} is too small for "
                f"{self._layer}'s crop_size {self._crop}; compute one of larger images"
            )
        return mean[:, top : top + self._crop, top : top + self._crop]

    def shapes(self) -> list[Shape]:
        return [(self._batch, self._windows.channels, self._crop, self._crop), (self._batch,)]

    def read(self) -> list[Floats]:
        data = np.zeros(self.shapes()[0], np.float32)
        labels = np.empty(self._batch, np.float32)
        for place in range(self._batch):
            of_foreground = place >= self._batch - self._foreground  # Caffe draws the background first
            windows = self._windows.foreground if of_foreground else self._windows.background
            window = windows[int(self._random.integers(len(windows)))]
            self._draw(window, data[place])
            labels[place] = window.label
        return [data, labels]

    def close(self) -> None:
        """Nothing stays open between images."""

    def _draw(self, window: Window, out_CHW: Floats) -> None:
        source = f"{self._path}, line {window.line}"
        picture = images.read(self._windows.images[window.image], images.Colour.COLOUR, source)
        if picture.shape[2] != len(out_CHW):
            raise InvalidData(f"{source}: images are decoded to 3 channels; the file says {len(out_CHW)}: write 3")
        mirror = self._mirror and self._random.integers(2) == 1
        region = self._region(window, picture.shape[0], picture.shape[1], mirror, source)
        warped = images.resize(picture[region.rows, region.columns], region.height, region.width)
        item = images.channels_first(warped[:, ::-1] if mirror else warped)
        rows = slice(region.top, region.top + region.height)
        area = (slice(None), rows, slice(region.left, region.left + region.width))
        out = out_CHW[area]
        if self._mean is None:
            out[...] = item
        else:
            np.subtract(item, self._mean if self._mean.shape[1] == 1 else self._mean[area], out=out)
        if self._scale != 1:
            out *= self._scale

    def _region(self, window: Window, height: int, width: int, mirror: bool, source: str) -> _Region:
        if self._pad or self._square:
            region = self._padded(window, height, width, mirror)
        else:
            region = _Region(_span(window.y1, window.y2), _span(window.x1, window.x2), self._crop, self._crop, 0, 0)
        rows, columns = region.rows, region.columns
        inside = 0 <= rows.start < rows.stop <= height and 0 <= columns.start < columns.stop <= width
        if not inside or region.height < 1 or region.width < 1:
            raise InvalidData(
                f"{source}: the window x {window.x1} to {window.x2}, y {window.y1} to {window.y2} does not lie in the "
                f"image, which has {height} rows of {width} pixels; correct the line"
            )
        return region

    def _padded(self, window: Window, height: int, width: int, mirror: bool) -> _Region:
        """The window with so much around it that `context_pad` pixels of the crop are not of the window itself."""
        half_height = np.float32((window.y2 - window.y1 + 1) / 2)
        half_width = np.float32((window.x2 - window.x1 + 1) / 2)
        centre_y, centre_x = np.float32(window.y1) + half_height, np.float32(window.x1) + half_width
        if self._square:
            half_height = half_width = max(half_height, half_width)
        widening = np.float32(self._crop) / np.float32(self._crop - 2 * self._pad)
        down = _Side(centre_y, half_height * widening, height, self._crop)
        across = _Side(centre_x, half_width * widening, width, self._crop)
        left = across.after if mirror else across.before
        return _Region(
            rows=down.span,
            columns=across.span,
            height=min(down.size, self._crop - down.before),
            width=min(across.size, self._crop - left),
            top=down.before,
            left=left,
        )


class _Side:
    """One direction of a window with its surroundings: what of it is in the image, and where that goes in the crop."""

    def __init__(self, centre: np.float32, half: np.float32, limit: int, crop: int) -> None:
        low, high = _round(centre - half), _round(centre + half)
        beyond_low, beyond_high = max(0, -low), max(0, high - limit + 1)
        scale = np.float32(crop) / np.float32(high - low + 1)
        self.span = _span(low + beyond_low, high - beyond_high)
        self.size = _round(np.float32(self.span.stop - self.span.start) * scale)
        self.before = _round(np.float32(beyond_low) * scale)
        self.after = _round(np.float32(beyond_high) * scale)


def _span(first: int, last: int) -> slice:
    return slice(first, last + 1)


def _round(value: np.float32) -> int:
    """C's round: halves go away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))
