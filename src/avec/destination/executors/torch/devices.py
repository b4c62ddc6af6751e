"""The accelerators that a session sees: what they are, when they are done, how much of their memory is in use.

A destination without GPU shows its CPU, once, or several times as AVEC_CPU_ACCELERATORS says.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from avec.destination.accelerators import Accelerator
from avec.errors import AcceleratorOutOfMemory, InvalidArgument, RemoteError
from avec.protocol.torch import HOST, Device, Memory, Opened

CPU_CYCLES_PER_S = 10**9
SLEEP_CYCLES_LIMIT = 60 * CPU_CYCLES_PER_S


@dataclass(slots=True)
class Account:
    """Bytes of one accelerator that the session's storages hold."""

    current: int = 0
    peak: int = 0
    total: int = 0  # since the beginning
    blocks: int = 0
    blocks_peak: int = 0
    blocks_total: int = 0
    failures: int = 0
    limit: float = math.inf  # where no allocator holds the session to it

    def exceeded(self, nbytes: int) -> AcceleratorOutOfMemory:
        """The error of a storage that goes beyond the limit."""
        return AcceleratorOutOfMemory(
            f"tried to allocate {nbytes} bytes; {self.current} of the {self.limit:.0f} bytes that this session may "
            "have are in use"
        )

    def add(self, nbytes: int) -> None:
        """Note a new storage."""
        self.total += nbytes
        self.current += nbytes
        if self.current > self.peak:
            self.peak = self.current
        self.blocks_total += 1
        self.blocks += 1
        if self.blocks > self.blocks_peak:
            self.blocks_peak = self.blocks

    def remove(self, nbytes: int) -> None:
        """Note a storage that was freed."""
        self.current -= nbytes
        self.blocks -= 1

    def reset_peak(self) -> None:
        """Begin to look for the peak anew."""
        self.peak, self.blocks_peak = self.current, self.blocks

    def statistics(self) -> dict[str, int]:
        """As torch.cuda.memory_stats names them, where there is no such allocator."""
        nbytes = (self.current, self.peak, self.total, self.total - self.current)
        blocks = (self.blocks, self.blocks_peak, self.blocks_total, self.blocks_total - self.blocks)
        statistics = {"num_ooms": self.failures, "num_alloc_retries": 0, "num_device_alloc": 0, "num_device_free": 0}
        names = dict.fromkeys(("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes"), nbytes)
        names |= dict.fromkeys(("allocation", "active", "segment"), blocks)
        for name, figures in names.items():
            for part, figure in zip(("current", "peak", "allocated", "freed"), figures, strict=True):
                statistics[f"{name}.all.{part}"] = figure
        return statistics


class Devices:
    """The accelerators by their numbers."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.cuda = accelerator.device.type == "cuda"
        count = torch.cuda.device_count() if self.cuda else accelerator.cpu_accelerators
        self._devices = [torch.device("cuda", index) if self.cuda else torch.device("cpu") for index in range(count)]
        self._cpu = accelerator.info
        self._host = torch.device("cpu")
        self._accounts = {index: Account() for index in (HOST, *range(count))}
        self._accelerator = accelerator
        if not self.cuda and accelerator.limit_nbytes is not None:
            for index in range(count):
                self._accounts[index].limit = accelerator.limit_nbytes

    def __len__(self) -> int:
        return len(self._devices)

    def check(self, index: int) -> None:
        """Raise InvalidArgument unless there is such an accelerator."""
        if not 0 <= index < len(self._devices):
            raise InvalidArgument(f"there is no accelerator {index}: they are numbered 0 to {len(self._devices) - 1}")

    def device(self, index: int) -> torch.device:
        """An accelerator as torch names it; or this machine's host memory."""
        if index == HOST:
            return self._host
        self.check(index)
        self._accelerator.use(index)
        return self._devices[index]

    def limit_fraction(self, index: int, fraction: float) -> None:
        """Bound what the session takes of an accelerator to a fraction of what it may have."""
        if self.cuda:
            self.check(index)
            self._accelerator.use(index)
            self._accelerator.limit_memory(index, fraction)

    def left(self, index: int) -> float:
        """How many more bytes of a GPU the session may have."""
        limit = self._accelerator.limit_nbytes
        if limit is None or not self.cuda:
            return math.inf
        return limit - torch.cuda.memory_allocated(index)

    def account(self, index: int) -> Account:
        """The account of an accelerator, or of the session's part of host memory."""
        return self._accounts[index]

    def synchronize(self, index: int) -> None:
        """Wait until an accelerator has done all that was asked of it."""
        self.check(index)
        if self.cuda:
            torch.cuda.synchronize(self._devices[index])

    def aside(self) -> AbstractContextManager[None]:
        """For what takes long and does not use the accelerators: others may use them meanwhile."""
        return self._accelerator.turns.aside()

    def sleep(self, cycles: int, index: int) -> None:
        """Keep an accelerator busy for some of its clock's cycles; a CPU is taken to have 10⁹ a second."""
        self.check(index)
        if cycles > SLEEP_CYCLES_LIMIT:
            raise InvalidArgument(f"sleeping for {cycles} cycles; the limit is {SLEEP_CYCLES_LIMIT}")
        if self.cuda:
            with torch.cuda.device(self._devices[index]):
                torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
        else:
            time.sleep(cycles / CPU_CYCLES_PER_S)

    def memory(self, index: int, reset_peak: bool, empty_cache: bool) -> Memory:
        """An accelerator's memory; then reset what is asked for."""
        self.check(index)
        account = self._accounts[index]
        if self.cuda:
            if empty_cache:
                torch.cuda.empty_cache()
            memory = _cuda_memory(self._devices[index], self._accelerator.limit_nbytes)
            if reset_peak:
                torch.cuda.reset_peak_memory_stats(self._devices[index])
        else:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
            free = min(free, max(0, self._cpu.memory_nbytes - account.current))
            memory = Memory(free, self._cpu.memory_nbytes, account.statistics())
        if reset_peak:
            account.reset_peak()
        return memory

    def describe(self) -> Opened:
        """What a host has to know of them."""
        if not self.cuda:
            cpu = Device("cpu", self._cpu.name, self._cpu.memory_nbytes, 0, 0, os.cpu_count() or 1)
            return Opened(str(torch.__version__), (cpu,) * len(self._devices))
        has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
        nccl = torch.cuda.nccl.version() if has_nccl else ()  # type: ignore[no-untyped-call]
        # torch looks at the accelerator when it first chooses a kernel of attention, and prefers others from then on.
        asked = torch.empty(1, 1, 1, 64, dtype=torch.float16, device=self._devices[0])
        torch._fused_sdp_choice(asked, asked, asked)
        return Opened(
            version=str(torch.__version__),
            devices=tuple(_describe_gpu(device, self._accelerator.limit_nbytes) for device in self._devices),
            cuda=torch.version.cuda or "",
            cudnn=torch.backends.cudnn.version() or 0,  # type: ignore[no-untyped-call]
            architectures=tuple(torch.cuda.get_arch_list()),
            nccl=nccl if isinstance(nccl, tuple) else (nccl,),
            sdp_order=tuple(torch._C._get_sdp_priority_order()),
        )


def _cuda_memory(device: torch.device, limit_nbytes: int | None) -> Memory:
    try:
        free, total = torch.cuda.mem_get_info(device)
        statistics = torch.cuda.memory_stats(device)
    except RuntimeError as exc:
        raise RemoteError(f"asking {device} for its memory: {exc}") from exc
    if limit_nbytes is not None:
        total = min(total, limit_nbytes)
        free = max(0, min(free, total - torch.cuda.memory_reserved(device)))
    return Memory(free, total, {name: int(figure) for name, figure in statistics.items()})


def _describe_gpu(device: torch.device, limit_nbytes: int | None) -> Device:
    found = torch.cuda.get_device_properties(device)
    own = ("name", "total_memory", "major", "minor", "multi_processor_count")
    others: dict[str, int | str] = {}
    for name in dir(found):
        value = getattr(found, name)
        if name.startswith("_") or name in own or callable(value):
            continue
        others[name] = value if isinstance(value, int | str) else str(value)
    return Device(
        kind="cuda",
        name=found.name,
        total_memory=min(found.total_memory, limit_nbytes or found.total_memory),
        major=found.major,
        minor=found.minor,
        multi_processor_count=found.multi_processor_count,
        properties=others,
    )
