"""Storages by the addresses that the host gave them, and the tensors that are seen in them.

An address is only ever looked up; a tensor is made at one if it lies inside a live storage. Not here: what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avec.destination.executors.torch.devices import Account, Devices
from avec.errors import ExecutionError, InvalidArgument
from avec.protocol.torch import FIRST_ADDRESS, HOST, OFFSET_BITS, OFFSET_MASK, ORIGIN, TensorMeta

RANK_LIMIT = 64  # torch's own for most operators
NBYTES_LIMIT = 1 << OFFSET_BITS
NUMEL_LIMIT = 1 << 60  # repeated elements included; torch counts in 64 bits
VIEWS_LIMIT = 256  # kept for each storage: a cache that is written row by row would otherwise collect them without end


def named_dtype(name: str) -> torch.dtype:
    """The torch.dtype that torch writes so."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise InvalidArgument(f"there is no dtype {name!r} in the destination's torch {torch.__version__}")
    return dtype


class Layout:
    """A TensorMeta, checked, in torch's terms; and the live tensors that are just so, by address.

    Two equal metas are one Layout, so that an operator finds its argument by one look-up.
    """

    __slots__ = (
        "account",
        "device",
        "dtype",
        "index",
        "itemsize",
        "meta",
        "nbytes",
        "ordinal",
        "shape",
        "stride",
        "tensors",
    )

    def __init__(self, meta: TensorMeta, devices: Devices) -> None:
        self.meta = meta
        self.shape, self.stride, self.index = meta.shape, meta.stride, meta.device
        self.dtype = named_dtype(meta.dtype)
        self.itemsize = self.dtype.itemsize
        self.device = devices.device(meta.device)
        self.ordinal = -1 if self.device.index is None else self.device.index  # as Tensor.get_device says it
        self.account: Account = devices.account(meta.device)
        self.tensors: dict[int, Tensor] = {}
        _check_extent(meta, self.itemsize)
        self.nbytes = meta.span * self.itemsize


def _check_extent(meta: TensorMeta, itemsize: int) -> None:
    if len(meta.shape) != len(meta.stride) or len(meta.shape) > RANK_LIMIT:
        raise InvalidArgument(
            f"a tensor with {len(meta.shape)} sizes and {len(meta.stride)} strides; the limit is {RANK_LIMIT} of both"
        )
    if any(number < 0 for number in (*meta.shape, *meta.stride)):
        raise InvalidArgument(f"a tensor of shape {meta.shape} and stride {meta.stride}: none may be negative")
    if math.prod(size or 1 for size in meta.shape) > NUMEL_LIMIT or meta.span * itemsize > NBYTES_LIMIT:
        raise InvalidArgument(
            f"a tensor of shape {meta.shape} and stride {meta.stride}, {itemsize} bytes an element; "
            f"the limit is {NBYTES_LIMIT} bytes"
        )


@dataclass(slots=True, eq=False)
class Storage:
    """One live storage: the tensor that it was made for, and where its other views are kept."""

    tensor: Tensor
    layout: Layout
    pointer: int
    address: int = 0  # where it lives now; 0: it does not
    views: list[tuple[dict[int, Tensor], int]] | None = None

    def bytes(self) -> Tensor:
        """All its bytes, also those between the elements."""
        untyped = self.tensor.untyped_storage()
        return seen(untyped, torch.uint8, self.tensor.device, 0, (untyped.nbytes(),), (1,))


class Memory:
    """All storages of a session. Called by one thread."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._layouts: dict[TensorMeta, Layout] = {}
        self._storages: dict[int, Storage] = {}
        self._pointers: dict[int, Storage] = {}  # the live storages by where they begin, to see an alias by

    def __len__(self) -> int:
        return len(self._storages)

    def layout(self, meta: TensorMeta) -> Layout:
        """The one Layout of a meta.

        Raises:
            InvalidArgument: no tensor can be so.
        """
        layout = self._layouts.get(meta)
        if layout is None:
            layout = self._layouts[meta] = Layout(meta, self._devices)
        return layout

    def forget_layouts(self) -> None:
        """Drop the layouts without tensors: a program whose shapes always change collects them."""
        self._layouts = {meta: layout for meta, layout in self._layouts.items() if layout.tensors}

    def find(self, layout: Layout, address: int) -> Tensor:
        """The tensor at an address.

        Raises:
            InvalidArgument: no live storage is there, or the tensor reaches out of it.
        """
        tensor = layout.tensors.get(address)
        if tensor is not None:
            return tensor
        if not address:
            return self._without_memory(layout)
        storage = self._storages.get(address & ~OFFSET_MASK | ORIGIN)
        if storage is None:
            raise InvalidArgument(
                f"address {address:#x} names no live storage; it was freed, or the operator that makes it failed before"
            )
        view = _view(storage, layout, (address & OFFSET_MASK) - ORIGIN, address)
        if storage.views is None or len(storage.views) >= VIEWS_LIMIT:
            _forget_views(storage)
            storage.views = []
        storage.views.append((layout.tensors, address))
        layout.tensors[address] = view
        return view

    def keep(self, layout: Layout, address: int, tensor: object) -> None:
        """Bind a result to its address, laid out as the host predicted, in a storage of its own.

        Raises:
            ExecutionError: it has another shape or dtype than predicted, or is somewhere else.
            InvalidArgument: the address cannot be a new storage's.
        """
        if (
            not isinstance(tensor, Tensor)
            or tensor.shape != layout.shape
            or tensor.dtype is not layout.dtype
            or (tensor.get_device() != layout.ordinal and not _is_beside(layout, tensor))
        ):
            if tensor is None and not layout.nbytes:  # an undefined tensor, where meta kernels give an empty one
                return
            raise _mispredicted(layout, tensor)
        pointer = tensor.data_ptr()
        if (
            pointer in self._pointers
            or tensor.stride() != layout.stride
            or tensor.storage_offset()
            or tensor.is_neg()
            or tensor.is_conj()
        ):
            tensor = _laid_out(layout, tensor)
            pointer = tensor.data_ptr()
        if address in self._storages or not _begins_storage(address):
            if not address and not layout.nbytes:
                return
            raise InvalidArgument(
                f"{address:#x} was given to a result; it has to be the beginning of a storage, and not in use"
            )
        self.put(address, Storage(tensor, layout, pointer))

    def begin(self, address: int, storage: Storage) -> None:
        """Have a storage live at an address that the host names.

        Raises:
            InvalidArgument: the address cannot be a new storage's.
        """
        if address in self._storages or not _begins_storage(address):
            raise InvalidArgument(f"{address:#x} is not the beginning of a storage, or in use")
        self.put(address, storage)

    def put(self, address: int, storage: Storage) -> None:
        """Have a storage live at an address that is not in use.

        Raises:
            AcceleratorOutOfMemory: it would be more than the session may have.
        """
        account, nbytes = storage.layout.account, storage.layout.nbytes
        if account.current + nbytes > account.limit:
            raise account.exceeded(nbytes)
        self._storages[address] = storage
        storage.address = address
        storage.layout.tensors[address] = storage.tensor
        if storage.pointer:
            self._pointers[storage.pointer] = storage
        account.add(nbytes)

    def move(self, storage: Storage) -> None:
        """Have what lives in a storage live in another, with the same bytes, at the same address."""
        layout = storage.layout
        other = torch.empty_like(storage.bytes())
        other.copy_(storage.bytes())
        self._replace(
            storage, seen(other.untyped_storage(), layout.dtype, layout.device, 0, layout.shape, layout.stride)
        )

    def adopt(self, target: Tensor, source: Tensor) -> bool:
        """Have a tensor's storage be another's from now on, if that is like it, instead of copying; whether it is."""
        storage = self._pointers.get(target.data_ptr())
        if storage is None or storage.tensor is not target or storage.bytes().numel() != storage.layout.nbytes:
            return False
        if _looks(target) != _looks(source) or source.untyped_storage().nbytes() != storage.layout.nbytes:
            return False
        self._replace(storage, source)
        return True

    def _replace(self, storage: Storage, tensor: Tensor) -> None:
        address = storage.address
        self.free(address)
        self.put(address, Storage(tensor, storage.layout, tensor.data_ptr()))

    def storages(self) -> dict[int, Storage]:
        """What lives now, by address: to be looked at."""
        return self._storages

    def restore(self, before: dict[int, Storage]) -> None:
        """Have those storages live, and no others, that lived when a copy of `storages()` was taken."""
        for address, storage in list(self._storages.items()):
            if before.get(address) is not storage:
                self.free(address)
        for address, storage in before.items():
            if address not in self._storages:
                self.put(address, storage)

    def aliases(self, tensor: Tensor) -> bool:
        """Whether a result may share a live storage: only one from its storage's beginning is told apart."""
        return tensor.storage_offset() != 0 or tensor.data_ptr() in self._pointers

    def free(self, address: int) -> None:
        """Forget a storage; one that was never made, because its operator failed, is nothing to forget."""
        storage = self._storages.pop(address, None)
        if storage is None:
            return
        storage.address = 0
        layout = storage.layout
        layout.tensors.pop(address, None)
        if storage.views is not None:
            _forget_views(storage)
            storage.views = None  # a trace's storage lives again
        self._pointers.pop(storage.pointer, None)
        layout.account.remove(layout.nbytes)

    def close(self) -> None:
        """Free all."""
        for address in list(self._storages):
            self.free(address)
        self._layouts.clear()

    def _without_memory(self, layout: Layout) -> Tensor:
        if layout.nbytes:
            raise InvalidArgument(f"a tensor of shape {layout.shape} without an address; only empty ones have none")
        return torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device=layout.device)


def _looks(tensor: Tensor) -> tuple[object, ...]:
    return tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _begins_storage(address: int) -> bool:
    return address & OFFSET_MASK == ORIGIN and address > FIRST_ADDRESS


def _forget_views(storage: Storage) -> None:
    for tensors, address in storage.views or ():
        tensors.pop(address, None)


def _view(storage: Storage, layout: Layout, offset: int, address: int) -> Tensor:
    """See a storage's bytes from `offset` on as a tensor, checked in Python's integers before torch sees a number."""
    untyped = storage.tensor.untyped_storage()
    nbytes = untyped.nbytes()
    if offset < 0 or offset % layout.itemsize or offset + layout.nbytes > nbytes:
        raise InvalidArgument(
            f"address {address:#x}: a tensor of shape {layout.shape} and stride {layout.stride} of {layout.dtype} at "
            f"byte {offset} does not lie in its storage of {nbytes} bytes"
        )
    if layout.index != storage.layout.index:
        raise InvalidArgument(
            f"address {address:#x} is on accelerator {storage.layout.index}, the tensor there on {layout.index}"
        )
    return seen(untyped, layout.dtype, storage.tensor.device, offset // layout.itemsize, layout.shape, layout.stride)


def seen(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    device: torch.device,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """A tensor in a storage; `offset` counts its elements."""
    set_: Callable[..., Tensor] = torch.empty(0, dtype=dtype, device=device).set_
    return set_(storage, offset, shape, stride)


def _is_beside(layout: Layout, result: Tensor) -> bool:
    """Whether a result is a scalar that torch keeps in host memory beside a GPU, as it does attention's random seeds.

    The operator that takes it, the backward one, reads it there.
    """
    return not layout.shape and result.get_device() == HOST


def _laid_out(layout: Layout, tensor: Tensor) -> Tensor:
    """A copy in a storage of its own, with the strides that were predicted."""
    copy = torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device=layout.device)
    # Elements that share a place (stride 0) hold one value; copy_ refuses to write them twice.
    if layout.nbytes < layout.itemsize * layout.meta.numel:
        narrow = [slice(0, 1) if stride == 0 else slice(None) for stride in layout.stride]
        copy[tuple(narrow)].copy_(tensor[tuple(narrow)])
        return copy
    return copy.copy_(tensor)


def _mispredicted(layout: Layout, result: object) -> ExecutionError:
    predicted = f"{layout.meta.dtype} of shape {list(layout.shape)} on {layout.device}"
    if isinstance(result, Tensor):
        actual = f"{str(result.dtype).removeprefix('torch.')} of shape {list(result.shape)} on {result.device}"
    else:
        actual = "none" if result is None else f"a value of type {type(result).__name__}"
    return ExecutionError(
        f"the host predicted {predicted}, the destination's torch {torch.__version__} gave {actual}; "
        "if the versions of torch differ, use the same one on both"
    )
