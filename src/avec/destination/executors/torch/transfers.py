"""The ways of a tensor's bytes from the host's messages to an accelerator and back.

A GPU is reached over page-locked memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors.torch.storages import Layout, seen
from avec.errors import InvalidArgument, InvalidData
from avec.tensor import Array, bytes_view

# A payload up to this size is copied into page-locked memory of torch's, which torch keeps until the GPU has read it.
# Waiting for the GPU instead, as for larger ones, would let it run dry.
STAGED_NBYTES = 16 << 20
RESULT_NBYTES = 64 << 10  # of the memory that results are read into; it doubles
SMALL_RESULTS = 256  # kinds of results up to RESULT_NBYTES that have page-locked memory of their own


class Transfers:
    """Copies into and out of a session's tensors."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._cuda = accelerator.device.type == "cuda"
        self._result: Array = np.empty(0, np.uint8)
        self._small: dict[tuple[torch.dtype, torch.Size], tuple[Tensor, Array]] = {}
        self._unread: list[torch.cuda.Event] = []

    def source(self, layout: Layout, payload: Array) -> Tensor:
        """See a payload, the memory of a tensor of this layout from its first byte to its last, as that tensor."""
        if payload.nbytes != layout.nbytes:
            raise InvalidArgument(
                f"a payload of {payload.nbytes} bytes for a tensor of shape {layout.shape} and dtype {layout.dtype}, "
                f"which takes {layout.nbytes}"
            )
        return self._seen(layout, _borrow(payload))

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy a payload into a tensor as Tensor.copy_ does; `settle` says when the payload is no longer needed."""
        if not target.is_cuda:
            target.copy_(source)
            return
        if source.untyped_storage().nbytes() <= STAGED_NBYTES:
            target.copy_(self._staged(source), non_blocking=True)
            return
        target.copy_(source, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(target.device))
        self._unread.append(event)

    def made(self, layout: Layout, source: Tensor) -> Tensor:
        """A new tensor with a payload's contents."""
        if layout.nbytes == 0:
            return torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device=layout.device)
        flat = torch.empty(layout.nbytes, dtype=torch.uint8, device=layout.device)
        self.copy(flat, seen(source.untyped_storage(), torch.uint8, source.device, 0, (layout.nbytes,), (1,)))
        return seen(flat.untyped_storage(), layout.dtype, layout.device, 0, layout.shape, layout.stride)

    def file(self, layout: Layout, path: Path, first: int = 0) -> Tensor:
        """See a model file as a tensor of this layout, without reading it; what is written there is this process's own.

        Raises:
            InvalidData: the file has another size.
        """
        if path.stat().st_size != layout.nbytes:
            raise InvalidData(
                f"a file of {path.stat().st_size} bytes for a tensor of shape {layout.shape} and dtype {layout.dtype}, "
                f"which takes {layout.nbytes}"
            )
        if layout.nbytes == 0:
            return self._seen(layout, torch.empty(0, dtype=torch.uint8))
        return self._seen(layout, torch.from_file(str(path), shared=False, size=layout.nbytes, dtype=torch.uint8))

    def settle(self) -> None:
        """Wait until no payload is needed any more."""
        while self._unread:
            self._unread.pop().synchronize()

    def read(self, tensor: Tensor, conj: bool, neg: bool) -> Array:
        """A tensor's elements in C order; on a CPU they may be its own memory. Valid until the next read."""
        if self._cuda and not conj and not neg:
            pinned, memory = self._small.get((tensor.dtype, tensor.shape)) or self._make_small(tensor)
            if pinned is not None:
                pinned.copy_(tensor, non_blocking=True)
                torch.cuda.current_stream(tensor.device).synchronize()
                return memory
        tensor = tensor.conj() if conj else tensor
        tensor = torch._neg_view(tensor) if neg else tensor
        tensor = tensor.resolve_conj().resolve_neg().contiguous()
        nbytes = tensor.numel() * tensor.dtype.itemsize
        if nbytes == 0:
            return np.empty(0, np.uint8)
        first = int(tensor.storage_offset()) * tensor.dtype.itemsize
        flat = seen(tensor.untyped_storage(), torch.uint8, tensor.device, first, (nbytes,), (1,))
        if not flat.is_cuda:
            own: Array = flat.numpy()
            return own
        if self._result.nbytes < nbytes:
            self._result = self._accelerator.host_buffer(max(RESULT_NBYTES, 1 << (nbytes - 1).bit_length()))
        torch.from_numpy(self._result[:nbytes]).copy_(flat, non_blocking=True)
        torch.cuda.current_stream(flat.device).synchronize()
        return self._result[:nbytes]

    def _make_small(self, tensor: Tensor) -> tuple[Tensor | None, Array]:
        """Page-locked memory for results of a kind, where that is worth keeping."""
        nbytes = tensor.numel() * tensor.dtype.itemsize
        if not 0 < nbytes <= RESULT_NBYTES or len(self._small) >= SMALL_RESULTS or tensor.is_conj() or tensor.is_neg():
            return None, self._result
        memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        found = memory.view(tensor.dtype).view(tensor.shape), memory.numpy()
        self._small[tensor.dtype, tensor.shape] = found
        return found

    def close(self) -> None:
        """Free the memory that results were read into."""
        self._small.clear()
        self._result = np.empty(0, np.uint8)

    @staticmethod
    def _staged(source: Tensor) -> Tensor:
        storage = source.untyped_storage()
        pinned = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=True)
        pinned.copy_(seen(storage, torch.uint8, source.device, 0, (storage.nbytes(),), (1,)))
        offset = int(source.storage_offset())
        return seen(pinned.untyped_storage(), source.dtype, pinned.device, offset, source.shape, source.stride())

    @staticmethod
    def _seen(layout: Layout, flat: Tensor) -> Tensor:
        return seen(flat.untyped_storage(), layout.dtype, flat.device, 0, layout.shape, layout.stride)


def _borrow(payload: Array) -> Tensor:
    """See a payload's bytes as a tensor for the length of a copy from it; torch warns about read-only memory."""
    flat = np.frombuffer(bytes_view(payload), np.uint8) if payload.size else np.empty(0, np.uint8)
    if flat.flags.writeable:
        return torch.from_numpy(flat)
    return torch.from_numpy(flat.copy())
