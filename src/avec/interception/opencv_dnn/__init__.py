"""Stands under `import cv2`: nets of OpenCV's DNN module compute at a destination; all else of OpenCV stays as it is.

Importing OpenCV starts nothing and opens no session; that is done when the first model is read.
"""

from __future__ import annotations

from types import ModuleType

from avec.interception.patching import Patches

_patches = Patches()


def patch(cv2: ModuleType) -> None:
    """Replace what computes nets. See avec.interception.patching.FrontEnd."""
    if not hasattr(cv2, "__path__"):
        return  # the package imports its own extension module as "cv2" too, and copies all that is in it
    from .replacements import replacements

    for owner, name, replacement in replacements(cv2):
        _patches.replace(owner, name, lambda original, replacement=replacement: replacement)


def unpatch(cv2: ModuleType) -> None:
    """Put everything back."""
    _patches.restore()
