"""What goes wrong at a destination, as the exception that OpenCV would raise: an application's except clauses go on
working. Only a destination that is lost or refuses is no matter of OpenCV's, and keeps AVEC's own exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import cv2

from avec.errors import (
    AcceleratorOutOfMemory,
    ExecutionError,
    InvalidArgument,
    InvalidModel,
    UnsupportedOperation,
)
from avec.protocol.opencv_dnn import OpenCvError, OpenCvTypeError

_CODES: tuple[tuple[type[ExecutionError], int], ...] = (
    (AcceleratorOutOfMemory, cv2.Error.StsNoMem),
    (InvalidModel, cv2.Error.StsParseError),
    (InvalidArgument, cv2.Error.StsBadArg),
    (UnsupportedOperation, cv2.Error.StsNotImplemented),
    (ExecutionError, cv2.Error.StsError),
)
# Source: Exception::formatMessage in opencv/modules/core/src/system.cpp.
_TEXT = re.compile(
    r"OpenCV\([^)]*\) (?P<file>.*?):(?P<line>-?\d+): error: \((?P<code>-?\d+):[^)]*\) ?"
    r"(?P<before>.*?) ?in function '(?P<func>.*?)'\n(?P<after>.*)",
    re.DOTALL,
)


@contextmanager
def as_opencv() -> Iterator[None]:
    """Raise cv2.error where a call has failed at the destination, or TypeError where OpenCV's binding did."""
    try:
        yield
    except OpenCvTypeError as exc:
        raise TypeError(str(exc)) from exc
    except ExecutionError as exc:
        raise _error(exc) from exc


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


def _error(exc: ExecutionError) -> cv2.error:
    text = str(exc)
    if not isinstance(exc, OpenCvError):
        return opencv_error(text, next(code for kind, code in _CODES if isinstance(exc, kind)))
    error = opencv_error(text)
    if found := _TEXT.fullmatch(text):
        error.file, error.func = found["file"], found["func"]
        error.line, error.code = int(found["line"]), int(found["code"])
        error.err = found["before"] or found["after"]
    return error
