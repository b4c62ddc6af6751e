"""LMDB databases, read record by record in the order of their keys; nothing else of LMDB.

The package `lmdb` does the work and is imported when a database is opened. It hands damaged files to C code that may
end the process, so a database is checked before it is trusted: whole if it is small, by its size if it is large.
"""

from __future__ import annotations

import importlib
import os
import weakref
from types import TracebackType
from typing import Any, Self

from avec.errors import InvalidData, UnsupportedOperation

CHECKED_NBYTES = 256 << 20  # databases up to this size are walked page by page first, at about 1 GB/s
READERS = 1022  # reading transactions at once over all processes; a number of LMDB's own, 126, is soon used up

# LMDB forbids to open a database twice in one process, but a train net and a test net may well read the same one.
_OPEN: weakref.WeakValueDictionary[tuple[int, int], _Environment] = weakref.WeakValueDictionary()


class _Environment:
    """An opened database; closed when nobody reads it any more."""

    __slots__ = ("__weakref__", "handle")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        weakref.finalize(self, handle.close)


class Records:
    """The records of one database, from the first key to the last and around again; owns a reading transaction.

    Used by one thread at a time. The database as it was when it was opened is what is read.
    """

    def __init__(self, path: str) -> None:
        """Open the folder `path` and stand on the first record.

        Raises:
            InvalidData: there is no database, it is damaged, or it is empty.
            UnsupportedOperation: the package lmdb is not installed.
        """
        self._path = path
        library = _library(path)
        _check_folder(path)
        self._error: type[Exception] = library.Error
        self._environment: _Environment | None = None
        self._transaction: Any = None
        try:
            self._begin(library)
        except BaseException as exc:
            self.close()
            if isinstance(exc, library.Error):
                raise _unreadable(path, exc) from exc
            raise

    def _begin(self, library: Any) -> None:
        self._environment = _environment(library, self._path)
        _check_size(self._path, self._environment.handle)
        self._transaction = self._environment.handle.begin(buffers=True)
        self._cursor = self._transaction.cursor()
        if not self._cursor.first():
            raise InvalidData(f"{self._path}: the LMDB holds no record; fill it, or name another one as the source")

    def record(self) -> tuple[bytes, memoryview]:
        """The key and the value where the cursor stands; the value is valid until `close`."""
        key, value = self._cursor.item()
        return bytes(key), value

    def advance(self) -> None:
        """Go to the next record, after the last one to the first."""
        try:
            if not self._cursor.next():
                self._cursor.first()
        except self._error as exc:
            raise _unreadable(self._path, exc) from exc

    def close(self) -> None:
        """End the transaction; the database is closed with its last reader."""
        if self._transaction is not None:
            self._transaction.abort()  # which closes the cursor
        self._transaction = self._environment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _library(path: str) -> Any:
    try:
        return importlib.import_module("lmdb")
    except ImportError as exc:
        raise UnsupportedOperation(f"{path}: reading an LMDB needs the package lmdb; pip install lmdb") from exc


def _check_folder(path: str) -> None:
    """Raise InvalidData unless `path` is a folder with an LMDB in it."""
    if not os.path.exists(path):
        raise InvalidData(
            f"{path}: there is no such folder (working directory {os.getcwd()}); name the LMDB's folder as the source"
        )
    if not os.path.isdir(path):
        raise InvalidData(f"{path}: this is a file; the source of an LMDB is the folder that holds data.mdb")
    if not os.path.isfile(os.path.join(path, "data.mdb")):
        kind = "is a LevelDB" if os.path.isfile(os.path.join(path, "CURRENT")) else "holds no data.mdb"
        raise InvalidData(f"{path}: the folder {kind}; name the folder of an LMDB, which convert_imageset writes")


def _environment(library: Any, path: str) -> _Environment:
    data = os.path.join(path, "data.mdb")
    status = os.stat(data)
    identity = (status.st_dev, status.st_ino)
    environment = _OPEN.get(identity)
    if environment is None:
        if status.st_size <= CHECKED_NBYTES:
            _check_pages(path)
        # A folder that cannot be written has no place for the table of readers: as Caffe does, read without it.
        lock = os.access(path, os.W_OK)
        handle = library.open(path, readonly=True, create=False, lock=lock, max_readers=READERS)
        environment = _OPEN[identity] = _Environment(handle)
    return environment


def _check_pages(path: str) -> None:
    try:
        verification = importlib.import_module("lmdb.verify")
    except ImportError:  # before lmdb 3
        return
    try:
        problems = verification.verify(path)
    except (OSError, verification.VerifyError) as exc:
        raise _unreadable(path, exc) from exc
    for problem in problems:
        if problem.startswith("main"):  # mistakes in the list of free pages do no harm to a reader
            raise _unreadable(path, problem)


def _check_size(path: str, handle: Any) -> None:
    """The engine maps the file and would end the process at a page beyond its end."""
    nbytes = os.path.getsize(os.path.join(path, "data.mdb"))
    needed = (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
    if nbytes < needed:
        raise _unreadable(path, f"data.mdb has {nbytes} bytes of {needed}: it is truncated")


def _unreadable(path: str, reason: object) -> InvalidData:
    if "already open in this process" in str(reason):
        return InvalidData(f"{path}: the program itself has this LMDB open; close it before a net reads it")
    return InvalidData(f"{path}: the LMDB cannot be read: {reason}; copy it again, or write it anew")
