"""Lets torch.save wait once, not once for each storage: what it is going to write is read while it writes.

torch names every storage when it pickles, and fetches them one after the other when that is done.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.serialization

from avec.protocol.torch import Read, TensorMeta

from .uploads import host_bytes

if TYPE_CHECKING:
    from avec.host.calls import Call
    from avec.interception.patching import Patches

    from .kernels import Kernels

READING = 32  # storages that are read before they are asked for
READING_NBYTES = 64 << 20  # and their bytes; a larger one is read alone


class _Saving:
    """One torch.save: the storages that it will ask for, in order, and those that are being read."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._named: dict[int, torch.UntypedStorage] = {}  # by the address of torch's C++ object
        self._reading: dict[int, tuple[torch.Tensor, Call]] = {}
        self._reading_nbytes = 0

    def name(self, storage: torch.UntypedStorage) -> None:
        """Take note of a storage that will be asked for."""
        if storage.device.type == "cuda" and storage.nbytes():
            self._named[storage._cdata] = storage

    def take(self, storage: torch.UntypedStorage) -> torch.UntypedStorage | None:
        """A copy on the host of a storage; None for one that was not named."""
        key: int = storage._cdata
        if key in self._named:
            self._read_on()
        if key not in self._reading:  # not named, or asked for out of turn
            return None
        copy, call = self._reading.pop(key)
        self._reading_nbytes -= copy.nbytes
        self._read_on()
        self._kernels.recording.wait(call)
        return copy.untyped_storage()

    def _read_on(self) -> None:
        self._kernels.uploads.close()
        for key, storage in [*self._named.items()]:
            nbytes = storage.nbytes()
            full = len(self._reading) >= READING or self._reading_nbytes + nbytes > READING_NBYTES
            if self._reading and full:
                return
            del self._named[key]
            copy = torch.empty(nbytes, dtype=torch.uint8)
            meta = TensorMeta("uint8", (nbytes,), (1,), storage.device.index)
            call = self._kernels.recording.read_later(Read(storage.data_ptr(), meta), host_bytes(copy))
            self._reading[key] = copy, call
            self._reading_nbytes += nbytes


class _Current(threading.local):
    saving: _Saving | None = None


def patch(patches: Patches, kernels: Kernels) -> None:
    """Look at what torch.save pickles."""
    current = _Current()

    def save(original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def _save(*args: object, **kwargs: object) -> None:
            before, current.saving = current.saving, _Saving(kernels)
            try:
                original(*args, **kwargs)
            finally:
                current.saving = before

        return _save

    def tag(original: Callable[[torch.UntypedStorage], str]) -> Callable[[torch.UntypedStorage], str]:
        @functools.wraps(original)
        def location_tag(storage: torch.UntypedStorage) -> str:
            if current.saving is not None:
                current.saving.name(storage)
            return original(storage)

        return location_tag

    def fetched(original: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> Callable[..., object]:
        @functools.wraps(original)
        def cpu(self: torch.UntypedStorage) -> torch.UntypedStorage:
            found = None if current.saving is None else current.saving.take(self)
            return original(self) if found is None else found

        return cpu

    patches.replace(torch.serialization, "_save", save)
    patches.replace(torch.serialization, "location_tag", tag)
    patches.replace(torch.UntypedStorage, "cpu", fetched)
