"""Lines on stderr as Caffe's glog writes them, and pycaffe's functions for them.

As with glog, lines below an error are not shown after `init_log` unless its second argument or GLOG_logtostderr asks
for them; the files that glog writes them to instead are not written here. GLOG_minloglevel is heeded.
Source: caffe/python/caffe/_caffe.cpp (InitLog, Log); https://google.github.io/glog
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from datetime import datetime

INFO, WARNING, ERROR, FATAL = range(4)

_LETTERS = "IWEF"
_BEFORE_INIT = "WARNING: Logging before InitGoogleLogging() is written to STDERR\n"
_TRUE = {"1", "t", "true", "y", "yes"}


@dataclass(slots=True)
class _State:
    initialised: bool = False
    warned: bool = False  # that it is not initialised
    least: int | None = None  # what init_log said
    to_stderr: bool | None = None


_state = _State()


def init_log(level: int | None = None, stderr: bool | None = None) -> None:
    """Set which log lines are shown.

    Args:
        level: the least severity, 0 information … 3 fatal.
        stderr: whether lines below an error are shown.

    Raises:
        RuntimeError: it was called before (Caffe aborts the process).
    """
    if _state.initialised:
        raise RuntimeError("caffe.init_log: You called InitGoogleLogging() twice!")
    if level is not None and not isinstance(level, int):
        raise TypeError(f"caffe.init_log: the level is an integer, not {level!r}")
    _state.initialised = True
    _state.least = level
    _state.to_stderr = None if stderr is None else bool(stderr)


def log(message: str) -> None:
    """Log a line of information."""
    if not isinstance(message, str):
        raise TypeError(f"caffe.log takes a string, not {message!r}")
    write(INFO, "_caffe.cpp:68", message)


def write(severity: int, place: str, message: str) -> None:
    """Log a line, if lines of its severity are shown.

    Args:
        place: the file and line of Caffe that would have written it, "solver.cpp:239".
    """
    if severity < _least():
        return
    if _state.initialised and severity < ERROR and not _to_stderr():
        return
    now = datetime.now()
    stamp = f"{_LETTERS[severity]}{now:%m%d %H:%M:%S.%f} {threading.get_native_id():5d} {place}]"
    sys.stderr.write(f"{_unwarned()}{stamp} {message}\n")
    sys.stderr.flush()


def _unwarned() -> str:
    if _state.initialised or _state.warned:
        return ""
    _state.warned = True
    return _BEFORE_INIT


def _least() -> int:
    text = os.environ.get("GLOG_minloglevel", "")
    return _state.least if _state.least is not None else int(text) if text.isdigit() else INFO


def _to_stderr() -> bool:
    if _state.to_stderr is not None:
        return _state.to_stderr
    return os.environ.get("GLOG_logtostderr", "").lower() in _TRUE
