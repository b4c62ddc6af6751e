"""torch.distributed with tensors on the destination: their values take the way over this host's memory, as gloo's do.

Each process has a session, and processes meet where torch.distributed lets them meet: on the hosts. Without this gloo
would take a tensor's address for memory of this process, and NCCL would look for GPUs in this machine.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

from avec.interception.patching import Patches

# Which argument a collective operator writes. Source: torch/csrc/distributed/c10d/Ops.cpp.
_WRITTEN: dict[str, str] = {
    "allreduce_": "tensors", "allreduce_coalesced_": "tensors", "broadcast_": "tensors", "reduce_": "tensors",
    "allgather_": "output_tensors", "_allgather_base_": "output_tensor", "allgather_coalesced_": "output_lists",
    "allgather_into_tensor_coalesced_": "outputs", "reduce_scatter_": "output_tensors",
    "_reduce_scatter_base_": "output_tensor", "reduce_scatter_tensor_coalesced_": "outputs",
    "gather_": "output_tensors", "scatter_": "output_tensors", "alltoall_": "output_tensors",
    "alltoall_base_": "output", "recv_": "tensors", "recv_any_source_": "tensors", "send": "", "barrier": "",
    "monitored_barrier_": "",
}  # fmt: skip


def register() -> list[torch.library.Library]:
    """Put these kernels under torch.distributed; nothing where torch was built without it."""
    if not torch.distributed.is_available():
        return []
    library = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]
    assert library.m is not None  # for mypy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these kernels take the place of others
        for name in _WRITTEN:
            packet = getattr(torch.ops.c10d, name, None)
            if packet is not None:
                library.m.impl(name, "CUDA", functools.partial(_collective, packet.default), False)
    return [library]


def patch(patches: Patches) -> None:
    """Let groups of NCCL's be gloo's, and DistributedDataParallel not time itself by CUDA events."""
    if not torch.distributed.is_available():
        return
    from torch.distributed import device_mesh, distributed_c10d

    for name in ("init_process_group", "new_group"):
        over_hosts = _over_hosts(getattr(distributed_c10d, name))
        for module in (distributed_c10d, torch.distributed, device_mesh):
            if hasattr(module, name):
                patches.replace(module, name, lambda original, over_hosts=over_hosts: over_hosts)
    patches.replace(torch.distributed, "Logger", _untimed)


def _over_hosts(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which makes a group of gloo's where NCCL's was asked for or torch would choose it."""
    signature = inspect.signature(original)
    chooses = original.__name__ == "init_process_group"  # other groups have the backend of the first by default

    @functools.wraps(original)
    def make_group(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if chooses and given.get("backend") is None:
            given["backend"] = "gloo"
            given.pop("device_id", None)  # NCCL's
        if "nccl" in str(given.get("backend")).lower():
            warnings.warn(
                "a process group of NCCL's: the processes' accelerators are at AVEC's destinations, so gloo exchanges"
                " the values between the hosts",
                stacklevel=2,
            )
            given["backend"] = re.sub("(?i)nccl", "gloo", given["backend"])
            for name in ("device_id", "pg_options"):  # NCCL's
                given.pop(name, None)
        return original(**given)

    return make_group


def _untimed(original: Any) -> type:
    class Logger(original):  # type: ignore[misc]
        def set_runtime_stats_and_log(self) -> None:
            """Do nothing: the times of the destination's work are not known on this host."""

    Logger.__module__ = original.__module__
    return Logger


@torch.no_grad()
def _collective(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Carry out a collective operator with copies in host memory, and copy back what it has written."""
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    names = [each.name for each in operator._schema.arguments]
    written = _WRITTEN[operator._schema.name.removeprefix("c10d::")]
    staged = [
        _mapped(value, functools.partial(_staged, copies, name == written))
        for name, value in zip(names, args, strict=False)
    ]
    result = operator(*staged, **kwargs)
    work = torch.distributed.Work.unbox(result[-1] if isinstance(result, tuple | list) else result)
    work.wait()
    for tensor, copy in copies:
        tensor.copy_(copy)
    done = _done([tensor for tensor, _ in copies])
    if not isinstance(result, tuple | list):
        return done
    return (*(args[names.index(written)] for _ in result[:-1]), done)


def _staged(copies: list[tuple[torch.Tensor, torch.Tensor]], is_written: bool, tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.cpu()
    if is_written:
        copies.append((tensor, copy))
    return copy


def _mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same with all tensors on accelerators replaced."""
    if isinstance(value, torch.Tensor):
        return function(value) if value.is_cuda else value
    return [_mapped(each, function) for each in value] if isinstance(value, list | tuple) else value


def _done(tensors: list[torch.Tensor]) -> Any:
    """A Work that is done, with these tensors as its result."""
    from torch._C._distributed_c10d import _create_work_from_future  # type: ignore[attr-defined]

    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    future: torch.futures.Future[list[torch.Tensor]] = torch.futures.Future(devices=sorted(devices, key=str))
    future.set_result(tensors)
    return _create_work_from_future(future).boxed()
