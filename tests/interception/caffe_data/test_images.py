"""pillow's images become the very pixels that OpenCV gives, whatever the file's kind, depth and orientation."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from avec.interception.caffe.data import images
from avec.interception.caffe.data.images import Colour

KINDS = [
    ("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("1", "png"), ("RGB", "bmp"),
    ("L", "bmp"), ("RGB", "tiff"), ("P", "gif"), ("RGB", "ppm"), ("RGB", "jpeg"), ("L", "jpeg"),
]  # fmt: skip
INEXACT = [("CMYK", "jpeg", Colour.COLOUR), ("RGB", "webp", Colour.GREY)]  # other arithmetic, by 1 at most


def encoded(mode: str, kind: str, orientation: int = 1) -> bytes:
    coarse = np.random.default_rng(1).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(coarse).resize((31, 20)).convert(mode).save(
        file, kind, **({"exif": exif} if kind == "jpeg" else {})
    )
    return file.getvalue()


def both(data: bytes, colour: Colour) -> tuple[images.Picture, images.Picture]:
    """Decode by OpenCV and by pillow."""
    with pytest.MonkeyPatch.context() as patch:
        by_opencv = images.decode(data, colour, "x")
        patch.setitem(sys.modules, "cv2", None)
        return by_opencv, images.decode(data, colour, "x")


@pytest.mark.parametrize("colour", Colour)
@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_pillow_decodes_as_opencv(mode: str, kind: str, colour: Colour) -> None:
    by_opencv, by_pillow = both(encoded(mode, kind), colour)
    np.testing.assert_array_equal(by_pillow, by_opencv)


@pytest.mark.parametrize(("mode", "kind", "colour"), INEXACT)
def test_pillow_decodes_nearly_as_opencv(mode: str, kind: str, colour: Colour) -> None:
    by_opencv, by_pillow = both(encoded(mode, kind), colour)
    np.testing.assert_allclose(by_pillow.astype(int), by_opencv.astype(int), rtol=0, atol=1)


@pytest.mark.parametrize("colour", Colour)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cameras_orientation_counts_as_it_does_for_a_file(orientation: int, colour: Colour, tmp_path: Path) -> None:
    data = encoded("RGB", "jpeg", orientation)
    (tmp_path / "some.jpg").write_bytes(data)
    expected = cv2.imread(str(tmp_path / "some.jpg"), getattr(cv2, colour.value))
    for found in both(data, colour):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("colour", [Colour.GREY, Colour.COLOUR])
def test_sixteen_bits_are_cut_to_eight(colour: Colour) -> None:
    _, data = cv2.imencode(".png", (np.arange(600).reshape(20, 30) * 100).astype(np.uint16))
    by_opencv, by_pillow = both(data.tobytes(), colour)
    np.testing.assert_array_equal(by_pillow, by_opencv)
