"""The window file of a WindowData layer: images, and in each of them regions with a class and an overlap.

Source: caffe/src/caffe/layers/window_data_layer.cpp, DataLayerSetUp.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

from avec.errors import InvalidData
from avec.formats.caffe.schema import as_float32

T = TypeVar("T")

LAYOUT = "# index, name, channels, height, width, number of windows; for each: class, overlap, x1, y1, x2, y2"


@dataclass(frozen=True, slots=True)
class Window:
    """A region of an image; its last row and column belong to it."""

    image: int  # place in WindowFile.images
    label: int
    x1: int
    y1: int
    x2: int
    y2: int
    line: int  # of the window file


@dataclass(frozen=True, slots=True)
class WindowFile:
    """What the file says; windows between the two thresholds are left out."""

    images: list[str]
    channels: int  # of the last image, which Caffe takes for all
    foreground: list[Window]
    background: list[Window]


def read_window_file(path: str, root: str, fg_threshold: float, bg_threshold: float, layer: str) -> WindowFile:
    """Read a window file.

    Raises:
        InvalidData: it cannot be opened, or does not follow its layout; the text names the line.
    """
    try:
        with open(path, "rb") as file:
            content = os.fsdecode(file.read())
    except OSError as exc:
        raise InvalidData(
            f"{layer}: its source {path!r} cannot be opened: {exc.strerror} (working directory {os.getcwd()}); name a "
            "window file"
        ) from exc
    words = _Words(path, content)
    images: list[str] = []
    windows: list[tuple[float, Window]] = []
    channels = words.image(root, images, windows)
    while not words.at_end:
        channels = words.image(root, images, windows)
    _check(path, len(images), windows, fg_threshold)
    return WindowFile(
        images,
        channels,
        foreground=[window for overlap, window in windows if overlap >= fg_threshold],
        background=[
            replace(window, label=0) for overlap, window in windows if overlap < min(fg_threshold, bg_threshold)
        ],
    )


def _check(path: str, count: int, windows: list[tuple[float, Window]], fg_threshold: float) -> None:
    for overlap, window in windows:
        if overlap >= fg_threshold and window.label <= 0:
            raise InvalidData(
                f"{path}, line {window.line}: a foreground window has the class {window.label}; classes begin with 1"
            )
        if not 0 <= window.image < count:
            raise InvalidData(
                f"{path}, line {window.line}: the window belongs to image {window.image} of {count}; number the images "
                "from 0 on, in their order"
            )


class _Words:
    """The file's words, taken one after another."""

    def __init__(self, path: str, content: str) -> None:
        self._path = path
        self._words = [(word, number) for number, line in enumerate(content.split("\n"), 1) for word in line.split()]
        self._place = 0

    @property
    def at_end(self) -> bool:
        return self._place == len(self._words)

    def image(self, root: str, images: list[str], windows: list[tuple[float, Window]]) -> int:
        """Take one image with its windows; gives its number of channels."""
        mark = self._take(str, "an image's '#'")
        if mark != "#":
            self._refuse(f"{mark!r} stands where the next image begins with '#'")
        index = self._take(int, "an image's index")
        images.append(root + self._take(str, "an image's name"))
        channels, _, _ = (self._take(int, f"an image's {what}") for what in ("channels", "height", "width"))
        windows += [self._window(index) for _ in range(self._take(int, "the number of windows"))]
        return channels

    def _window(self, image: int) -> tuple[float, Window]:
        label = self._take(int, "a window's class")
        overlap = self._take(_float32, "a window's overlap")
        x1, y1, x2, y2 = (self._take(int, f"a window's {side}") for side in ("x1", "y1", "x2", "y2"))
        return overlap, Window(image, label, x1, y1, x2, y2, self._words[self._place - 1][1])

    def _take(self, kind: Callable[[str], T], what: str) -> T:
        if self.at_end:
            self._refuse(f"the file ends where {what} is missing")
        word, _ = self._words[self._place]
        self._place += 1
        try:
            return kind(word)
        except ValueError:
            self._refuse(f"{word!r} stands where {what} is expected")

    def _refuse(self, reason: str) -> NoReturn:
        line = self._words[self._place - 1][1] if self._words else 1
        raise InvalidData(f"{self._path}, line {line}: {reason}; the layout is: {LAYOUT}")


def _float32(word: str) -> float:
    return as_float32(float(word))
