"""What cannot be: another library or process that wants the memory of a tensor whose memory is at the destination.

Each is refused where it is asked for, by the exception that its protocol has for it, with the way round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.dlpack

from avec.errors import UnsupportedOperation

if TYPE_CHECKING:
    from avec.interception.patching import Patches

_CPU = 1  # DLPack's kDLCPU
_ELSEWHERE = "the memory of a CUDA tensor is at AVEC's destination, where no library or process of this machine reaches"


def patch(patches: Patches) -> None:
    """Guard the ways out of torch that hand over a CUDA tensor's memory."""
    tensor = torch.Tensor
    patches.replace(tensor, "__cuda_array_interface__", _array_interface)
    patches.replace(tensor, "__dlpack__", _exported)
    for module, name in ((torch, "to_dlpack"), (torch.utils.dlpack, "to_dlpack")):
        patches.replace(module, name, _exported)
    for module in (torch, torch.utils.dlpack):
        patches.replace(module, "from_dlpack", _imported)
    for name in ("_share_cuda_", "_new_shared_cuda"):
        patches.replace(torch.UntypedStorage, name, _shared)


def _array_interface(original: property) -> property:
    def interface(self: torch.Tensor) -> object:
        if self.is_cuda:
            raise AttributeError(f"__cuda_array_interface__: {_ELSEWHERE}; give a copy, tensor.cpu()")
        return original.__get__(self)

    return property(interface, doc=original.__doc__)


def _exported(original: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(original)
    def export(self: torch.Tensor, *args: Any, **kwargs: Any) -> object:
        if not self.is_cuda:
            return original(self, *args, **kwargs)
        device = kwargs.get("dl_device")
        if device is not None and device[0] == _CPU and kwargs.get("copy") is not False:
            return self.cpu().__dlpack__(max_version=kwargs.get("max_version"))
        raise BufferError(f"DLPack: {_ELSEWHERE}; give a copy, tensor.cpu()")

    return export


def _imported(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(original)
    def from_dlpack(ext_tensor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(ext_tensor, torch.Tensor) or not ext_tensor.is_cuda:
            return original(ext_tensor, *args, **kwargs)
        if ext_tensor.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        device, copy = kwargs.get("device") or ext_tensor.device, kwargs.get("copy")
        if copy is not False or torch.device(device).type == "cuda":
            return ext_tensor.detach().to(device, copy=bool(copy))
        raise ValueError(f"cannot move DLPack tensor to {device} without copying. Set copy=None or copy=True.")

    return from_dlpack


def _shared(original: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(original)
    def share(*args: object, **kwargs: object) -> object:
        raise UnsupportedOperation(
            f"a CUDA tensor for another process: {_ELSEWHERE}; send a copy, tensor.cpu(), and move it to the"
            " accelerator there"
        )

    return share
