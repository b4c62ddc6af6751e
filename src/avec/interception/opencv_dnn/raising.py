"""Errors like OpenCV's own, so that an application's except clauses go on working."""

from __future__ import annotations

from typing import NoReturn

import cv2


def opencv_error(text: str, code: int = cv2.Error.StsBadArg, function: str = "") -> cv2.error:
    """An error like OpenCV's own. All its attributes are set, because OpenCV leaves those of the last error in the
    class."""
    error = cv2.error(text)
    error.msg = error.err = text
    error.code, error.func, error.file, error.line = code, function, "", -1
    return error


def refuse(name: str, why: str) -> NoReturn:
    """Say that something of OpenCV's does not work under AVEC."""
    raise opencv_error(
        f"cv2.{name} does not work under AVEC: {why}", cv2.Error.StsNotImplemented, name.rpartition(".")[2]
    )
