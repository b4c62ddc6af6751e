"""The `torch.cuda` surface: what a program asks about its GPUs is answered for the destination's accelerators.

torch's own Python code stays. What it would ask torch._C for, which a build without CUDA lacks and a build with CUDA
would look for on this machine, is put there: each module of the list below answers for one part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from . import collectives, devices, flags, graphs, memory, peers, ranges, runtime, streams, tensor_types, unavailable

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .grafting import Graft
    from .recording import Recording


def patch(patches: Patches, recording: Recording, graft: Graft) -> None:
    """Let torch.cuda speak for the destination."""
    accelerators = devices.Devices(recording, graft)
    if not torch._C._has_cuda:
        tensor_types.patch(patches)
    devices.patch(patches, recording, graft, accelerators)
    runtime.patch(patches, recording)
    streams.patch(patches, recording, accelerators)
    memory.patch(patches, recording, accelerators)
    graphs.patch(patches, recording)
    flags.patch(patches, recording)
    peers.patch(patches)
    collectives.patch(patches)
    ranges.patch(patches)
    unavailable.patch(patches)
    _patch_cudnn(patches, accelerators)


def _patch_cudnn(patches: Patches, accelerators: devices.Devices) -> None:
    cudnn: Any = torch.backends.cudnn

    def init() -> bool:
        return accelerators.visible > 0 and accelerators.opened.cudnn > 0

    patches.stand_in(torch._C, {"_is_flash_attention_available": lambda: bool(accelerators.opened.cuda)})
    patches.stand_in(cudnn.m, {
        "_init": init,
        "is_available": init,
        "version": lambda: accelerators.opened.cudnn if init() else None,
    })  # fmt: skip

    def is_acceptable(original: Callable[[torch.Tensor], bool]) -> Callable[[torch.Tensor], bool]:
        @functools.wraps(original)
        def accepts(tensor: torch.Tensor) -> bool:
            # Where the accelerator is a CPU: torch would warn of a build without cuDNN.
            return not (tensor.is_cuda and not init()) and original(tensor)

        return accepts

    patches.replace(cudnn.m, "is_acceptable", is_acceptable)


def forget() -> None:
    """Have torch.cuda find out anew whether there are devices, when AVEC is taken away."""
    torch.cuda._initialized = False
    torch.cuda._cached_device_count = None
    torch.cuda.graph.default_capture_stream = None
