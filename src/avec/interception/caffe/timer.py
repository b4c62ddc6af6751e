"""caffe.Timer: how long what was asked of nets takes. Source: Timer in caffe/src/caffe/util/benchmark.cpp."""

from __future__ import annotations

import time

from avec.interception.active import opened

from . import glog


class Timer:
    """Measures from `start` until the destination has done all that was asked of it before `stop`."""

    def __init__(self) -> None:
        self._started_s: float | None = None
        self._elapsed_s: float | None = None

    def start(self) -> None:
        """Begin to measure, unless that is under way; blocks until what was asked before is done."""
        if self._started_s is None:
            _wait()
            self._started_s = time.perf_counter()

    def stop(self) -> None:
        """End the measurement, if one is under way; blocks until what was asked for is done."""
        if self._started_s is not None:
            _wait()
            self._elapsed_s = time.perf_counter() - self._started_s
            self._started_s = None

    @property
    def ms(self) -> float:
        """The milliseconds of the last measurement; one that is under way is ended."""
        self.stop()
        if self._elapsed_s is None:
            glog.write(glog.WARNING, "benchmark.cpp:84", "Timer has never been run before reading time.")
            return 0.0
        return self._elapsed_s * 1000


def _wait() -> None:
    session = opened()
    if session is not None:
        session.wait_all()
