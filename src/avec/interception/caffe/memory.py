"""The host's memory of a net's arrays, and whether the application may be reading or writing it right now.

As in Caffe the memory is flat: an array of another shape begins at the same place while it fits. Not here: moving
contents between host and destination (`remote`).
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.protocol.caffe import BlobRef, Progress
from avec.tensor import bytes_view

if TYPE_CHECKING:
    from avec.host.calls import Call

Floats: TypeAlias = npt.NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]


class Lease:
    """What every view of one piece of memory keeps alive: while it lives, the application can read and write there.

    numpy makes an object that it sees through `__array_interface__` the base of the array, and of all views of it.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_values")

    def __init__(self, values: Floats) -> None:
        self._values = values
        self.__array_interface__ = values.__array_interface__


class Memory:
    """The contents of one array on the host. Blobs that share memory at the destination share it here."""

    __slots__ = (
        "_capacity", "_lease", "_values", "changed", "coming", "digest", "looked_at", "origin", "stale", "touched",
        "upload",
    )  # fmt: skip

    def __init__(self, origin: BlobRef, shape: Shape, stale: bool) -> None:
        self._capacity = math.prod(shape)
        self._values: Floats = np.zeros(0, np.float32)  # nothing is allocated before it is needed
        self._lease: Callable[[], Lease | None] = _no_lease
        self.origin = origin  # the array at the destination that holds the newest contents
        self.changed = False  # a layer has written it at the destination
        self.stale = stale  # the destination's contents are newer
        self.touched = False  # the application had a view since the contents were last sent
        self.looked_at = False  # a view was handed out since a layer has written it
        self.coming: Issued | None = None  # the request under way that brings the newest contents
        self.upload: Call | None = None  # the last call that sends from here
        self.digest = b""  # of a parameter as the destination has it

    @property
    def held(self) -> bool:
        """Whether the application holds a view."""
        return self._lease() is not None

    def fit(self, shape: Shape) -> None:
        """Make room for a shape. Memory that is too small is replaced by zeros; old views keep the old memory.

        Source: Blob::Reshape in caffe/src/caffe/blob.cpp.
        """
        count = math.prod(shape)
        if count > self._capacity:
            self._capacity = count
            self._replace(np.zeros(0, np.float32))

    def view(self, shape: Shape) -> Floats:
        """Hand out a view to the application."""
        values = self.values(shape)
        lease = self._lease()
        if lease is None:
            lease = Lease(self._values)
            self._lease = weakref.ref(lease)
        return np.asarray(lease)[: values.size].reshape(shape)

    def values(self, shape: Shape) -> Floats:
        """The memory as it is, for sending and receiving."""
        self.fit(shape)
        if self._values.size < self._capacity:
            self._replace(np.zeros(self._capacity, np.float32))
        return self._values[: math.prod(shape)].reshape(shape)

    def take_over(self, received: Floats) -> None:
        """Make received values the contents; views that the application holds show them."""
        if np.may_share_memory(received, self._values):
            return
        if received.size < self._capacity or self.held:
            self.values(received.shape)[...] = received
        else:
            self._capacity = received.size
            self._replace(received.reshape(-1))

    def give(self, contents: Floats) -> None:
        """Make values of the host's the contents, without copying them; nobody holds a view."""
        values = np.ascontiguousarray(contents, np.float32).reshape(-1)
        self._capacity = values.size
        self._replace(values)
        self.stale, self.touched, self.coming, self.upload = False, True, None, None

    def _replace(self, values: Floats) -> None:
        self._values = values
        self._lease = _no_lease

    def new_digest(self) -> bytes:
        """Digest of the contents as they are now."""
        return hashlib.sha256(bytes_view(self._values)).digest()


def _no_lease() -> None:
    return None


@dataclass(slots=True, eq=False)
class NetArray:
    """One array of a net as its layers see it: where it is at the destination, its shape, its memory on the host."""

    ref: BlobRef
    shape: Shape
    memory: Memory
    given: bool = False  # no layer produces it: contents and shape come from the application alone
    diff: NetArray | None = None  # its gradient, which has the same shape; a diff has none

    def resize(self, shape: Shape) -> None:
        """Take another shape, and the diff with it."""
        self.shape = shape
        self.memory.fit(shape)
        if self.diff is not None:
            self.diff.resize(shape)


@dataclass(slots=True, eq=False)
class Issued:
    """A request under way: what it sent and what it brings."""

    call: Call
    sent: Sequence[NetArray]
    wanted: Sequence[NetArray]
    on_solver: bool = False  # its answer is a Progress
    progress: Progress | None = None  # what was answered
    extra: Sequence[Floats] = ()  # what came besides what was wanted
