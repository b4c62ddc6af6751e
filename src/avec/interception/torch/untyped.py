"""torch's storage objects on an accelerator: made, resized and shown as in a torch with CUDA.

torch.load, pickle, copy.deepcopy and others make storages before they make tensors on them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.storage import TypedStorage

from . import resizing
from .templates import device_index

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .kernels import Kernels


def patch(patches: Patches, kernels: Kernels) -> None:
    """Let torch.UntypedStorage, and what is made of it, live on accelerators."""
    storage = torch.UntypedStorage
    patches.replace(storage, "__new__", lambda original: staticmethod(_maker(kernels, original)))
    patches.replace(storage, "resize_", lambda original: _resizer(kernels, original))
    patches.replace(storage, "resizable", _resizable)
    patches.replace(storage, "copy_", lambda original: _copier(kernels, original))
    # torch asks for one element after the other.
    for kind, name in (
        (storage, "__iter__"), (storage, "tolist"), (storage, "__repr__"),
        (TypedStorage, "__iter__"), (TypedStorage, "__str__"),
    ):  # fmt: skip
        patches.replace(kind, name, _fetched)


def _maker(kernels: Kernels, original: Callable[..., torch.UntypedStorage]) -> Callable[..., torch.UntypedStorage]:
    def new(cls: type[torch.UntypedStorage], *args: Any, **kwargs: Any) -> torch.UntypedStorage:
        device = kwargs.get("device")
        if device is None or (device := torch.device(device)).type != "cuda" or kwargs.get("allocator") is not None:
            return original(cls, *args, **kwargs)
        nbytes = args[0] if args else kwargs.get("size", 0)
        if isinstance(nbytes, Sequence):
            on_host = original(cls, *args)
            return new(cls, on_host.nbytes(), device=device).copy_(on_host)
        return kernels.empty_bytes(int(nbytes), device_index(device)).untyped_storage()

    return new


def _resizer(kernels: Kernels, original: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(original)
    def resize_(self: torch.UntypedStorage, size: int) -> object:
        if not self.is_cuda:
            return original(self, size)
        resizing.resize(self, size, kernels.empty_bytes)
        return self

    return resize_


def _copier(kernels: Kernels, original: Callable[..., object]) -> Callable[..., object]:
    """torch.load makes storages on the host, and copies them to where they are wanted."""

    @functools.wraps(original)
    def copy_(self: torch.UntypedStorage, source: torch.UntypedStorage, non_blocking: bool | None = None) -> object:
        if not self.is_cuda or source.is_cuda:
            return original(self, source, non_blocking)
        with kernels.uploads.loading():
            return original(self, source, non_blocking)

    return copy_


def _resizable(original: Callable[[torch.UntypedStorage], bool]) -> Callable[[torch.UntypedStorage], bool]:
    return lambda self: self.is_cuda or original(self)


def _fetched(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Have a method look at a copy on the host."""

    @functools.wraps(original)
    def method(self: Any) -> Any:
        found = original(self.cpu() if self.device.type == "cuda" else self)
        if isinstance(found, str):  # says where it is
            return found.replace("device=cpu", f"device={self.device}")
        return found

    return method
