"""The table of what is replaced in cv2: where it is, its name, and what stands there under AVEC."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from .net import Layer, Net
from .reading import NAMES, reader

Replacement = tuple[object, str, object]  # owner, name, what is put there


def replacements(cv2: ModuleType) -> Iterator[Replacement]:
    """Everything that is replaced in the installed OpenCV."""
    for name in NAMES:
        yield cv2.dnn, name, reader(name)
    for name, replacement in (("Net", Net), ("Layer", Layer)):
        yield cv2.dnn, name, replacement
        yield cv2, f"dnn_{name}", replacement
