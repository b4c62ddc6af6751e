"""What training runs are fed with: a stream of inputs from a seed, drawn by the generator and by the tests alike.

Needs numpy alone and Python 3.9. A digit is a 5 × 7 glyph, enlarged, moved and dimmed at random, on a noisy ground.
"""

from __future__ import annotations

import numpy as np

GLYPHS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
HEIGHT, WIDTH = 7, 5


def digits(stream: np.random.RandomState, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures and what they show.

    Args:
        stream: where the random numbers come from; it advances.
        count: of pictures.
        size: rows and columns of a picture, 9 or more.

    Returns:
        float32 pictures (count, 1, size, size), mostly in [0, 1], and float32 labels (count,).
    """
    enlarged = max(1, size // 9)
    labels = stream.randint(len(GLYPHS), size=count)
    pictures = 0.1 * stream.standard_normal((count, size, size))
    for picture, label in zip(pictures, labels):  # noqa: B905 - Python 3.9 knows no zip(strict=)
        glyph = np.array([[float(dot) for dot in row] for row in GLYPHS[label].split()])
        glyph = np.kron(glyph, np.ones((enlarged, enlarged)))
        top = stream.randint(size - HEIGHT * enlarged + 1)
        left = stream.randint(size - WIDTH * enlarged + 1)
        picture[top : top + glyph.shape[0], left : left + glyph.shape[1]] += stream.uniform(0.6, 1.0) * glyph
    return pictures[:, np.newaxis].astype(np.float32), labels.astype(np.float32)


class InputStream:
    """Draws the inputs of a net again and again.

    Input `digits` holds pictures of digits and gives `label` its values; else labels are class numbers. Input `more`
    holds 0 at a sequence's start and 1 within it. All others are standard normal.
    """

    def __init__(self, seed: int, shapes: list[tuple[str, tuple[int, ...]]], classes: int) -> None:
        self._stream = np.random.RandomState(seed)
        self._shapes = shapes
        self._classes = classes

    def draw(self) -> dict[str, np.ndarray]:
        """Draw every input once more, in the net's order."""
        values = {name: self._draw_one(name, shape) for name, shape in self._shapes}
        if "digits" in values:
            shape = values["digits"].shape
            values["digits"], values["label"] = digits(self._stream, shape[0], shape[2])
        return values

    def _draw_one(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name == "digits":
            return np.zeros(shape, dtype=np.float32)  # and what draw() puts there
        if name == "label":
            return self._stream.randint(self._classes, size=shape).astype(np.float32)
        if name == "more":
            within = np.ones(shape, dtype=np.float32)
            within[0] = 0
            return within
        return self._stream.standard_normal(shape).astype(np.float32)
