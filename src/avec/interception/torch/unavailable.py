"""What of torch.cuda cannot be had from a destination: refused by name, with the reason and the way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches

_POINTERS = "the accelerator's memory is in another process, at the destination, and addresses of it mean nothing here"
_OWN_ALLOCATOR = f"{_POINTERS}; leave allocating to torch"
_HISTORY = "the destination's allocator keeps no history; torch.cuda.memory_stats() gives its figures"
_NCCL = (
    "accelerators of one session are one process's at the destination; use torch.nn.DataParallel or copies between"
    " devices"
)
_SENSORS = "the sensors of the destination's accelerators cannot be read from here; look at `nvidia-smi` there"
_HANDLES = f"{_POINTERS}; use torch's own operators"
_SOURCE = "CUDA source is not sent; write the function with torch's operators, or as a Triton kernel"
_FILES = "files of this machine are not read by the destination's GPU; load them with torch.load"
_WORKSPACE = "cuBLAS's workspace is the destination's; set CUBLAS_WORKSPACE_CONFIG before the first operator"
_TUNING = "operators are tuned by the destination's own settings (PYTORCH_TUNABLEOP_ENABLED in its environment)"

_REFUSED: dict[str, tuple[str, ...]] = {
    _OWN_ALLOCATOR: (
        "_cuda_customAllocator", "_cuda_changeCurrentAllocator", "_cuda_getAllocator", "_cuda_cudaHostAllocator",
        "_cuda_cudaCachingAllocator_raw_alloc", "_cuda_cudaCachingAllocator_raw_delete",
        "_cuda_getCheckpointState", "_cuda_setCheckpointPoolState",
    ),
    _HISTORY: (
        "_cuda_memorySnapshot", "_cuda_record_memory_history", "_cuda_record_memory_history_legacy",
        "_cuda_attach_out_of_memory_observer", "_cuda_allocationTraceback",
    ),
    _NCCL: (
        "_nccl_all_reduce", "_nccl_all_gather", "_nccl_reduce", "_nccl_broadcast", "_nccl_reduce_scatter",
        "_nccl_unique_id", "_nccl_init_rank",
    ),
    _HANDLES: ("_cuda_getCurrentBlasHandle", "_cuda_getCurrentSolverHandle"),
    _SOURCE: ("_cuda_jiterator_compile_and_launch_kernel",),
    _FILES: (
        "_gds_register_buffer", "_gds_deregister_buffer", "_gds_register_handle", "_gds_deregister_handle",
        "_gds_load_storage", "_gds_save_storage",
    ),
    _WORKSPACE: (
        "_cuda_getCublasWorkspaceSize", "_cuda_setCublasWorkspaceSize", "_cuda_resetCublasWorkspaceSize",
        "_cuda_getCublasLtWorkspaceSize", "_cuda_setCublasLtWorkspaceSize", "_cuda_resetCublasLtWorkspaceSize",
    ),
    _TUNING: (
        "_cuda_tunableop_enable", "_cuda_tunableop_tuning_enable", "_cuda_tunableop_set_filename",
        "_cuda_tunableop_read_file", "_cuda_record_untuned_enable", "_cuda_tunableop_set_max_tuning_duration",
        "_cuda_tunableop_set_max_tuning_iterations", "_cuda_tunableop_set_rotating_buffer_size",
        "_cuda_tunableop_set_numerical_check_tolerances",
    ),
}  # fmt: skip
# What a build for CUDA alone has: for one without, its absence says the same, and programs ask for it by hasattr.
_ONLY_IF_THERE = ("_nccl_all_reduce", "_nccl_all_gather", "_nccl_reduce", "_nccl_broadcast", "_nccl_reduce_scatter")


def refusing(name: str, reason: str) -> Callable[..., NoReturn]:
    """Make a function that refuses."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise UnsupportedOperation(f"{name}: {reason}")

    return refuse


def patch(patches: Patches) -> None:
    """Let torch refuse what it would look for on this machine."""
    for reason, names in _REFUSED.items():
        for name in names:
            if hasattr(torch._C, name) or name not in _ONLY_IF_THERE:
                patches.stand_in(torch._C, {name: refusing(f"torch._C.{name}", reason)})
    patches.stand_in(torch.cuda, {
        "_get_pynvml_handler": refusing("torch.cuda", _SENSORS),
        "_get_amdsmi_handler": refusing("torch.cuda", _SENSORS),
        "_compile_kernel": refusing("torch.cuda._compile_kernel", _SOURCE),
        "list_gpu_processes": refusing("torch.cuda.list_gpu_processes", _SENSORS),
        **{
            name: refusing(f"torch.cuda.{name}", _SENSORS)
            for name in ("utilization", "memory_usage", "temperature", "power_draw", "clock_rate")
        },
    })  # fmt: skip
    patches.stand_in(torch.cuda.memory, {"list_gpu_processes": refusing("torch.cuda.list_gpu_processes", _SENSORS)})
    patches.stand_in(torch._C, {
        "_cuda_tunableop_is_enabled": lambda: False,
        "_cuda_tunableop_tuning_is_enabled": lambda: False,
        "_cuda_record_untuned_is_enabled": lambda: False,
    })  # fmt: skip
