"""Decoding of image files, by whichever image library the application's machine has; AVEC itself needs none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import UnsupportedOperation

Array: TypeAlias = npt.NDArray[Any]
FileName: TypeAlias = str | os.PathLike[str]

GREY_OF_RGB = (0.2125, 0.7154, 0.0721)  # skimage.color.rgb2gray


def read(filename: FileName) -> Array:
    """Decode an image: height x width for grey, else x 3 (red, green, blue) or x 4 (and alpha).

    Raises:
        FileNotFoundError: there is no such file.
        UnsupportedOperation: no image library is installed.
        OSError: it cannot be decoded.
    """
    for module, decode in _DECODERS.items():
        try:
            library = importlib.import_module(module)
        except ImportError:
            continue
        with open(filename, "rb"):  # OpenCV would say nothing about a file that is missing
            return decode(library, filename)
    raise UnsupportedOperation(
        f"{os.fspath(filename)} cannot be decoded: no image library is installed; install scikit-image, pillow or "
        "opencv-python-headless"
    )


def _by_skimage(library: Any, filename: FileName) -> Array:
    return np.asarray(library.imread(os.fspath(filename)))


def _by_pillow(library: Any, filename: FileName) -> Array:
    with library.open(filename) as image:
        if image.mode in ("1", "P", "CMYK", "LA", "YCbCr"):
            return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
        return np.asarray(image)


def _by_opencv(library: Any, filename: FileName) -> Array:
    pixels: Array | None = library.imread(os.fspath(filename), library.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError(f"{os.fspath(filename)} is no image that OpenCV can decode")
    if pixels.ndim == 2:
        return pixels
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


# pycaffe's own first. They are imported by name when an image is loaded, since none of them is a dependency.
_DECODERS: dict[str, Callable[[Any, FileName], Array]] = {
    "skimage.io": _by_skimage,
    "PIL.Image": _by_pillow,
    "cv2": _by_opencv,
}
