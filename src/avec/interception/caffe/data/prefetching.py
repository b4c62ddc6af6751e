"""Reading ahead: a thread keeps a few batches ready while the net computes."""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue

from avec.errors import InvalidArgument

from .source import Floats, Reader, Shape, Source


class Prefetching(Source):
    """Owns a reader and the thread that reads it. The thread ends with `close`, or when the source is dropped."""

    def __init__(self, reader: Reader, name: str, depth: int) -> None:
        """Begin to read.

        Args:
            name: the layer's, for messages and for the thread.
            depth: batches that are read ahead, at least one.
        """
        self._shapes = reader.shapes()
        self._name = name
        self._process = os.getpid()
        self._line = _Line(reader, depth)
        thread = threading.Thread(target=self._line.fill, name=f"avec data {name}", daemon=True)
        self._end = weakref.finalize(self, _end, self._line, thread, self._process)  # also when the interpreter ends
        thread.start()

    def shapes(self) -> list[Shape]:
        return list(self._shapes)

    def next_batch(self) -> list[Floats]:
        if not self._end.alive:
            raise InvalidArgument(f"{self._name}: it is closed; a closed source gives no batches")
        if os.getpid() != self._process:  # a forked process has none of its parent's threads
            raise InvalidArgument(
                f"{self._name}: it was opened before this process was forked; load the net again here"
            )
        return self._line.take()

    def close(self) -> None:
        self._end()


class _Line:
    """The batches between the thread that reads and the one that uses.

    It does not know the source, which therefore can be dropped while the thread runs.
    """

    def __init__(self, reader: Reader, depth: int) -> None:
        self._reader = reader
        self._room = threading.Semaphore(depth)
        self._full: SimpleQueue[list[Floats] | Exception] = SimpleQueue()
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def fill(self) -> None:
        """Read until told to end, or until reading fails; runs in the thread, which also closes the reader."""
        try:
            while self._room.acquire() and not self._ended.is_set():
                self._full.put(self._reader.read())
        except Exception as exc:  # whatever it is, it belongs to the thread that asks for the batch
            self._full.put(exc)
        finally:
            self._reader.close()

    def take(self) -> list[Floats]:
        if self._failure is not None:
            raise self._failure
        found = self._full.get()
        if isinstance(found, Exception):
            self._failure = found
            raise found
        self._room.release()
        return found

    def end(self) -> None:
        self._ended.set()
        self._room.release()


def _end(line: _Line, thread: threading.Thread, process: int) -> None:
    if os.getpid() != process:  # the thread, and whatever locks it held, stayed with the parent
        return
    line.end()
    if thread is not threading.current_thread():
        thread.join()
