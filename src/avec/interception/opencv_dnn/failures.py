"""What goes wrong at a destination, as the exception that OpenCV would raise.

Only a destination that is lost or refuses is no matter of OpenCV's, and keeps AVEC's own exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from avec.errors import (
    AcceleratorOutOfMemory,
    ExecutionError,
    InvalidArgument,
    InvalidModel,
    UnsupportedOperation,
)
from avec.protocol.opencv_dnn import OpenCvError, OpenCvTypeError

from .raising import opencv_error

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
