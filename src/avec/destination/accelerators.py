"""The accelerator that a worker owns: its device, its numeric mode, page-locked host memory beside it."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from avec.destination.sharing.turns import Alone, Turns
from avec.modelcache import ModelCache
from avec.protocol.messages import AcceleratorInfo
from avec.tensor import Array

_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # as seen within a container. Source: cgroups(7), version 2

WORKSPACE_PART = 4  # of what a session may have, a convolution's scratch memory is at most this part
# What a worker may have beside its session's part of a CPU's memory: messages on their way, and its threads' stacks.
MESSAGES_NBYTES = 1 << 30
THREADS_NBYTES = 16 << 20  # for each core

Numerics = Literal["strict", "fast"]


class Accelerator:
    """One accelerator with its context in this process. Made once in a worker, never in the zygote."""

    def __init__(
        self,
        numerics: Numerics,
        cudnn_workspace_mb: int,
        cpu_accelerators: int = 1,
        limit_nbytes: int | None = None,
    ) -> None:
        """Take the first CUDA device, or the CPU where there is none, and set the process's numeric mode.

        Args:
            numerics: "strict" computes float32 as IEEE float32; "fast" allows TF32, wrong by up to 3e-3.
            cudnn_workspace_mb: MiB of scratch memory that cuDNN may take for one convolution.
            cpu_accelerators: how often a CPU in place of a GPU is shown to programs that count accelerators.
            limit_nbytes: how much of the accelerator's memory this process may have.
        """
        self.numerics = numerics
        self.limit_nbytes = limit_nbytes
        self.replay_nbytes: Callable[[], float] = lambda: math.inf  # for graphs of operators that repeat, at most
        if limit_nbytes is not None:
            cudnn_workspace_mb = min(cudnn_workspace_mb, max(1, limit_nbytes // WORKSPACE_PART >> 20))
        self.cpu_accelerators = cpu_accelerators
        # cuDNN reads it when it is loaded. Source: PyTorch's notes on CUDA environment variables.
        os.environ.setdefault("CUDNN_CONV_WSCAP_DBG", str(cudnn_workspace_mb))
        self.device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self.turns: Turns | Alone = Alone()  # of this process, where it shares the accelerator
        self.models: ModelCache | None = None  # where processes that share a CPU map weights from
        self._issued: torch.cuda.Event | None = None
        self._used = {0}  # GPUs, by their numbers
        _allow_tf32(numerics == "fast")
        self.info = self._describe()
        if limit_nbytes is not None:
            if self.device.type == "cuda":
                self.limit_memory(0)
            else:
                _limit_own_memory(limit_nbytes)
            self.info = AcceleratorInfo(self.info.kind, self.info.name, min(limit_nbytes, self.info.memory_nbytes))

    def warm_up(self) -> None:
        """Make the context and load the convolution library, so that no first call pays for it."""
        if self.device.type == "cuda":
            image = torch.zeros(1, 8, 8, 8, device=self.device)
            torch.nn.functional.conv2d(image, image)
            self.synchronize()

    def use(self, index: int) -> None:
        """Take note that this process uses another GPU too."""
        if self.device.type == "cuda" and index not in self._used:
            self._used.add(index)
            self.limit_memory(index)

    def limit_memory(self, index: int, part: float = 1.0) -> None:
        """Hold this process to its limit on a GPU, or to a part of that."""
        if self.limit_nbytes is not None:
            total = torch.cuda.get_device_properties(index).total_memory
            torch.cuda.set_per_process_memory_fraction(part * min(1.0, self.limit_nbytes / total), index)

    def synchronize(self) -> None:
        """Wait until the accelerator, and any other here that this process uses, has done all that was asked of it."""
        if self.device.type == "cuda":
            for index in self._used:
                torch.cuda.synchronize(index)

    def pace(self) -> None:
        """Wait until it has done what had been asked when this was called before; so little more is issued ahead."""
        if self.device.type == "cuda":
            before, self._issued = self._issued, torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._issued.record()
            if before is not None:
                before.synchronize()

    def memory_nbytes(self) -> int:
        """How much of its memory this process holds: of a GPU what torch has taken, beside a CPU what is its own."""
        if self.device.type == "cuda":
            return sum(torch.cuda.memory_reserved(index) for index in self._used)
        resident, shared = Path("/proc/self/statm").read_text("ascii").split()[1:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    def host_buffer(self, nbytes: int) -> Array:
        """Allocate uint8 host memory; page-locked beside a GPU, where it copies five times as fast.

        Raises:
            MemoryError: there is none.
        """
        if self.device.type != "cuda":
            return np.empty(nbytes, np.uint8)
        try:
            pinned: Array = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
        except RuntimeError as exc:
            if "out of memory" not in str(exc):
                raise
            raise MemoryError(f"{nbytes} bytes of page-locked memory: {str(exc).partition(chr(10))[0]}") from exc
        return pinned

    @property
    def messages_nbytes(self) -> int:
        """How much memory of this machine a session's messages may hold: a call as large as all that it may have."""
        return self.info.memory_nbytes + MESSAGES_NBYTES

    def _describe(self) -> AcceleratorInfo:
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            return AcceleratorInfo("cuda", properties.name, properties.total_memory)
        return AcceleratorInfo("cpu", _cpu_name(), _memory_nbytes())


def _allow_tf32(allowed: bool) -> None:
    """Say for this process whether float32 may be rounded to TF32; torch allows it for convolutions by default."""
    if hasattr(torch.backends.cudnn, "conv"):  # torch 2.9 and later, where the older names warn
        for operators in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
            operators.fp32_precision = "tf32" if allowed else "ieee"  # type: ignore[union-attr]
    else:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def _limit_own_memory(nbytes: int) -> None:
    """Have the kernel hold this process to its part of the machine's memory. Source: getrlimit(2), RLIMIT_DATA."""
    (before,) = re.findall(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    threads_nbytes = THREADS_NBYTES * (os.cpu_count() or 1)
    limit = int(before) * 1024 + nbytes + MESSAGES_NBYTES + threads_nbytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _memory_nbytes() -> int:
    """This machine's memory, or what of it this process may have: as a container, or under a limit."""
    nbytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        nbytes = min(nbytes, limit)
    with contextlib.suppress(OSError, ValueError):  # not Linux, no control group, or "max"
        nbytes = min(nbytes, int(_GROUP_LIMIT.read_text("ascii")))
    return nbytes


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    except OSError:  # not Linux
        pass
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
