"""Where frames come from: pictures, folders of pictures and clips, all read by OpenCV."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
CLIP_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


class InputError(Exception):
    """An input that cannot be read; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or a clip; frame_count is what its header claims."""

    path: Path
    is_clip: bool
    frame_count: int = 1
    frames_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A blue-green-red image and its place in its source."""

    image: NDArray[np.uint8]
    index: int


def list_sources(inputs: list[Path]) -> list[Source]:
    """Find the pictures and clips that the inputs name; a folder stands for those in it, by name.

    Raises:
        InputError: an input does not exist, a folder holds nothing to read, a clip cannot be opened.
    """
    return [open_source(path) for entry in inputs for path in _expand(entry)]


def _expand(entry: Path) -> list[Path]:
    if not entry.exists():
        raise InputError(f"{entry}: no such file or folder")
    if not entry.is_dir():
        return [entry]
    try:
        members = sorted(entry.iterdir())
    except OSError as error:
        raise InputError(f"{entry}: cannot list the folder: {error.strerror}") from error
    paths = [path for path in members if path.suffix.lower() in PICTURE_SUFFIXES | CLIP_SUFFIXES]
    if not paths:
        raise InputError(f"{entry}: no picture or clip in this folder")
    return paths


def open_source(path: Path) -> Source:
    if path.suffix.lower() not in CLIP_SUFFIXES:
        return Source(path, is_clip=False)
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(f"{path}: cannot be opened as a clip: truncated, or of an unknown kind")
        count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        return Source(path, True, count, capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()


def read_frames(source: Source) -> Iterator[Frame]:
    """Decode a source's frames one by one.

    Raises:
        InputError: the picture cannot be decoded; or, after its last frame, the clip gave fewer frames than
            its header claims.
    """
    if source.is_clip:
        yield from _read_clip(source)
    else:
        yield Frame(_read_picture(source.path), 0)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise InputError(f"{path}: cannot be decoded as a picture")
    return image


def _read_clip(source: Source) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(source.path))
    index = 0
    try:
        while (read := capture.read())[0]:
            yield Frame(read[1], index)
            index += 1
    finally:
        capture.release()
    if index < source.frame_count:
        raise InputError(
            f"{source.path}: only {index} of its {source.frame_count} frames could be decoded: "
            "the clip is truncated or damaged"
        )
