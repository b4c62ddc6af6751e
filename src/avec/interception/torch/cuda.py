"""The `torch.cuda` surface: what a program asks about its GPUs is answered for the destination's accelerators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from avec.protocol.torch import Synchronize

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .grafting import Graft
    from .recording import Recording


def patch(patches: Patches, recording: Recording, graft: Graft) -> None:
    def device_count() -> int:
        return len(recording.destination.devices)

    def current_device() -> int:
        return graft.current_device

    def synchronize(device: object = None) -> None:
        recording.ask(Synchronize(0))

    for name, function in {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": device_count,
        "current_device": current_device,
        "is_initialized": lambda: recording.opened,
        "_is_compiled": lambda: True,
        "synchronize": synchronize,
    }.items():
        patches.replace(torch.cuda, name, lambda original, function=function: function)
    for name, value in {
        "_cuda_getCurrentRawStream": lambda device: 0,
        "_cuda_getDevice": current_device,
        "_cuda_getDeviceCount": device_count,
        "_cuda_isInBadFork": lambda: recording.inherited,
    }.items():
        patches.replace(torch._C, name, lambda original, value=value: value)
