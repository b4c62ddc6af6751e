"""Compressed images, decoded and resized to the very bytes that Caffe gets from OpenCV: blue first, 8 bits.

OpenCV is used where the host has it, else pillow with OpenCV's arithmetic in numpy. Neither is a dependency.
Source: caffe/src/caffe/util/io.cpp; OpenCV 4.5, imgcodecs and imgproc/src/resize.cpp.
"""

from __future__ import annotations

import enum
import importlib
import io
import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import InvalidData, UnsupportedOperation

from . import bilinear

Picture: TypeAlias = npt.NDArray[np.uint8]  # height x width (grey), or height x width x channels


class Colour(enum.Enum):
    """What a decoded image has: OpenCV's IMREAD_… of the same meaning."""

    UNCHANGED = "IMREAD_UNCHANGED"
    GREY = "IMREAD_GRAYSCALE"
    COLOUR = "IMREAD_COLOR"


def read(path: str, colour: Colour, source: str, size: tuple[int, int] | None = None) -> Picture:
    """Decode a file, and resize it if a size (height, width) is given.

    Args:
        source: where the file is named, for messages.

    Raises:
        InvalidData: it cannot be opened or decoded.
        UnsupportedOperation: no image library is installed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as exc:
        raise InvalidData(
            f"{source}: {path!r} cannot be opened: {getattr(exc, 'strerror', None) or exc} (working directory "
            f"{os.getcwd()}); check the line and root_folder"
        ) from exc
    picture = decode(data, colour, f"{source}: {path!r}")
    return picture if size is None else resize(picture, *size)


def decode(data: bytes, colour: Colour, source: str) -> Picture:
    """Decode an image file's bytes.

    Raises:
        InvalidData: they are no image, or one that has not 8 bits.
        UnsupportedOperation: no image library is installed.
    """
    if not data:
        raise InvalidData(f"{source}: the image is empty; write it anew")
    library = _opencv()
    if library is None:
        return _by_pillow(data, colour, source)
    try:
        picture = library.imdecode(np.frombuffer(data, np.uint8), getattr(library, colour.value))
    except library.error as exc:
        raise InvalidData(f"{source}: OpenCV cannot decode the image: {str(exc).strip()}; replace it") from exc
    if picture is None:
        raise _undecodable(data, source)
    return _eight_bits(picture, source)


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Resize as cv::resize with INTER_LINEAR does."""
    library = _opencv()
    if library is None:
        return bilinear.resize(picture, height, width)
    resized: Picture = library.resize(picture, (width, height), interpolation=library.INTER_LINEAR)
    return resized


def channels_first(picture: Picture) -> Picture:
    """View a picture as channels x height x width."""
    return picture[np.newaxis] if picture.ndim == 2 else picture.transpose(2, 0, 1)


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError:
        return None


def _eight_bits(picture: npt.NDArray[Any], source: str) -> Picture:
    if picture.dtype != np.uint8:
        raise InvalidData(
            f"{source}: the image has values of {picture.dtype} and Caffe takes 8 bits; convert it, or decode it with "
            "force_color or force_gray"
        )
    return picture


def _undecodable(data: bytes, source: str) -> InvalidData:
    return InvalidData(
        f"{source}: the {len(data)} bytes, which begin with {data[:4].hex(' ')}, are no image that can be decoded; "
        "replace the file"
    )


_WIDE = ("I;16", "I;16B", "I")  # pillow's modes of 16 bits
# Weights of blue, green and red, what is added for rounding, and bits to shift: of libpng, and of OpenCV otherwise.
_GREY_OF_BGR = {"PNG": ((3737, 19234, 9797), 0, 15), "": ((1868, 9617, 4899), 1 << 13, 14)}


def _by_pillow(data: bytes, colour: Colour, source: str) -> Picture:
    try:
        image_module = importlib.import_module("PIL.Image")
        orientation = importlib.import_module("PIL.ImageOps").exif_transpose
    except ImportError as exc:
        raise UnsupportedOperation(
            f"{source}: images need OpenCV or pillow; pip install opencv-python-headless"
        ) from exc
    try:
        with image_module.open(io.BytesIO(data)) as image:
            if colour is Colour.GREY and image.format == "JPEG":
                image.draft("L", image.size)  # the file's own brightness, as OpenCV takes it
            image.load()
            if colour is Colour.UNCHANGED:
                return _unchanged(image, source)
            upright = orientation(image)
            if colour is Colour.GREY:
                return _grey(upright, "PNG" if image.format == "PNG" else "")
            return _bgr(upright)
    except image_module.UnidentifiedImageError as exc:
        raise _undecodable(data, source) from exc
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as exc:
        if isinstance(exc, InvalidData):
            raise
        raise InvalidData(f"{source}: pillow cannot decode the image: {exc}; replace it") from exc


def _unchanged(image: Any, source: str) -> Picture:
    """A loaded pillow image as OpenCV decodes it with IMREAD_UNCHANGED."""
    if image.mode in _WIDE:
        return _eight_bits(np.asarray(image).astype(np.uint16), source)
    if "A" in image.mode or "transparency" in image.info:
        return np.ascontiguousarray(np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]])
    return np.asarray(image.convert("L")) if image.mode in ("1", "L") else _bgr(image)


def _bgr(image: Any) -> Picture:
    if image.mode in _WIDE:
        return np.repeat(_narrowed(image)[:, :, np.newaxis], 3, axis=2)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


def _grey(image: Any, kind: str) -> Picture:
    if image.mode in _WIDE:
        return _narrowed(image)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    weights, rounding, bits = _GREY_OF_BGR[kind]
    return ((_bgr(image) @ np.array(weights, np.uint32) + np.uint32(rounding)) >> bits).astype(np.uint8)


def _narrowed(image: Any) -> Picture:
    return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
